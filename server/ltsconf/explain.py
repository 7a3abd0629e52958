"""Where each value of a node comes from, what it overrode, and when it acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.ltsconf.conf import LtsConf, NodeId, Setting, decode
from server.ltsconf.lookup import Link
from server.ltsconf.variables import find_variable


@dataclass(frozen=True)
class Place:
    """A line that sets a value: `why` its section applies, in words, `where` as path:line."""

    value: str
    why: str
    where: str


@dataclass(frozen=True)
class Explanation:
    """One key of a node. `value` is None where NONE unset it; `overrode` the winner first."""

    key: str
    value: str | None
    origin: Place
    overrode: tuple[Place, ...]
    step: str
    actor: str

    def to_json(self) -> dict[str, object]:
        """As `lts explain --json` prints it."""
        return {
            "key": self.key,
            "value": self.value,
            "origin": _place_to_json(self.origin),
            "overrode": [_place_to_json(place) for place in self.overrode],
            "step": self.step,
            "actor": self.actor,
        }


def _place_to_json(place: Place) -> dict[str, str]:
    return {"value": place.value, "why": place.why, "where": place.where}


def explain(
    conf: LtsConf,
    node: NodeId,
    defaults: Mapping[str, str] | None = None,
    *,
    image: str = "",
    template: str = "",
) -> list[Explanation]:
    """An Explanation for each key that the node has or that NONE unset, in printed order.

    `defaults` are those of the image, `image` its name for the words. With
    `template` (its path), lines are those of the rendered text.
    """
    layers = {key.upper(): value for key, value in (defaults or {}).items()}
    below = {
        key: Place(
            value, f"default of the image {image}".strip(), f"{image or 'image'}: lts_defaults"
        )
        for key, value in layers.items()
    }
    found: list[Explanation] = []
    traces = conf.trace(node)
    for key, place in below.items():
        if key not in traces:
            found.append(_make(key, place.value, place, ()))
    for key, settings in traces.items():
        places = [_make_place(conf, setting, template) for setting in settings]
        if key in below:
            places.append(below[key])
        value = settings[0].value
        unset = value.upper() == "NONE"
        found.append(_make(key, None if unset else value, places[0], tuple(places[1:])))
    return found


def _make(key: str, value: str | None, origin: Place, overrode: tuple[Place, ...]) -> Explanation:
    variable = find_variable(key)
    if variable is None:
        step, actor = "preinit", "only in the environment of PREINIT_* and INIT_COMMAND_*"
    else:
        step, actor = variable.step, variable.actor
    return Explanation(key, value, origin, overrode, step, actor)


def _make_place(conf: LtsConf, setting: Setting, template: str) -> Place:
    source, line, _ = conf.document.locate(setting.entry.offset)
    why = describe_link(setting.link)
    if template:
        why += ", rendered from the template"
    return Place(setting.value, why, f"{source.path}:{line}")


def describe_losers(conf: LtsConf, node: NodeId) -> list[str]:
    """A line for each section that matches the node and is not used: why, and what to write."""
    lines = []
    for loser in conf.list_losers(node):
        source, line, _ = conf.document.locate(loser.section.offset)
        name, winner = decode(loser.section.name), decode(loser.winner.name)
        lines.append(
            f"[{name}] ({source.path}:{line}) matches {decode(loser.identifier)} too and is not"
            f" used: [{winner}] comes first; write LIKE = {name} there if its lines are wanted"
        )
    return lines


def describe_link(link: Link) -> str:
    """Why a section applies, in words: `[base], by LIKE from [pc7], which matches the hostname`."""
    chain = [link]
    while chain[-1].by is not None:
        chain.append(chain[-1].by)
    root = chain[-1]
    names = [f"[{decode(one.section.name)}]" for one in chain]
    identifier = decode(root.identifier or b"")
    reason = {
        "exact": f"the section of {identifier}",
        "glob": f"a glob that matches {identifier}",
        "default": "the default",
    }[root.why]
    if len(chain) == 1:
        return f"{names[0]}, {reason}"
    if len(names) > 8:
        names = [*names[:4], f"… {len(names) - 7} more …", *names[-3:]]
    return f"{names[0]}, by LIKE from {', from '.join(names[1:])} ({reason})"
