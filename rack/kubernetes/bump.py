"""`make kubernetes-bump VERSION=1.37.3`: everything that another Kubernetes changes.

The family's go.mod is written anew from what the module itself requires, go.sum is
made by Go, and the recipes of the present Kubernetes name the new version and the
sandbox image that its kubeadm names. Nothing else holds a version.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from rack.cache import checkout_directory, run
from rack.errors import RackError
from rack.kubernetes.families import KUBERNETES
from rack.kubernetes.toolchain import Toolchain, find_toolchain, go_environment

CONSTANTS = "cmd/kubeadm/app/constants/constants.go"


@dataclass(frozen=True)
class Release:
    """A published k8s.io/kubernetes. version: without v. go_mod: its go.mod's text.
    pause: the sandbox image's tag that its kubeadm names."""

    version: str
    go_mod: str
    pause: str

    @property
    def minor(self) -> str:
        """`1.37` of a version 1.37.2."""
        return self.version.rpartition(".")[0]


def render_go_mod(release: Release, tools: str) -> str:
    """The family's go.mod before `go mod tidy`; `tools` is its block of `tool` lines.

    Kubernetes' own go.mod has its staging repositories by a local replacement, which
    counts for the main module only: v0.0.0 there is the release's v0.MINOR.PATCH here.
    """
    staging = re.findall(r"^\s+(k8s\.io/\S+) v0\.0\.0$", release.go_mod, re.M)
    if not staging:
        raise RackError(f"k8s.io/kubernetes v{release.version} requires no staging repository")
    go = re.search(r"^go \S+$", release.go_mod, re.M)
    debug = re.findall(r"^godebug \S+$", release.go_mod, re.M)
    tag = "v0." + release.version.partition(".")[2]
    replaced = "".join(f"\t{name} => {name} {tag}\n" for name in staging)
    return "\n".join(
        [
            f"module bootfarm/{KUBERNETES.name}\n",
            f"{go.group() if go else 'go 1.26.0'}\n",
            *(f"{line}\n" for line in debug),
            f"require {KUBERNETES.module} v{release.version}\n",
            f"replace (\n{replaced})\n",
            tools,
        ]
    )


def move_recipe(text: str, old: str, new: Release) -> str:
    """A recipe that names Kubernetes `old` (1.37.2), naming `new`; others stay as they are."""
    old_minor = old.rpartition(".")[0]
    version = re.compile(rf'^(\s+version: ")({re.escape(old)}|{re.escape(old_minor)})(")$', re.M)
    if not version.search(text):
        return text

    def moved(found: re.Match[str]) -> str:
        given = new.version if found.group(2) == old else new.minor
        return f"{found.group(1)}{given}{found.group(3)}"

    text = version.sub(moved, text)
    text = text.replace(f"/v{old_minor}/", f"/v{new.minor}/")
    return re.sub(r"(registry\.k8s\.io/pause:)[\d.]+\d", rf"\g<1>{new.pause}", text)


def fetch_release(version: str, toolchain: Toolchain, work: Path) -> Release:
    """What the Go proxy has of a version. RackError if it has none."""
    module = f"{KUBERNETES.module}@v{version}"
    argv: list[str | Path] = [toolchain.program, "mod", "download", "-json", module]
    try:
        # Run outside of any module: none requires this version yet.
        said = run(argv, cwd=work, env={**go_environment(), "GOFLAGS": ""}, timeout=600)
    except RackError as error:
        raise RackError(
            f"no Go proxy has {KUBERNETES.module} v{version}: {error.message}",
            hint=f"`go list -m -versions {KUBERNETES.module}` lists those that there are",
        ) from None
    known = json.loads(said)
    constants = (Path(known["Dir"]) / CONSTANTS).read_text()
    pause = re.search(r'\bPauseVersion = "([\d.]+)"', constants)
    if pause is None:
        raise RackError(f"kubeadm {version} names no pause image in {CONSTANTS}")
    return Release(version, Path(known["GoMod"]).read_text(), pause.group(1))


def bump(version: str, checkout: Path) -> list[Path]:
    """Move the checkout to a Kubernetes version; the files that changed."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise RackError(
            f"{version!r} is no version of Kubernetes",
            hint="give it as 1.37.3: `make kubernetes-bump VERSION=1.37.3`",
        )
    old = KUBERNETES.version
    modules = checkout / KUBERNETES.directory.relative_to(checkout_directory())
    go_mod, go_sum = modules / "go.mod", modules / "go.sum"
    toolchain = find_toolchain(print)
    release = fetch_release(version, toolchain, checkout / "recipes")
    before = {path: path.read_text() for path in (go_mod, go_sum)}
    tools = "tool (" + before[go_mod].partition("\ntool (")[2]
    try:
        go_mod.write_text(render_go_mod(release, tools))
        go_sum.write_text("")
        run([toolchain.program, "mod", "tidy"], cwd=modules, env=_tidying(), timeout=1800)
    except BaseException:
        for path, text in before.items():
            path.write_text(text)
        raise
    changed = [path for path, text in before.items() if path.read_text() != text]
    for recipe in sorted((checkout / "recipes").glob("*.yaml")):
        text = recipe.read_text()
        if (moved := move_recipe(text, old, release)) != text:
            recipe.write_text(moved)
            changed.append(recipe)
    return changed


def _tidying() -> dict[str, str]:
    return {**go_environment(), "GOFLAGS": "-mod=mod"}


def main(words: list[str]) -> int:
    """The command: one version."""
    if len(words) != 1:
        print("usage: make kubernetes-bump VERSION=1.37.3", file=sys.stderr)
        return 2
    try:
        changed = bump(words[0], checkout_directory())
    except RackError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return 1
    for path in changed:
        print(f"changed {path.relative_to(checkout_directory())}")
    print(
        "then: `bootfarm rack packages` compiles it, `make test` and `make test-kubernetes` try it"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
