"""lts.conf as LTSP 5's scanner sees it: bytes in, tokens out.

The original is a longest-match scanner that reads its file 8 KiB at a time
into one buffer. Three of its habits can only be understood from that, and are
kept here on purpose:

* An include swaps the file under the buffer. What was already read stays, and
  is used up first: so "includes are read only after the including file ends",
  of several only the last is read, and the rest of a file longer than what was
  read so far is lost.
* What no rule matches (a stray `'`, an unpaired `"`, a `#` in a last line
  without a newline) is echoed and skipped, one byte at a time.
* Once the scanner has met the end of the file in the middle of a token, it
  reads nothing more: an include in a last line without a newline is lost.

Time is linear: each byte is looked at a bounded number of times.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from server.ltsconf.problem import Origin, Outcome, Problem, Source

READ_SIZE = 8192
"""Bytes that the original's scanner reads at once (flex's YY_READ_BUF_SIZE)."""
BUFFER_SIZE = 16384
"""Bytes of the original scanner's buffer (flex's YY_BUF_SIZE)."""
MAX_FILES = 10  # the main file is one of them
MAX_PROBLEMS = 200
"""Of one text: nobody reads more."""

# One character class and a greedy star, nothing after it: cannot backtrack.
_TEXT = re.compile(rb"[^=\n\[\]\"'#]*")
_BLANKS = re.compile(rb"[ \t]*")
_WHITE = b" \t\n\v\f\r"


class Kind(Enum):
    """The kinds of tokens."""

    EQUALS = "="
    OPEN = "["
    CLOSE = "]"
    STRING = "string"
    INCLUDE = "include"
    END = "end of file"


_SINGLES = {0x3D: Kind.EQUALS, 0x5B: Kind.OPEN, 0x5D: Kind.CLOSE}


class Token(NamedTuple):
    """`start` and `end` are offsets in the scanner's buffer; value is None if never set."""

    kind: Kind
    start: int
    end: int
    value: bytes | None = None
    quoted: bool = False


@dataclass(frozen=True)
class Included:
    """A file found for an include: its identity, and its bytes (None: a directory).

    origin: the file that the bytes were made from, where that is another one.
    """

    identity: Hashable
    path: str
    data: bytes | None
    origin: Origin | None = None


# Gets the path as written; None when there is no such file.
ReadInclude = Callable[[bytes], Included | None]


class TooManyProblemsError(Exception):
    """The text has so many problems that looking for more helps nobody."""


class CrashError(Exception):
    """The original dies here; the problem has been noted."""


class Input:
    """The buffer, the file that feeds it, and which byte came from where."""

    def __init__(self, main: Included, *, give_up: bool) -> None:
        self.buffer = bytearray()
        self.problems: list[Problem] = []
        self.sources: list[Source] = []
        self.ended = False
        self._give_up = give_up  # raise when there are too many problems, else note no more
        self._size = BUFFER_SIZE
        self._spans: list[tuple[int, int, int]] = []  # buffer offset, source, offset in it
        self._span_starts: list[int] = []
        self._seen: list[Hashable] = []
        self._offset = 0
        self._is_directory = False
        self._include_at = 0
        self._swap(main)

    def note(
        self,
        code: str,
        offset: int,
        outcome: Outcome,
        message: str,
        hint: str,
        *,
        warn: bool = False,
    ) -> None:
        """Add a problem at a place in the buffer."""
        if len(self.problems) >= MAX_PROBLEMS:
            if self._give_up:
                raise TooManyProblemsError
            if outcome not in (Outcome.STOPS, Outcome.CRASHES):
                return
        source, line, column = self.locate(offset)
        severity = "warning" if warn else "error"
        excerpt = source.excerpt(line)
        self.problems.append(
            Problem(code, severity, outcome, source.path, line, column, message, hint, excerpt)
        )

    def locate(self, offset: int) -> tuple[Source, int, int]:
        """Source, line and column of an offset in the buffer."""
        if not self._spans:
            return self.sources[0], 1, 1
        at = max(bisect_right(self._span_starts, offset) - 1, 0)
        begin, source, source_offset = self._spans[at]
        found = self.sources[source]
        line, column = found.locate(source_offset + offset - begin)
        return found, line, column

    def include(self, found: Included, offset: int) -> None:
        """The include at `offset` is accepted: from now on the buffer is fed by that file."""
        if found.identity in self._seen:
            self.note(
                "include-again",
                offset,
                Outcome.DIFFERS,
                f"{found.path} is included already and is not read again",
                "Remove this line.",
                warn=True,
            )
            return
        if len(self._seen) >= MAX_FILES:
            self.note(
                "include-too-many",
                offset,
                Outcome.DIFFERS,
                f"more than {MAX_FILES} files: {found.path} is not read",
                f"LTSP 5 reads at most {MAX_FILES} files, the main one among them; join some.",
            )
            return
        self._tell_what_is_lost(offset)
        self._include_at = offset
        self._swap(found)

    def _tell_what_is_lost(self, offset: int) -> None:
        source = self.sources[-1]
        if 0 < self._offset < len(source.data):
            line, column = source.locate(self._offset)
            self.note(
                "include-cuts-file",
                offset,
                Outcome.STOPS,
                f"LTSP 5 loses the rest of {source.path} from line {line}, column {column} on: it"
                f" reads {READ_SIZE} bytes at a time, and what it has not read when it meets an"
                " include is never read",
                "Move the include line to the end of the file.",
            )
        elif self._offset == 0 and len(self.sources) > 1 and (source.data or self._is_directory):
            self.note(
                "include-not-read",
                self._include_at,
                Outcome.DIFFERS,
                f"{source.path} is never read: of several includes in one file LTSP 5 reads only"
                " the last",
                "Include one file, and from the end of that file the next.",
            )

    def _swap(self, found: Included) -> None:
        self._seen.append(found.identity)
        self.sources.append(Source(found.path, found.data or b"", found.origin))
        self._is_directory = found.data is None
        self._offset = 0

    def finish(self) -> None:
        """Report an include that was accepted after the last read."""
        source = self.sources[-1]
        if self._offset == 0 and len(self.sources) > 1 and source.data:
            self.note(
                "include-not-read",
                self._include_at,
                Outcome.DIFFERS,
                f"{source.path} is never read: nothing follows the include line, not even a"
                " newline",
                "End the file with a newline.",
            )

    def read_more(self, token_start: int) -> bool:
        """One read of the original, in the middle of the token at `token_start` or before one.

        False when there is nothing more.
        """
        if self.ended:
            return False
        partial = len(self.buffer) - token_start
        while self._size - partial - 1 <= 0:
            self._size *= 2
        wanted = min(self._size - partial - 1, READ_SIZE)
        if self._is_directory:
            self.note(
                "include-directory",
                self._include_at,
                Outcome.CRASHES,
                f"{self.sources[-1].path} is a directory, not a file",
                "Include each of its files, one from the other.",
            )
            raise CrashError
        data = self.sources[-1].data
        chunk = data[self._offset : self._offset + wanted]
        if not chunk:
            self.ended = True
            return False
        self._spans.append((len(self.buffer), len(self.sources) - 1, self._offset))
        self._span_starts.append(len(self.buffer))
        self.buffer += chunk
        self._offset += len(chunk)
        return True


class Scanner:
    """`next()` gives the tokens one after the other, then END for ever.

    The grammar must have dealt with an INCLUDE (`Input.include`) before it
    asks for the next token: that is when the file is swapped.
    """

    def __init__(self, main: Included, read_include: ReadInclude, *, give_up: bool) -> None:
        self.input = Input(main, give_up=give_up)
        self.position = 0
        self.included: Included | None = None  # of the INCLUDE token given last
        self._read_include = read_include
        self._last_value: bytes | None = None
        self._line_end = -1  # end of the line that holds `_line_from`, once looked for
        self._line_from = 0

    def next(self) -> Token:
        """The next token; END again and again after the last."""
        source, buffer = self.input, self.input.buffer
        while True:
            start = self.position
            if start == len(buffer) and not source.read_more(start):
                return Token(Kind.END, start, start)
            byte = buffer[start]
            if byte == 0x0A:
                self.position = start + 1
            elif byte in _SINGLES:
                self.position = start + 1
                return Token(_SINGLES[byte], start, start + 1)
            elif byte == 0x23:  # #
                end = self._find_line_end(start)
                if end == len(buffer):
                    self._echo(start, "#")
                else:
                    self.position = end + 1
            elif byte == 0x22:  # "
                end = self._find_last_quote(start)
                if end == start:
                    self._echo(start, '"')
                else:
                    self.position = end + 1
                    return self._quoted(start, end + 1)
            elif byte == 0x27:  # '
                self._echo(start, "'")
            else:
                token = self._text(start)
                if token is not None:
                    return token

    def skip_line(self) -> None:
        """Go on behind the next newline, to look for more problems there."""
        end = self._find_line_end(self.position)
        self.position = min(end + 1, len(self.input.buffer))

    def is_line_start(self, offset: int) -> bool:
        """Whether only blanks stand before `offset` in its line."""
        buffer = self.input.buffer
        while offset > 0 and buffer[offset - 1] in b" \t":
            offset -= 1
        return offset == 0 or buffer[offset - 1] == 0x0A

    def _span(self, charset: re.Pattern[bytes], start: int, token_start: int) -> int:
        """Where the run of `charset` that begins at `start` ends, reading on if need be."""
        end = start
        while True:
            match = charset.match(self.input.buffer, end)
            assert match is not None
            end = match.end()
            if end < len(self.input.buffer) or not self.input.read_more(token_start):
                return end

    def _find_line_end(self, start: int) -> int:
        """Offset of the newline that ends the line of `start`, or of the end of the text."""
        if self._line_from <= start <= self._line_end:
            return self._line_end
        end, search_from = -1, start
        while True:
            end = self.input.buffer.find(b"\n", search_from)
            if end >= 0:
                break
            search_from = len(self.input.buffer)
            if not self.input.read_more(start):
                end = len(self.input.buffer)
                break
        self._line_from, self._line_end = start, end
        return end

    def _find_last_quote(self, start: int) -> int:
        return self.input.buffer.rfind(b'"', start, self._find_line_end(start))

    def _quoted(self, start: int, end: int) -> Token:
        text = bytes(self.input.buffer[start:end])
        nul = text.find(b"\0")
        if nul >= 0:
            # The original takes the length from the first NUL on and cuts one more byte.
            if nul == 1:
                self.input.note(
                    "nul-byte",
                    start,
                    Outcome.CRASHES,
                    'a NUL byte right behind a "',
                    "Remove the NUL byte.",
                )
                raise CrashError
            value = text[1 : nul - 1]
            self._note_nul(start + nul)
        else:
            value = text[1:-1]
        self._last_value = value
        return Token(Kind.STRING, start, end, value, True)

    def _text(self, start: int) -> Token | None:
        """A bare string, an include, or blanks (None)."""
        buffer = self.input.buffer
        if buffer[start] in b" \ti" and (start == 0 or buffer[start - 1] == 0x0A):
            path_start = self._match_include(start)
            if path_start:
                return self._include(start, path_start)
        end = self._span(_TEXT, start, start)
        self.position = end
        text = bytes(buffer[start:end])
        value = text.strip()
        if not value and not text.strip(b" \t"):
            return None
        if b"\0" in text:
            nul = text.find(b"\0")
            value = text[:nul].strip()
            self._note_nul(start + nul)
        self._last_value = value
        # From the first byte on that is not white: that is where people look.
        lead = len(text) - len(text.lstrip()) if text[0] in _WHITE else 0
        return Token(Kind.STRING, start + (lead if lead < len(text) else 0), end, value)

    def _match_include(self, start: int) -> int:
        """If an include line begins at `start`: where its path begins; else 0."""
        buffer = self.input.buffer
        word = self._span(_BLANKS, start, start)
        while len(buffer) < word + 7 and b"include".startswith(bytes(buffer[word : word + 7])):
            if not self.input.read_more(start):
                return 0
        if buffer[word : word + 7] != b"include":
            return 0
        path = self._span(_BLANKS, word + 7, start)
        return path if path > word + 7 else 0

    def _include(self, start: int, path_start: int) -> Token:
        buffer = self.input.buffer
        end = path_start
        if path_start < len(buffer) and buffer[path_start] == 0x22:
            quote = self._find_last_quote(path_start)
            if quote > path_start:
                end = self._span(_BLANKS, quote + 1, start)
        if end == path_start:
            end = self._span(_TEXT, path_start, start)
        self.position = end
        text = bytes(buffer[path_start:end])
        path = text.split(b"\0", 1)[0].strip()
        if path[:1] == b'"' and path[-1:] == b'"':
            # The original cuts the last byte before it skips the first: a lone " is both.
            path = path[1:-1].strip()
        elif not path:
            # The original gives its parser a string then, with the value of the string before.
            return Token(Kind.STRING, start, end, self._last_value)
        found = self._read_include(path)
        if found is None:
            shown = path.decode("utf-8", "replace")
            self.input.note(
                "include-missing",
                start,
                Outcome.CRASHES,
                f"the included file {shown!r} does not exist or cannot be read",
                "Correct the path; it is looked up below the root directory of the configuration.",
            )
            raise CrashError
        self.included = found
        self._last_value = path
        return Token(Kind.INCLUDE, start, end, path)

    def _echo(self, start: int, byte: str) -> None:
        self.position = start + 1
        if byte == "#":
            self.input.note(
                "comment-without-newline",
                start,
                Outcome.DIFFERS,
                "a comment in the last line, which has no newline, is no comment",
                "End the file with a newline.",
            )
            return
        name = "unpaired double quote" if byte == '"' else "single quote outside double quotes"
        self.input.note(
            "stray-quote",
            start,
            Outcome.DIFFERS,
            f"{name}: it is dropped and ends the text before it; LTSP 5 prints it, which breaks"
            " the client's eval of everything",
            'Put the whole value between double quotes: KEY = "value".',
        )

    def _note_nul(self, offset: int) -> None:
        self.input.note(
            "nul-byte",
            offset,
            Outcome.DIFFERS,
            "a NUL byte: what follows it in this string is lost",
            "Remove the NUL byte; the file is perhaps UTF-16: save it as UTF-8.",
        )
