"""The five stages in order: their ids, what the cache has of them, and the cleaning up behind them.

A stage that is done lies below CACHE/stages/<id>/ with its product and, for
basesystem, its root file system; it got there by one rename. Work in progress
lies below CACHE/work/ and is removed whatever happens.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from imagebuild.apt import AptView
from imagebuild.errors import BuildError
from imagebuild.lock import archive
from imagebuild.lock.lockfile import read_lock
from imagebuild.lock.view import LockedView, make_lock, other_machine
from imagebuild.recipe.ingredients import Recipe
from imagebuild.run import Log, can_isolate, check_emulation, check_tools, run
from imagebuild.stage import Stage, StageContext, stage_id
from imagebuild.stages import basesystem, builder, final, ltsp_base, ltsp_image
from imagebuild.store.images import Image, Store

STAGES = cast(tuple[Stage, ...], (ltsp_base, basesystem, builder, ltsp_image, final))
ROOT_FROM = {builder.NAME: basesystem.NAME, ltsp_image.NAME: basesystem.NAME}
KEEPS_ROOT = (basesystem.NAME,)
KEPT = 4
"""Finished stages of each name that stay in the cache, those used last."""
DEB_DAYS = 60
"""Days after which a downloaded .deb is fetched again if it is still wanted."""


@dataclass(frozen=True)
class Event:
    """Progress: `kind` is start, step, cached, done, note or waiting; `seconds` since the stage
    began."""

    stage: str
    kind: str
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Options:
    """How to build: where caches and logs go, who listens, whether to use finished stages.

    lock: a file with the packages to build from; it is made when it is not there.
    """

    cache: Path
    listen: Callable[[Event], None] = lambda event: None
    line: Callable[[str], None] | None = None
    fresh: bool = False
    log: Path | None = field(default=None)
    lock: Path | None = None


def cache_directory() -> Path:
    """$BOOTFARM_CACHE, or ~/.cache/bootfarm."""
    given = os.environ.get("BOOTFARM_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "bootfarm"


def build(recipe: Recipe, store: Store, options: Options, tags: Collection[str]) -> Image:
    """Run what is not done yet of the five stages and publish the image.

    BuildError says what failed; neither then nor when it is interrupted is
    anything left in the store, mounted, or running.
    """
    with _finished(recipe, options, STAGES) as directories:
        started = time.monotonic()
        options.listen(Event("store", "start"))
        result = directories[final.NAME] / "product" / final.IMAGE
        image = store.import_image(result, tags=tags)
        options.listen(Event("store", "done", time.monotonic() - started))
        return image


def run_stages(recipe: Recipe, options: Options, last: str) -> dict[str, Path]:
    """Run the stages up to `last`; stage name to its directory in the cache."""
    names = [stage.NAME for stage in STAGES]
    with _finished(recipe, options, STAGES[: names.index(last) + 1]) as directories:
        return directories


@contextlib.contextmanager
def _finished(
    recipe: Recipe, options: Options, stages: Sequence[Stage]
) -> Iterator[dict[str, Path]]:
    """Run the stages; their directories, kept from other builds' pruning within this context."""
    if os.geteuid() != 0:
        raise BuildError("building an image needs root", hint="sudo bootfarm build ...")
    tools = {tool: package for stage in stages for tool, package in stage.TOOLS.items()}
    check_tools(tools | (archive.TOOLS if options.lock else {}))
    check_emulation(recipe.architecture)
    with _usual_modes(), locked(options):
        log = Log(options.log or new_log(options.cache, recipe.name), options.line)
        options.listen(Event("packages", "start"))
        started = time.monotonic()
        apt = _open_view(recipe, options, log)
        ids = stage_ids(recipe, apt)
        options.listen(Event("packages", "done", time.monotonic() - started))
        directories: dict[str, Path] = {}
        with _work_directory(options.cache) as work:
            runner = _Runner(recipe, apt, options, log, ids, work)
            for stage in stages:
                directories[stage.NAME] = runner.finish(stage, directories)
        yield directories
        prune(options.cache, keep=set(ids.values()))


def _open_view(recipe: Recipe, options: Options, log: Log) -> AptView:
    """What apt would install, updated: of the mirrors, or of the lock, which is made first where
    it is not there."""
    if options.lock is None:
        view = AptView(recipe, options.cache, log)
        view.update()
        return view
    if not can_isolate():
        raise BuildError(
            "--lock: this machine lets a build mount nothing",
            hint="build outside of a container, or in one that may make namespaces",
        )
    fresh = not options.lock.exists()
    if fresh:
        mirrored = AptView(recipe, options.cache, log)
        mirrored.update()
        stage_ids(recipe, mirrored)  # asks for every package
        lock = make_lock(mirrored, options.lock)
    else:
        lock = read_lock(options.lock)
        lock.check(recipe)
        if words := other_machine(lock):
            options.listen(Event("packages", "note", detail=words))
    locked_view = LockedView(recipe, options.cache, lock, log)
    started = time.monotonic()

    def say(text: str) -> None:
        options.listen(Event("packages", "step", time.monotonic() - started, text))

    locked_view.lay_out(say)
    locked_view.update()
    if fresh:
        lock.write()
    done = "written" if fresh else "obeyed"
    detail = f"{lock.file}: {done}, {archive.describe(lock)}"
    options.listen(Event("packages", "note", detail=detail))
    return locked_view


@contextlib.contextmanager
def _usual_modes() -> Iterator[None]:
    """Within this context new files get the usual mode 0644, whatever the caller's umask.

    With a stricter umask the image would hold files that only root can read.
    """
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def stage_ids(recipe: Recipe, apt: AptView) -> dict[str, str]:
    """Stage name to id; each id contains the one before it."""
    ids: dict[str, str] = {}
    previous = ""
    for stage in STAGES:
        previous = stage_id(previous, stage.NAME, stage.inputs(recipe, apt))
        ids[stage.NAME] = previous
    return ids


@dataclass(frozen=True)
class _Runner:
    recipe: Recipe
    apt: AptView
    options: Options
    log: Log
    ids: dict[str, str]
    work: Path

    def finish(self, stage: Stage, finished: dict[str, Path]) -> Path:
        """The directory of the finished stage, which is run now if it is not there."""
        name, listen = stage.NAME, self.options.listen
        target = self.options.cache / "stages" / self.ids[name]
        if (target / "stage.json").is_file() and not self.options.fresh:
            os.utime(target)
            listen(Event(name, "cached"))
            return target
        started = time.monotonic()

        def say(text: str) -> None:
            listen(Event(name, "step", time.monotonic() - started, text))

        listen(Event(name, "start"))
        place = self.work / name
        (place / "product").mkdir(parents=True)
        root = place / "root"
        if name in ROOT_FROM:
            say("copy of basesystem")
            copy_tree(finished[ROOT_FROM[name]] / "root", root)
        elif name in KEEPS_ROOT:
            root.mkdir()
        stage.run(
            StageContext(
                recipe=self.recipe,
                apt=self.apt,
                root=root,
                product=place / "product",
                products={key: path / "product" for key, path in finished.items()},
                cache=self.options.cache,
                isolate=can_isolate(),
                log=self.log,
                say=say,
                ids=self.ids,
            )
        )
        if name not in KEEPS_ROOT:
            remove_tree(root)
        description = {"name": name, "id": self.ids[name], "recipe": str(self.recipe.file)}
        (place / "stage.json").write_text(json.dumps(description) + "\n")
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_tree(target)
        place.rename(target)
        listen(Event(name, "done", time.monotonic() - started))
        return target


def copy_tree(source: Path, target: Path) -> None:
    """A copy with owners, modes, times, links and extended attributes."""
    run(["cp", "-a", "--reflink=auto", str(source), str(target)], what="cannot copy a stage's root")


def remove_tree(path: Path) -> None:
    """Remove a tree that may be absent; refused while something is mounted in it."""
    real = str(path.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split()[4].encode().decode("unicode_escape")
        if place == real or place.startswith(real + "/"):
            raise BuildError(f"{place} is mounted", hint=f"umount {place}, then build again")
    if path.exists():
        shutil.rmtree(path)


def prune(cache: Path, keep: Collection[str] = ()) -> None:
    """Remove finished stages beyond the KEPT used last of each name, old .debs and logs."""
    by_name: dict[str, list[Path]] = {}
    for path in (cache / "stages").glob("*"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            name = json.loads((path / "stage.json").read_text())["name"]
            by_name.setdefault(name, []).append(path)
    for paths in by_name.values():
        paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in paths[KEPT:]:
            if path.name not in keep:
                # Renamed first: half a stage must never look finished.
                (path / "stage.json").unlink()
                remove_tree(path)
    oldest = time.time() - DEB_DAYS * 86400
    for path in (cache / "apt" / "archives").glob("*.deb"):
        if path.stat().st_ctime < oldest:
            path.unlink()
    archive.prune(cache)
    logs = sorted((cache / "logs").glob("build-*.log"), key=lambda path: path.stat().st_mtime)
    for path in logs[:-20]:
        path.unlink()


def new_log(cache: Path, name: str) -> Path:
    """The file for the output of one build's commands."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return cache / "logs" / f"build-{name}-{stamp}-{os.getpid()}.log"


@contextlib.contextmanager
def locked(options: Options) -> Iterator[None]:
    """One build at a time in a cache; apt's own locks would make the second one fail."""
    options.cache.mkdir(parents=True, exist_ok=True)
    with (options.cache / "build.lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip()
            detail = f"another build{f' (process {holder})' if holder else ''} to end"
            options.listen(Event("cache", "waiting", detail=detail))
            fcntl.flock(stream, fcntl.LOCK_EX)
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


@contextlib.contextmanager
def _work_directory(cache: Path) -> Iterator[Path]:
    """A directory that is removed at the end; remains of killed builds go first (no other build
    runs)."""
    parent = cache / "work"
    remove_tree(parent)
    parent.mkdir(parents=True)
    parent.chmod(0o755)
    work = Path(tempfile.mkdtemp(dir=parent))
    work.chmod(0o755)
    try:
        yield work
    finally:
        remove_tree(parent)
