"""What `lts check` says of a text once machines and images are known."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from server.boot.plan import PlanError, choose_image
from server.commands.lts_given import Scene
from server.errors import ServerError
from server.ltsconf.computed import LONGEST, WrongValues, with_names
from server.ltsconf.conf import LtsConf, NodeId, decode
from server.ltsconf.errors import LtsConfError
from server.ltsconf.glob import is_glob
from server.ltsconf.joinline import has_bare_join
from server.ltsconf.lookup import DEFAULT, LIKE
from server.ltsconf.problem import Finding, Outcome, Problem
from server.ltsconf.reading import Text
from server.ltsconf.variables import find_variable
from server.quantities import compress_names
from server.sources.trial import MADE_UP, Subject

SECONDS = 60.0
"""For each of the two passes over the machines: a slow template shall not hold up CI."""


def check_on_machines(text: Text, scene: Scene, found: Sequence[Problem]) -> list[Problem]:
    """Machines that get nothing, sections that none has or that lose, images that are not there.

    found: what was said of the text already. Nothing, where machines and images are unknown.
    """
    nodes = scene.list_nodes()
    if any(problem.outcome in (Outcome.STOPS, Outcome.CRASHES) for problem in found):
        return []
    if not nodes and not scene.images and scene.farm is None:
        return []
    problems: list[Problem] = []
    if scene.secrets is not None or not text.is_template:
        problems += _check_each(text, scene, nodes)
        if text.is_template:
            problems += _check_values(text, scene, nodes, {one.message for one in found})
    problems += _check_images(text, scene, nodes)
    problems += _check_architectures(text, scene, nodes)
    if scene.certificates is False:
        problems += _check_joins(text, scene, nodes)
    if nodes:
        problems += _check_sections(text, scene, nodes)
    return problems


def _check_each(text: Text, scene: Scene, nodes: Sequence[NodeId]) -> list[Problem]:
    """Each machine's rendering and values: an error for each reason why there are none."""
    subjects = [Subject(node, scene.find_known(node)) for node in nodes]
    if scene.unlisted != "refuse" and (text.is_template or not subjects):
        subjects.append(Subject(MADE_UP, scene.given.node))
    reasons: dict[tuple[str, int, str, str], list[str]] = {}
    deadline = time.monotonic() + SECONDS
    tried = empty = 0
    for subject in subjects:
        if tried and time.monotonic() > deadline:
            break
        tried += 1
        try:
            conf = scene.make_conf(text, subject.node)
            conf.resolve(subject.node)
            empty += not conf.has_sections
        except LtsConfError as error:
            message = error.message.partition(" (for node ")[0]
            key = (error.path, error.line, message, error.hint or "")
            reasons.setdefault(key, []).append(subject.name)
    problems = []
    if text.is_template and empty == len(subjects) > 0:
        words = f"what it renders to has no section, for none of {tried} machines"
        hint = "Write [default] and what all nodes get outside of every {% if %}."
        problems.append(_make("error", "empty-text", text.main.path, 1, words, hint))
    for (path, line, message, hint), names in reasons.items():
        shown = compress_names(names)
        words = f"{len(names)} of {tried} machines get nothing from it ({shown}): {message}"
        problems.append(_make("error", "machines", path or text.main.path, line, words, hint))
    if tried < len(subjects):
        words = f"it was tried on {tried} of {len(subjects)} machines, for it takes long"
        problems.append(
            _make("warning", "machines", text.main.path, 1, words, "Make the template quicker.")
        )
    return problems


def _list_confs(text: Text, scene: Scene, nodes: Sequence[NodeId]) -> list[tuple[NodeId, LtsConf]]:
    """The lts.conf of each machine that gets one."""
    found = []
    whole = None if text.is_template else text.parse()
    deadline = time.monotonic() + SECONDS
    for node in nodes:
        if time.monotonic() > deadline:
            break
        try:
            found.append((node, whole if whole is not None else scene.make_conf(text, node)))
        except ServerError:
            continue  # told by _check_each
    return found


def _check_values(
    text: Text, scene: Scene, nodes: Sequence[NodeId], told: Collection[str]
) -> list[Problem]:
    """Values that a template computes for some machine and that no node could use, each once.

    told: what was said already, of values that are the same for all.
    """
    wrong = WrongValues(told, lambda value: scene.mask(value) != value)
    for node, conf in _list_confs(text, scene, nodes or [MADE_UP]):
        wrong.look(conf, node, node.hostname or node.mac or node.ip or "?")
    return wrong.list()


def _check_images(text: Text, scene: Scene, nodes: Sequence[NodeId]) -> list[Problem]:
    """Values of IMAGE that the store does not have, each once; all sections' in a plain text."""
    if not scene.images:
        return []
    problems: dict[tuple[int, str], Problem] = {}
    subjects = nodes or [MADE_UP]
    for _, conf in _list_confs(text, scene, subjects):
        for section in conf.document.sections:
            for entry in section.entries:
                if entry.key.upper() != b"IMAGE" or entry.value.upper() == b"NONE":
                    continue
                try:
                    choose_image(decode(entry.value), scene.images, scene.default_image)
                except PlanError as error:
                    finding = Finding(
                        "error", "no-image", entry.offset, error.message, error.hint or ""
                    )
                    problem = conf.document.tell(finding)
                    problems[problem.line, error.message] = problem
        if not text.is_template:
            break
    return list(problems.values())


def _check_architectures(text: Text, scene: Scene, nodes: Sequence[NodeId]) -> list[Problem]:
    """Machines of the inventory that would be given an image for another architecture than their
    firmware told the server; each image once."""
    if not scene.images:
        return []
    found: dict[str, tuple[PlanError, list[str], str, int]] = {}
    for node, conf in _list_confs(text, scene, nodes):
        architecture = scene.architectures.get(node.mac or "")
        if not architecture:
            continue
        try:
            wanted = conf.resolve(node).get("IMAGE", "")
            choose_image(wanted, scene.images, scene.default_image, architecture=architecture)
        except PlanError as error:
            if error.cause == "architecture":
                path, line = _locate_image(conf, wanted, text.main.path)
                names = found.setdefault(error.message, (error, [], path, line))[1]
                names.append(node.hostname or node.mac or "?")
        except LtsConfError:
            continue  # told by _check_each
    return [
        _make(
            "error",
            "other-architecture",
            path,
            line,
            f"{error.message} ({len(names)}: {compress_names(names)})",
            error.hint or "",
        )
        for error, names, path, line in found.values()
    ]


def _locate_image(conf: LtsConf, wanted: str, otherwise: str) -> tuple[str, int]:
    """File and line of the first IMAGE with that value; else the file's first line."""
    for where, value in conf.locate_settings("IMAGE") if wanted else ():
        path, _, line = where.rpartition(":")
        if value == wanted and line.isdecimal():
            return path, int(line)
    return otherwise, 1


def _check_joins(text: Text, scene: Scene, nodes: Sequence[NodeId]) -> list[Problem]:
    """Lines that join without a token, where the server gives no certificates; each once."""
    problems: dict[tuple[str, int], Problem] = {}
    for _, conf in _list_confs(text, scene, nodes or [MADE_UP]):
        for section in conf.document.sections:
            for entry in section.entries:
                variable = find_variable(decode(entry.key).upper())
                if variable is None or variable.kind != "command":
                    continue
                if not has_bare_join(decode(entry.value[:LONGEST])):
                    continue
                finding = Finding(
                    "error",
                    "join-off",
                    entry.offset,
                    f"{decode(entry.key)}: kubeadm join has no token, and farm.yaml gives no"
                    " certificates: no machine joins",
                    "Write `join: {certificates: true}` into farm.yaml (docs/join.md), or put a"
                    " token into the line.",
                )
                problem = conf.document.tell(finding)
                problems[problem.path, problem.line] = problem
        if not text.is_template:
            break
    return list(problems.values())


def _check_sections(text: Text, scene: Scene, nodes: Sequence[NodeId]) -> list[Problem]:
    """Sections that match no machine of the inventory, and those that lose where they match."""
    confs = _list_confs(text, scene, nodes)
    used: set[tuple[str, int]] = set()
    every: dict[tuple[str, int], Problem] = {}
    lost: dict[tuple[str, int], tuple[Problem, list[str]]] = {}
    known: set[int] = set()
    for node, conf in confs:
        try:
            chain, losers = conf.build_chain(node), conf.list_losers(node)
        except LtsConfError:
            continue
        for link in chain.links:
            source, line, _ = conf.document.locate(link.section.offset)
            used.add((source.path, line))
        for loser in losers:
            _, first, _ = conf.document.locate(loser.winner.offset)
            name, winner = decode(loser.section.name), decode(loser.winner.name)
            finding = Finding(
                "warning",
                "losing-section",
                loser.section.offset,
                f"[{name}] is not used for machines that it matches, since [{winner}]"
                f" (line {first}) comes first",
                f"Write LIKE = {name} in [{winner}], if its lines are wanted there.",
            )
            problem = conf.document.tell(finding)
            names = lost.setdefault((problem.path, problem.line), (problem, []))[1]
            names.append(node.hostname or node.mac or node.ip or "?")
        if id(conf) in known:
            continue
        known.add(id(conf))
        liked = {
            entry.value.lower()
            for section in conf.document.sections
            for entry in section.entries
            if entry.key.lower() == LIKE
        }
        for section in conf.document.sections:
            if section.name.lower() in liked or section.name.lower() == DEFAULT:
                continue
            what = "a glob that matches" if is_glob(section.name) else "a section for"
            finding = Finding(
                "warning",
                "unmatched-section",
                section.offset,
                f"[{decode(section.name)}] is {what} no machine of the inventory",
                "Correct the name, list the machine, or remove the section.",
            )
            problem = conf.document.tell(finding)
            every.setdefault((problem.path, problem.line), problem)
    problems = [with_names(problem, names) for problem, names in lost.values()]
    if len(confs) == len(nodes):  # else one that could not be rendered may have it
        problems += [one for place, one in every.items() if place not in used | lost.keys()]
    return sorted(problems, key=lambda one: (one.path, one.line))


def _make(severity: str, code: str, path: str, line: int, message: str, hint: str) -> Problem:
    return Problem(code, severity, Outcome.FINE, path, max(line, 1), 1, message, hint)
