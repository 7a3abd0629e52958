"""lts.conf tried on every machine before a machine meets it.

`decide` answers whether a text may be put in force: some machine must get its
values from it. `survey` then tells what each machine would get, and what the
linter calls an error: in a process of its own where that takes long, within a
budget of seconds, so that neither a large inventory nor a slow template holds
up what is served.
"""

import dataclasses
import functools
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from imagebuild.errors import count_words
from server.boot.hazards import find_hazards
from server.boot.plan import Farm, PlanError, Settled, check_boot
from server.boot.settlement import settle
from server.errors import ServerError
from server.farm.extras import NO_EXTRAS
from server.hangup import hangup_spares_children, ignore_hangup
from server.ltsconf import Conf, LtsConf, LtsConfError, make_facts
from server.ltsconf.computed import WrongValues
from server.ltsconf.lint import lint_conf
from server.ltsconf.lint_values import redact
from server.ltsconf.problem import Problem
from server.ltsconf.redact import SHORTEST, list_lines
from server.ltsconf.redact import redact as hide
from server.ltsconf.template import Renderer, shared_checker
from server.site import Site
from server.sources.trial import MADE_UP, Audience, Reason, Subject, Verdict
from server.troubles import Trouble

DECIDE_SECONDS = 5.0
"""For a decision: an editor waits for it, and so does whatever the text would mend."""
SURVEY_SECONDS = 20.0
"""For a survey: nobody waits for it, and a slow template shall not keep a core busy."""
INLINE_MACHINES = 64
"""Up to so many machines, and INLINE_BYTES of text, a survey takes less than a process."""
INLINE_BYTES = 8192
"""Bytes of a text, see INLINE_MACHINES."""
MAX_REASONS = 20
"""Different reasons of one verdict; the rest are counted together."""
MAX_NAMED = 5
"""Machines that are named for one reason; the rest are counted."""
_SPARE_SECONDS = 10.0
"""For starting the survey's process and reading its answer."""
_FOR_NODE = re.compile(r" \(for node [^)]*\)")
_log = logging.getLogger(__name__)

# As long as an address can be, for the length of the kernel's command line.
_ADDRESS = "255.255.255.255"


def decide(
    conf: Conf,
    site: Site,
    subjects: Sequence[Subject],
    renderer: Renderer | None = None,
    *,
    seconds: float = DECIDE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """True, if the text may be put in force; LtsConfError says why no machine can use it.

    Ends with the first machine that gets its values. What is wrong with an image
    or the store is no fault of the text's.
    """
    conf = conf.with_renderer(renderer)
    conf.check()
    site = dataclasses.replace(site, ltsconf=conf)
    deadline = clock() + seconds
    first: LtsConfError | None = None
    tried = empty = 0
    for subject in subjects:
        if tried and clock() > deadline:
            break
        tried += 1
        try:
            if not _try_text(site, subject) and conf.needs_rendering:
                empty += 1
                continue
        except LtsConfError as error:
            first = first or error
        except ServerError as error:
            if error.cause != "command_line":
                return True
            first = first or _blame(conf, error)
        else:
            return True
    if empty == len(subjects) > 0:
        raise LtsConfError(
            "what it renders to has no section, for none of the"
            f" {count_words(tried, 'machine')} that it was tried on",
            path=conf.template,
            hint="Write [default] and what all nodes get outside of every {% if %}.",
        )
    if first is not None:
        words = _FOR_NODE.sub("", first.message)
        every = f"each of the {tried:,} machines" if tried > 1 else "every machine"
        refusal = LtsConfError(
            f"{words}: so it is for {every} that it was tried on",
            path=first.path,
            line=first.line,
            column=first.column,
            hint=first.hint or "",
        )
        refusal.cause = first.cause
        raise refusal
    return True


def _blame(conf: Conf, error: ServerError) -> LtsConfError:
    """Turn the error of a kernel command line into one of the first line of lts.conf that causes
    it."""
    where, _ = next(conf.locate_settings("KERNEL_CMDLINE"), ("", ""))
    path, _, line = where.rpartition(":")
    blamed = LtsConfError(
        error.message,
        path=path or conf.template,
        line=int(line or 0),
        column=1,
        hint=error.hint,
    )
    blamed.cause = error.cause
    return blamed


def _try_text(site: Site, subject: Subject) -> bool:
    """Render and resolve the text for one machine; True if it has any section.

    Raises LtsConfError where the text is to blame, ServerError where it is not.
    """
    if site.images:
        return _plan(site, subject).has_sections
    # An empty store: what can be said without an image's facts.
    about = {"name": "", "digest": "", "kernel": "", "architecture": "", "versions": {}}
    facts = make_facts(
        subject.node,
        image=about,
        farm=site.facts,
        secrets=site.secrets,
        **{"arch": "", **subject.known},
    )
    try:
        conf = site.ltsconf.render(facts)
        conf.resolve(subject.node)
    except LtsConfError as error:
        if site.ltsconf.needs_rendering and "image" in error.message:
            raise ServerError("the store holds no image") from None
        raise
    return conf.has_sections


def _plan(site: Site, subject: Subject) -> LtsConf:
    """Settle and check the plan of one machine; what its lts.conf is."""
    farm = Farm(
        address=_ADDRESS,
        http_port=65535,
        cmdline=site.cmdline,
        on_error=site.on_error,
        loader=site.loader,
    )
    settled = _settle(site, subject)
    check_boot(subject.node, settled, farm)
    return settled.conf


def _settle(site: Site, subject: Subject) -> Settled:
    """What the machine boots. With several images and no default, DHCP's file name decides: any
    of them will do here, as long as it is of the architecture of what IMAGE names."""
    names = sorted({image.name for image in site.images})
    if len(names) == 1 or site.default_image is not None:
        return settle(site, subject.node, subject.known)
    for name in names[:-1]:
        try:
            return settle(site, subject.node, subject.known, name)
        except PlanError as error:
            if error.cause != "architecture":
                raise
    return settle(site, subject.node, subject.known, names[-1])


def survey(
    site: Site,
    subjects: Sequence[Subject],
    *,
    seconds: float = SURVEY_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Verdict:
    """What each machine would get of the site's lts.conf and images; never raises."""
    deadline = clock() + seconds
    problems = list_problems(site)
    secrets = [line for line in list_lines(site.secrets) if len(line) >= SHORTEST]
    wrong = WrongValues(
        {one.message for one in problems}, lambda value: any(one in value for one in secrets)
    )
    reasons: dict[str, tuple[int, list[str]]] = {}
    tried = failed = 0
    for subject in subjects if site.images else ():
        if tried and clock() > deadline:
            break
        tried += 1
        try:
            conf = _plan(site, subject)
            if site.ltsconf.needs_rendering:
                wrong.look(conf, subject.node, subject.name)
        except ServerError as error:
            failed += 1
            words = redact(hide(_FOR_NODE.sub("", error.one_line()), site.secrets))
            if words not in reasons and len(reasons) >= MAX_REASONS:
                words = "other reasons"
            count, names = reasons.get(words, (0, []))
            if len(names) < MAX_NAMED:
                names.append(subject.name)
            reasons[words] = (count + 1, names)
    errors = [problem for problem in problems if problem.severity == "error"]
    errors += [
        dataclasses.replace(one, message=hide(one.message, site.secrets))
        for one in wrong.list()
        if _counts(one, site)
    ]
    warnings = [problem for problem in problems if problem.severity != "error"]
    ordered = sorted(reasons.items(), key=lambda item: -item[1][0])
    return Verdict(
        total=len(subjects),
        tried=tried,
        failed=failed,
        reasons=tuple(Reason(words, count, tuple(names)) for words, (count, names) in ordered),
        errors=len(errors),
        warnings=len(warnings),
        remark=_render_problem(errors[0]) if errors else "",
        advice=_render_problem(warnings[0]) if warnings else "",
        troubles=_find_hazards(site),
    )


def _find_hazards(site: Site) -> tuple[Trouble, ...]:
    try:
        return find_hazards(site)
    except LtsConfError:
        return ()  # each machine's own error says it


def list_problems(site: Site) -> list[Problem]:
    """What `lts check` says of the text in force; of a template also names that nobody knows."""
    facts = make_facts(MADE_UP, farm=site.facts, secrets=site.secrets)
    try:
        problems = lint_conf(site.ltsconf, facts, farm=site.facts, secrets=site.secrets)
    except LtsConfError:
        return []  # each machine's own error says it
    return [one for one in problems if _counts(one, site)]


def _counts(problem: Problem, site: Site) -> bool:
    """What only iPXE stumbles over is no problem where machines boot by GRUB."""
    return problem.code != "ipxe-word" or site.loader == "ipxe"


def _render_problem(problem: Problem) -> str:
    where = f"{problem.path}:{problem.line}:{problem.column}"
    return f"{where}: {redact(problem.message)}; {problem.hint}"


class Rehearser:
    """Tries texts on an audience; one for a server (server.sources.trial.Rehearser)."""

    def __init__(self, audience: Audience) -> None:
        self.audience = audience

    def make_decision(self, conf: Conf, site: Site) -> Callable[[], bool]:
        """A call of `decide` for any thread: what it needs to know is gathered now."""
        return functools.partial(decide, conf, site, self.audience.list(), shared_checker())

    def start(self, site: Site) -> "Survey":
        """A survey of what is in force."""
        return Survey(site, self.audience.list())


class Survey:
    """A survey under way: of a process of its own, or done at once where it is small."""

    def __init__(self, site: Site, subjects: Sequence[Subject]) -> None:
        self.verdict: Verdict | None = None
        self._cancelled = False
        self._process: subprocess.Popen[bytes] | None = None
        conf = site.ltsconf
        small = conf.size <= INLINE_BYTES and len(subjects) <= INLINE_MACHINES
        if small and not conf.needs_rendering:
            self.verdict = survey(site, subjects)
            return
        # The menus and the extras are of no use there, and a folder may be large.
        site = dataclasses.replace(site, extras=NO_EXTRAS)
        job = pickle.dumps((site, list(subjects), SURVEY_SECONDS))
        threading.Thread(
            target=self._work, args=(job, len(subjects)), name="survey", daemon=True
        ).start()

    @property
    def done(self) -> bool:
        """Whether the verdict is there."""
        return self.verdict is not None

    def cancel(self) -> None:
        """End the survey; its verdict does not count then."""
        self._cancelled = True
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()

    def _work(self, job: bytes, total: int) -> None:
        try:
            with hangup_spares_children():
                self._process = process = subprocess.Popen(
                    [sys.executable, "-m", "server.boot.rehearsal"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd=Path(__file__).parents[2],
                    env={"PATH": os.environ.get("PATH", ""), "PYTHONUTF8": "1"},
                )
            try:
                if self._cancelled:
                    return
                answer, _ = process.communicate(job, SURVEY_SECONDS + _SPARE_SECONDS)
            finally:
                process.kill()
            data = json.loads(answer)
            reasons = tuple(
                Reason(one["words"], one["count"], tuple(one["names"])) for one in data["reasons"]
            )
            troubles = tuple(Trouble(**one) for one in data["troubles"])
            self.verdict = Verdict(**{**data, "reasons": reasons, "troubles": troubles})
        except (OSError, ValueError, TypeError, KeyError, subprocess.SubprocessError) as error:
            words = f"lts.conf could not be tried on all machines: {type(error).__name__}"
            self.verdict = Verdict(total=total, broken=words)


def main() -> None:
    """Survey what standard input holds; the verdict as JSON."""
    ignore_hangup()
    os.nice(10)  # what nodes wait for comes first
    site, subjects, seconds = pickle.load(sys.stdin.buffer)
    verdict = survey(site, subjects, seconds=seconds)
    print(json.dumps(dataclasses.asdict(verdict)))


if __name__ == "__main__":
    main()
