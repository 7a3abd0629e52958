"""Which sections a node gets, in which order, and what they set.

The original builds a chain: the exact section, what it includes by LIKE,
breadth first; then for each id the first section that matches as a glob, and
all LIKEs of the whole chain again; then [default]. A section that stands
earlier wins. The chain with its repetitions can grow exponentially (and without
end in a cycle, which crashes the original); here each section is met once, which
gives the same values, and `print_order` gives the order in which the original
prints its keys, in time linear in sections and LIKEs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from server.ltsconf.glob import is_glob, match_glob
from server.ltsconf.grammar import Section

LIKE = b"like"
DEFAULT = b"default"


class LikeCycleError(Exception):
    """A LIKE cycle that the node reaches: `sections` in order, the first includes the second…"""

    def __init__(self, sections: list[Section]) -> None:
        names = " -> ".join(s.name.decode("utf-8", "replace") for s in [*sections, sections[0]])
        super().__init__(names)
        self.sections = sections


@dataclass(frozen=True, eq=False)
class Link:
    """A section of a node's chain and why it is there.

    `why` is "exact", "like", "glob" or "default"; `by` is the link that
    includes it (like) or None; `identifier` the id that matched.
    """

    section: Section
    why: str
    by: Link | None = None
    identifier: bytes | None = None


@dataclass(frozen=True)
class Chain:
    """`links` in order of precedence, the winner first; `print_order` as the original prints."""

    links: list[Link]
    print_order: list[Section]


@dataclass(frozen=True)
class Loser:
    """A section that matches a node's id and is not used, for `winner` comes first."""

    section: Section
    identifier: bytes
    winner: Section


class Index:
    """The sections of a document, ready to be asked."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self.sections = sections
        self._by_name: dict[bytes, Section] = {}
        self._globs: list[Section] = []
        for section in sections:
            self._by_name.setdefault(section.name.lower(), section)
            if is_glob(section.name):
                self._globs.append(section)
        self._likes: dict[int, list[Section]] = {}

    def find_exact(self, name: bytes) -> Section | None:
        """The first section of that name, letters of ASCII folded."""
        return self._by_name.get(name.lower())

    def find_glob(self, name: bytes) -> Section | None:
        """The first section that matches `name` as a glob and is not equal to it."""
        folded = name.lower()
        for section in self._globs:
            if section.name.lower() != folded and match_glob(section.name, name):
                return section
        return None

    def list_likes(self, section: Section) -> list[Section]:
        """The sections that `section` includes, in the order of its lines; unknown ones not."""
        found = self._likes.get(section.index)
        if found is None:
            found = []
            for entry in section.entries:
                if entry.key.lower() == LIKE:
                    target = self.find_exact(entry.value)
                    if target is not None:
                        found.append(target)
            self._likes[section.index] = found
        return found

    def build_chain(self, identifiers: Iterable[bytes]) -> Chain:
        """The chain of a node with these ids (hostname, IP, MAC: in this order).

        Raises LikeCycleError.
        """
        identifiers = list(identifiers)
        links: list[Link] = []
        seen: set[int] = set()
        roots: list[Section] = []
        for identifier in identifiers:
            exact = self.find_exact(identifier)
            if exact is not None:
                roots.append(exact)
                self._follow(Link(exact, "exact", identifier=identifier), links, seen)
                break
        for identifier in identifiers:
            glob = self.find_glob(identifier)
            if glob is not None:
                if glob in roots:
                    roots.remove(glob)
                roots.append(glob)
                if glob.index not in seen:
                    self._follow(Link(glob, "glob", identifier=identifier), links, seen)
        printed = self._order_for_print(roots, [link.section for link in links])
        default = self.find_exact(DEFAULT)
        if default is not None:
            if default.index not in seen:
                links.append(Link(default, "default"))
            printed = [section for section in printed if section is not default]
            printed.append(default)
        printed.reverse()
        return Chain(links, printed)

    def find_losers(self, identifiers: Iterable[bytes], chain: Chain) -> list[Loser]:
        """The sections that match an id and are not in the chain of the node that has them."""
        used = {link.section.index for link in chain.links}
        exact = next((link for link in chain.links if link.why == "exact"), None)
        losers: list[Loser] = []
        for identifier in identifiers:
            section = self.find_exact(identifier)
            if section is not None and section.index not in used:
                used.add(section.index)
                assert exact is not None, "the first exact section is always used"
                losers.append(Loser(section, identifier, exact.section))
            first = self.find_glob(identifier)
            folded = identifier.lower()
            for section in self._globs:
                if section.index in used or section.name.lower() == folded or first is None:
                    continue
                if match_glob(section.name, identifier):
                    used.add(section.index)
                    losers.append(Loser(section, identifier, first))
        return losers

    def _follow(self, first: Link, links: list[Link], seen: set[int]) -> None:
        """Add `first` and what it includes, breadth first, each section once."""
        seen.add(first.section.index)
        at = len(links)
        links.append(first)
        while at < len(links):
            link = links[at]
            at += 1
            for target in self.list_likes(link.section):
                if target.index not in seen:
                    seen.add(target.index)
                    links.append(Link(target, "like", link))

    def _order_for_print(self, roots: list[Section], reached: list[Section]) -> list[Section]:
        """The sections in order of their last appearance in the original's chain.

        That chain is the roots, then what they include, then what those
        include, and so on, repetitions kept. A section appears last in the
        generation that is its longest way from a root; and there its place is
        decided by includers whose longest way is one shorter. So one pass over
        the generations, each section in its last, gives the order.
        """
        missing = {section.index: 0 for section in reached}  # includers not yet placed
        for section in reached:
            for target in self.list_likes(section):
                missing[target.index] += 1
        layer = [root for root in roots if missing[root.index] == 0]
        order: list[Section] = []
        while layer:
            order += layer
            complete: dict[int, Section] = {}  # in order of last mention
            for section in layer:
                for target in self.list_likes(section):
                    missing[target.index] -= 1
                    complete.pop(target.index, None)
                    complete[target.index] = target
            layer = [target for target in complete.values() if missing[target.index] == 0]
        if len(order) < len(reached):
            raise LikeCycleError(self._find_cycle(reached, {s.index for s in order}))
        return order

    def _find_cycle(self, reached: list[Section], placed: set[int]) -> list[Section]:
        """A cycle among the sections that could not be placed."""
        left = {section.index for section in reached} - placed
        # Each of them is included by another one: walking from includer to includer must return.
        includer: dict[int, Section] = {}
        for section in reached:
            if section.index in left:
                for target in self.list_likes(section):
                    includer.setdefault(target.index, section)
        at = next(section for section in reached if section.index in left)
        path: list[Section] = []
        position: dict[int, int] = {}
        while at.index not in position:
            position[at.index] = len(path)
            path.append(at)
            at = includer[at.index]
        return path[position[at.index] :][::-1]
