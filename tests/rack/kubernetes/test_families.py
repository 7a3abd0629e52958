import signal
import subprocess
import threading
from pathlib import Path

import pytest

from rack.errors import RackError
from rack.kubernetes import build
from rack.kubernetes.build import compile_families, forecast
from rack.kubernetes.compile import (
    Built,
    Compilers,
    build_options,
    cached_directory,
    family_key,
)
from rack.kubernetes.families import (
    CHART_FAMILIES,
    CNI,
    KUBERNETES,
    MODULES,
    NETWORK_FAMILIES,
    NODE_FAMILIES,
    RUNC,
    Family,
    read_go_version,
    read_requirement,
)
from rack.kubernetes.toolchain import Toolchain, find_toolchain, needed_version, parse_version
from rack.progress import Progress

FAMILIES = (*NODE_FAMILIES, *NETWORK_FAMILIES, *CHART_FAMILIES)
GO = Toolchain(Path("/go"), "go1.26.8")


def test_each_folder_of_modules_is_a_family_with_its_sums() -> None:
    families = {family.name for family in FAMILIES}
    assert families == {path.name for path in MODULES.iterdir()}
    for family in FAMILIES:
        sums = (family.directory / "go.sum").read_text()
        assert f"{family.module} {family.tag} h1:" in sums
        assert (
            (family.directory / "go.mod").read_text().startswith(f"module bootfarm/{family.name}\n")
        )


def test_versions_are_read_from_go_mod_alone(tmp_path: Path) -> None:
    path = tmp_path / "go.mod"
    path.write_text("module x\n\ngo 1.26.8\n\nrequire (\n\ta.b/c v1.2.3 // indirect\n)\n")
    assert read_requirement(path, "a.b/c") == "v1.2.3"
    assert read_go_version(path) == (1, 26, 8)
    with pytest.raises(RackError, match=r"does not require a\.b"):
        read_requirement(path, "a.b")
    path.write_text("module x\n")
    with pytest.raises(RackError, match="no `go` line"):
        read_go_version(path)


def test_kubernetes_tells_its_version_and_date() -> None:
    options = build_options(KUBERNETES, "2026-11-10T00:00:00Z")
    (linker,) = [word for word in options if word.startswith("-ldflags=")]
    major, minor = KUBERNETES.version.split(".")[:2]
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        assert f"-X {package}.gitVersion={KUBERNETES.tag}" in linker
        assert f"-X {package}.gitMajor={major}" in linker
        assert f"-X {package}.gitMinor={minor}" in linker
        assert f"-X {package}.buildDate=2026-11-10T00:00:00Z" in linker
    assert "-trimpath" in options


def test_runc_is_static_and_knows_seccomp() -> None:
    options = build_options(RUNC, "")
    assert "-tags=seccomp,netgo,osusergo" in options
    assert any('-extldflags "-static"' in option for option in options)


def test_a_family_is_built_anew_when_it_or_go_changes_and_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = family_key(CNI, GO)
    assert family_key(CNI, Toolchain(Path("/go"), "go1.27.0")) != key
    assert family_key(CNI, Toolchain(Path("/elsewhere/go"), "go1.26.8")) == key
    copied = tmp_path / "modules"
    for family in (CNI, RUNC):
        (copied / family.name).mkdir(parents=True)
        for name in ("go.mod", "go.sum"):
            (copied / family.name / name).write_bytes((family.directory / name).read_bytes())
    monkeypatch.setattr("rack.kubernetes.families.MODULES", copied)
    assert family_key(CNI, GO) == key
    with (copied / "runc" / "go.sum").open("a") as sums:
        sums.write("\n")
    assert family_key(CNI, GO) == key
    with (copied / "cni" / "go.sum").open("a") as sums:
        sums.write("\n")
    assert family_key(CNI, GO) != key


def test_the_forecast_names_what_is_missing_and_the_minutes() -> None:
    text = forecast([KUBERNETES, CNI], "go1.26.8", 2)
    minutes = round((KUBERNETES.cpu_seconds + CNI.cpu_seconds) / 120)
    assert f"kubernetes {KUBERNETES.version}, cni {CNI.version} with go1.26.8" in text
    assert f"about {minutes} min on 2 cores" in text
    assert "about 1 min on 1 core," in forecast([CNI], "go1.26.8", 1)


def test_what_is_cached_is_neither_forecast_nor_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOOTFARM_CACHE", str(tmp_path))
    made = tmp_path / "kubernetes" / f"cni-{CNI.version}-{family_key(CNI, GO)}"
    made.mkdir(parents=True)
    (made / "epoch").write_text("7\n")
    said: list[str] = []
    built = compile_families([CNI], GO, said.append)
    assert (built["cni"].epoch, built["cni"].program("bridge")) == (7, made / "bin" / "bridge")
    assert said == []


def test_where_one_family_fails_the_others_compilers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()
    ended: list[int] = []

    def compile_one(
        family: Family, toolchain: Toolchain, progress: Progress, compilers: Compilers
    ) -> Built:
        if family is KUBERNETES:
            assert begun.wait(20)
            raise RackError("the compiler does not like it")
        process = subprocess.Popen(["sleep", "1000"], text=True, start_new_session=True)
        with compilers.running(process):
            begun.set()
            ended.append(process.wait())
        raise AssertionError("nobody asks any more")

    monkeypatch.setattr(build, "compile_family", compile_one)
    with pytest.raises(RackError, match="does not like it"):
        compile_families([KUBERNETES, CNI, CNI], GO, print)
    assert set(ended) == {-signal.SIGKILL}


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("go version go1.26.8 linux/amd64\n", (1, 26, 8)),
        ("go version go1.27 linux/amd64\n", (1, 27)),
        ("go version devel go1.28-abcdef linux/amd64\n", ()),
        ("", ()),
    ],
)
def test_go_versions(said: str, version: tuple[int, ...]) -> None:
    assert parse_version(said) == version


def test_the_newest_go_line_counts() -> None:
    assert needed_version() == max(
        read_go_version(family.directory / "go.mod") for family in FAMILIES
    )


@pytest.mark.integration
def test_a_proxy_that_does_not_answer_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolchain = find_toolchain(print)
    monkeypatch.setenv("BOOTFARM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("GOPROXY", "http://127.0.0.1:9")
    with pytest.raises(
        RackError, match=r"cni .* could not be fetched from http://127.0.0.1:9"
    ) as told:
        compile_families([CNI], toolchain, print)
    assert "GOPROXY" in told.value.hint
    assert "--kubernetes debian" in told.value.hint
    assert not cached_directory(CNI, toolchain).exists()
