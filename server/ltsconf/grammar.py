"""The grammar: sections of `string = string`, and includes. Tokens in, a Document out.

    file     (section | include)*
    section  `[` string `]` (string `=` string)+
    include  a line `include path`, where a section could begin

The actions happen at once, as in the original: a section exists when its `]`
is read, a value when its last token is read. So what stands before a syntax
error counts, and an empty section before an error counts as a section too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from server.ltsconf.problem import Finding, Outcome, Problem, Source
from server.ltsconf.scan import (
    CrashError,
    Included,
    Input,
    Kind,
    ReadInclude,
    Scanner,
    Token,
    TooManyProblemsError,
)


class Entry(NamedTuple):
    """One line `key = value`; the key as written, offsets in the document's buffer."""

    key: bytes
    value: bytes
    offset: int
    value_offset: int
    quoted: bool


@dataclass(slots=True, eq=False)
class Section:
    """A section: its name as written, its lines in order; `index` is its place among all."""

    name: bytes
    index: int
    offset: int
    entries: list[Entry] = field(default_factory=list)


@dataclass
class Document:
    """What a text says, includes and all, and what is wrong with it.

    `stopped`: the original loses what follows the last problem. `crashed`: it dies.
    """

    sections: list[Section]
    problems: list[Problem]
    stopped: bool
    crashed: bool
    _input: Input

    def locate(self, offset: int) -> tuple[Source, int, int]:
        """Source, line, column (from 1) of an entry's or a section's offset."""
        return self._input.locate(offset)

    def tell(self, finding: Finding) -> Problem:
        """What the linter found, with its place: a remark of ours, at which nothing stops."""
        source, line, column = self.locate(finding.offset)
        return Problem(
            finding.code,
            finding.severity,
            Outcome.FINE,
            source.path,
            line,
            column,
            finding.message,
            finding.hint,
            source.excerpt(line),
        )

    def get_buffer(self) -> bytearray:
        """The bytes that all offsets point into; not to be changed."""
        return self._input.buffer

    @property
    def sources(self) -> list[Source]:
        """The files that the text was read from, the main one first."""
        return self._input.sources


class _Stop(Exception):  # noqa: N818 - not an error: the parser is done
    """The parser stops here, as the original does."""


def parse_document(main: Included, read_include: ReadInclude, *, recover: bool = False) -> Document:
    """Parse a text and its includes.

    With `recover`, a syntax error does not end it: parsing goes on with the
    next line that makes sense, so that all problems are found in one go (at
    most scan.MAX_PROBLEMS). `stopped` then still tells that there was one.
    """
    return _Parser(Scanner(main, read_include, give_up=recover), recover).parse()


class _Parser:
    def __init__(self, scanner: Scanner, recover: bool) -> None:
        self.scanner = scanner
        self.input = scanner.input
        self.recover = recover
        self.sections: list[Section] = []
        self.current: Section | None = None
        self.stopped = False
        self.token = Token(Kind.END, 0, 0)
        self.before = self.token  # the token before `token`

    def parse(self) -> Document:
        crashed = False
        try:
            self._advance()
            self._parse_file()
            self.input.finish()
        except CrashError:
            crashed = True
        except (_Stop, TooManyProblemsError):
            self.stopped = True
        problems = self.input.problems
        self.stopped = self.stopped or any(p.outcome is Outcome.STOPS for p in problems)
        return Document(self.sections, problems, self.stopped, crashed, self.input)

    def _advance(self) -> None:
        self.before = self.token
        self.token = self.scanner.next()

    def _parse_file(self) -> None:
        while True:
            kind = self.token.kind
            if kind is Kind.OPEN:
                self._parse_header()
            elif kind is Kind.STRING and self.current is not None:
                self._parse_entry()
            elif kind is Kind.INCLUDE:
                self._parse_include()
            elif kind is Kind.END:
                return
            else:
                self._complain_outside()

    def _parse_include(self) -> None:
        found = self.scanner.included
        assert found is not None
        self.current = None
        self.input.include(found, self.token.start)
        self._advance()

    def _parse_header(self) -> None:
        opened = self.token
        self._advance()
        name = self.token
        if name.kind is not Kind.STRING:
            self._fail_header(opened)
            return
        self._advance()
        if self.token.kind is not Kind.CLOSE:
            self._fail_header(opened)
            return
        if name.value is None:
            self._crash_on_nothing(name)
            return
        self.current = Section(name.value, len(self.sections), opened.start)
        self.sections.append(self.current)
        self._advance()
        self._expect_first_key(self.current)

    def _parse_entry(self) -> None:
        key = self.token
        self._advance()
        if self.token.kind is not Kind.EQUALS:
            self._fail_key(key)
            return
        self._advance()
        value = self.token
        if value.kind is not Kind.STRING:
            self._fail_value(key)
            return
        if key.value is None or value.value is None:
            self._crash_on_nothing(key)
            return
        assert self.current is not None
        self.current.entries.append(
            Entry(key.value, value.value, key.start, value.start, value.quoted)
        )
        self._advance()

    # Problems, in the words of the file's author.

    def _fail(self, code: str, offset: int, message: str, hint: str) -> None:
        self.input.note(code, offset, Outcome.STOPS, message, hint)
        if not self.recover:
            raise _Stop

    def _fail_and_skip(self, code: str, offset: int, message: str, hint: str) -> None:
        """Fail; when recovering, go on with the line behind the token."""
        self._fail(code, offset, message, hint)
        self.stopped = True
        self._skip()

    def _skip(self) -> None:
        """Go on with the line behind the token; it is the next one when it begins a line."""
        token = self.token
        if token.kind is Kind.END:
            return
        begins_line = self.scanner.is_line_start(token.start) and token.kind in (
            Kind.OPEN,
            Kind.STRING,
            Kind.INCLUDE,
        )
        if begins_line and token.start > self.before.start:
            return
        self.scanner.skip_line()
        self._advance()

    def _crash_on_nothing(self, token: Token) -> None:
        self.input.note(
            "include-empty",
            token.start,
            Outcome.CRASHES,
            "an include line without a path",
            "Write the path behind the word include, in double quotes or bare.",
        )
        raise CrashError

    def _show(self, token: Token) -> str:
        """A token for a message."""
        if token.kind is Kind.STRING and token.value is not None:
            if not token.value and not token.quoted:
                return "a carriage return or other invisible character"
            text = token.value.decode("utf-8", "replace")
            return repr(text if len(text) <= 40 else text[:39] + "…")
        return {
            Kind.END: "the end of the file",
            Kind.INCLUDE: "an include line",
            Kind.STRING: "an include line without a path",
        }.get(token.kind, f"'{token.kind.value}'")

    def _is_invisible(self, token: Token) -> bool:
        return token.kind is Kind.STRING and not token.value and not token.quoted

    def _fail_invisible(self, token: Token) -> None:
        raw = bytes(self.input.buffer[token.start : token.end])
        if b"\r" in raw:
            self._fail_and_skip(
                "carriage-return",
                token.start,
                "a carriage return (Windows line end) where LTSP 5 expects nothing",
                "Save the file with Unix line ends: sed -i 's/\\r$//' FILE",
            )
        else:
            self._fail_and_skip(
                "invisible-character",
                token.start,
                f"an invisible character ({raw[:8]!r}) where nothing may stand",
                "Delete the character.",
            )

    def _complain_outside(self) -> None:
        """Report a token that cannot begin a section."""
        token = self.token
        if token.kind is Kind.EQUALS:
            self._fail_and_skip(
                "stray-equals",
                token.start,
                "an = that belongs to no key",
                "Remove it; a value that holds = must stand in double quotes.",
            )
        elif token.kind is Kind.CLOSE:
            self._fail_and_skip(
                "stray-bracket",
                token.start,
                "a ] without its [",
                "A header is [name]; a value that holds brackets must stand in double quotes.",
            )
        elif self._is_invisible(token):
            self._fail_invisible(token)
        elif (token.value or b"").startswith(b"\xef\xbb\xbf"):
            self._fail(
                "byte-order-mark",
                token.start,
                "a byte order mark before the first section",
                "Save the file as UTF-8 without BOM: sed -i '1s/^\\xef\\xbb\\xbf//' FILE",
            )
            self.stopped = True
            self._advance()
        elif not self.sections and (token.value or b"").startswith((b"\xff\xfe", b"\xfe\xff")):
            self._fail(
                "byte-order-mark",
                token.start,
                "the file is UTF-16 (its byte order mark stands before the first section)",
                "Save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE >NEW",
            )
            self.stopped = True
            self._advance()
        else:
            self._complain_about_homeless(token)

    def _complain_about_homeless(self, token: Token) -> None:
        if self.sections or len(self.input.sources) > 1:
            message = f"{self._show(token)} stands behind an include line, outside any section"
            hint = "Put include lines before a [section] header or at the end of the file."
        else:
            message = f"{self._show(token)} stands before the first section"
            hint = "Put a [section] header, for instance [default], above it."
        self._fail("key-outside-section", token.start, message, hint)
        self.stopped = True
        # Recovering: all of these lines go into one section whose name no node can have.
        self.current = Section(b"\0outside", -1, token.start)

    def _expect_first_key(self, section: Section) -> None:
        """The token behind a header must be a key: a section must not be empty."""
        token = self.token
        if token.kind is Kind.STRING:
            return
        name = section.name.decode("utf-8", "replace")
        if token.kind in (Kind.OPEN, Kind.INCLUDE, Kind.END):
            self._fail(
                "empty-section",
                section.offset,
                f"the section [{name}] is empty: {self._show(token)} follows its header",
                "Give it a line, for instance LIKE = default, or remove it.",
            )
            self.stopped = True
            return
        self._fail_and_skip(
            "no-key",
            token.start,
            f"{self._show(token)} where the first key of [{name}] should be",
            'Write KEY = "value".',
        )

    def _fail_header(self, opened: Token) -> None:
        token = self.token
        where = token.start if token.kind is not Kind.END else opened.start
        hint = (
            'A header is [name]; a name that holds = [ ] or # stands in double quotes: ["pc[0-9]"].'
        )
        if token.kind is Kind.STRING and self.before.kind is Kind.STRING:
            message = f"{self._show(token)} where the ] of a header should be"
        elif self.before.kind is Kind.STRING:
            message = f"{self._show(token)} inside the brackets of a header"
        else:
            message = f"{self._show(token)} where a section's name should be"
        self._fail("bad-header", where, message, hint)
        self.stopped = True
        # Recovering: the keys below belong to a section whose name no node can have.
        self.current = Section(b"\0bad header", -1, opened.start)
        self._skip()

    def _fail_key(self, key: Token) -> None:
        """Report a key without `=` behind it."""
        token, text = self.token, key.value or b""
        if self._is_invisible(key):
            self._fail_invisible(key)
            return
        shown = self._show(key)
        code, offset = "no-equals", key.start
        message = f"{shown} is followed by {self._show(token)} instead of ="
        hint = 'Write KEY = "value", or # before a remark.'
        previous = self._last_entry()
        if previous is not None and self._same_line(previous.value_offset, key.start):
            code = "text-behind-value"
            message = f"{shown} stands behind a value that has ended"
            hint = (
                "A quoted value ends at the last double quote of its line, a bare one at a quote"
                " or #: put the whole value between double quotes, and no quote into a comment"
                " behind it."
            )
        elif b":" in text and not key.quoted:
            hint = f"Write = instead of the colon. {hint}"
        elif b"\xef\xbc\x9d" in text:
            hint = "Write an ASCII = instead of the full-width one."
        if token.kind is Kind.OPEN and self._same_line(key.start, token.start):
            hint = f"A value or key that holds [ or ] must stand in double quotes. {hint}"
        self._fail(code, offset, message, hint)
        self.stopped = True
        self._skip()

    def _fail_value(self, key: Token) -> None:
        """Report an `=` without a string behind it."""
        token = self.token
        name = self._show(key)
        if token.kind is Kind.EQUALS:
            code, message = "stray-equals", f"a second = behind {name}"
        elif token.kind is Kind.OPEN and self._same_line(key.start, token.start):
            code, message = "bracket-in-value", f"the value of {name} begins with a bracket"
        else:
            code = "no-value"
            message = f"{name} has no value: {self._show(token)} follows its ="
        hint = f'For an empty value write {name.strip(chr(39))} = "", to unset it NONE.'
        if token.kind in (Kind.EQUALS, Kind.OPEN, Kind.CLOSE):
            hint = f"A value that holds = [ or ] must stand in double quotes. {hint}"
        where = key.start if token.kind is Kind.END else token.start
        self._fail(code, where, message, hint)
        self.stopped = True
        self._skip()

    def _last_entry(self) -> Entry | None:
        if self.current is None or not self.current.entries:
            return None
        return self.current.entries[-1]

    def _same_line(self, first: int, second: int) -> bool:
        return self.input.buffer.find(b"\n", first, second) < 0
