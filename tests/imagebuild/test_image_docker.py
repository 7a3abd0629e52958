"""`bootfarm container` with a real engine and a real registry.

The demo's recipe by the classic builder, a small one by BuildKit. The engine's images
are kept from run to run (tests/docker_engine.py), so only what changed is built.
"""

import contextlib
import importlib.metadata
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuild.apt import machine_mirrors
from imagebuild.store.images import Store
from tests.docker_engine import (
    Engine,
    environment,
    import_base,
    kept_engine,
    package_state,
    program,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

HOUSE = Path(__file__).parents[2]
DEMO = HOUSE / "recipes/demo.yaml"
SMALL = """
name: small
release: bookworm
packages: [nbd-client]
kernel: {package: linux-image-cloud-amd64}
cmdline: [console=ttyS0]
squashfs: {level: 1}
files: [{path: /etc/motd, source: motd}]
"""
BOOTFARM = (sys.executable, "-c", "from bootfarm import main; main()")

# Lines of rootfs.list (mode, owner, type, size, path) that may differ, and why: none is known.
ALLOWED: dict[str, str] = {}
# Keys of manifest.json that may differ, and why.
ALLOWED_KEYS = {
    "files": "contents carry build times: the initramfs, and caches that packages generate",
    "stages": "the id covers the boot loaders of the machine, which the container has its own of",
}


def bootfarm(*words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([*BOOTFARM, *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with kept_engine(tmp_path_factory.mktemp("engine")) as engine:
        import_base(engine)
        yield engine


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("recipe")
    (directory / "motd").write_text("booted from a container\n")
    (directory / "small.yaml").write_text(SMALL)
    return directory / "small.yaml"


def build_options() -> tuple[str, ...]:
    """What each build here is given: no bridge, the base from this machine's mirror."""
    return (
        *("--network", "host", "--build-arg", f"PACKAGES_AS_OF={package_state()}"),
        *("--build-arg", "BASE_IMAGE=bootfarm-base:bookworm"),
    )


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's docker-registry on a port of loopback, as `127.0.0.1:port`."""
    directory = tmp_path_factory.mktemp("registry")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": address},
    }
    (directory / "config.yml").write_text(json.dumps(config))
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [program("docker-registry"), "serve", directory / "config.yml"],
            env=environment(),
            stdout=log,
            stderr=log,
        )
    try:
        host, port = address.split(":")
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port))):
                break
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def built(engine: Engine, registry: str) -> list[str]:
    """The lines that `bootfarm container build` prints: references, then name@digest."""
    done = bootfarm(
        *("container", "build", str(DEMO), "--engine", engine.url, *build_options()),
        *("--squashfs-level", "3", "--tag", f"{registry}/farm:ci"),
    )
    for stage in ("ltsp-base", "basesystem", "builder", "ltsp-image", "final"):
        assert f"{stage} " in done.stderr
    return done.stdout.splitlines()


def test_tagged_by_the_digest_of_the_node_image(
    engine: Engine, built: list[str], registry: str
) -> None:
    name, digest = built[-1].split("@")
    assert name == "amd64"
    assert built[:-1] == [f"{registry}/farm:{digest}", f"{registry}/farm:ci"]
    ids = {engine.docker("inspect", "-f", "{{.Id}}", tag).stdout for tag in built[:-1]}
    assert len(ids) == 1
    labels = json.loads(engine.docker("inspect", "-f", "{{json .Config.Labels}}", built[0]).stdout)
    version = importlib.metadata.version("bootfarm")
    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.base.name"] == "bootfarm-base:bookworm"


def test_a_server_edit_rebuilds_the_final_stage_only(
    engine: Engine, built: list[str], tmp_path: Path
) -> None:
    context = tmp_path / "context.tar"
    bootfarm("container", "build", str(DEMO), "--squashfs-level", "3", "--context", str(context))
    edited = tmp_path / "edited.tar"
    with tarfile.open(context) as source, tarfile.open(edited, "w") as target:
        for member in source:
            data = source.extractfile(member).read() if member.isfile() else b""  # type: ignore[union-attr]
            if member.name == "server/app.py":
                data += f"# an edit at {time.time_ns()}\n".encode()
                member.size = len(data)
            target.addfile(member, io.BytesIO(data))
    with edited.open("rb") as stdin:
        done = subprocess.run(
            [
                *(str(program("docker")), "--host", engine.url, "build", *build_options()),
                *("--build-arg", "RECIPE=recipes/packed", "-"),
            ],
            stdin=stdin,
            env={**environment(), "DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    stage = ""
    rebuilt: dict[str, list[str]] = {}
    for step in done.stdout.split("\nStep ")[1:]:
        text = step.splitlines()[0].split(" : ", 1)[1]
        if text.startswith("FROM "):
            stage = text.rpartition(" ")[2]
        elif not text.startswith("ARG") and "Using cache" not in step:
            rebuilt.setdefault(stage, []).append(text)
    # The throw-away stage that cuts the recipe sees every file; nothing but slices leaves it.
    assert set(rebuilt) == {"recipe", "server", "final"}, rebuilt
    assert rebuilt["server"][0].startswith("COPY server ")
    assert rebuilt["final"][0] == "COPY --from=server /usr/lib/bootfarm /usr/lib/bootfarm"


def test_nothing_of_the_build_is_in_the_final_image(engine: Engine, built: list[str]) -> None:
    script = (
        "for tool in gcc mksquashfs mmdebstrap grub-mkimage patch setcap;"
        " do ! command -v $tool || exit 1; done;"
        ' test -z "$(ls /var/lib/apt/lists)" && test ! -e /farm'
        " && cd /usr/lib/bootfarm/imagebuild && ls -d * store/* && id -u"
    )
    done = engine.docker("run", "--rm", "--entrypoint", "sh", built[0], "-c", script)
    store = {f"store/{path.name}" for path in (HOUSE / "imagebuild/store").glob("*.py")}
    *found, user = done.stdout.split()
    assert set(found) == store | {
        *("__init__.py", "architecture.py", "errors.py", "options.py", "store"),
        *("wholefile.py", "yamlloader.py"),
    }
    assert user == "10069"


def listing(store: Path, name: str) -> dict[str, str]:
    """Path to mode, owner, type, size and target of each file of a node image."""
    text = (Store(store).get(name).path / "rootfs.list").read_text()
    return {line.split(" ", 5)[5].partition(" -> ")[0]: line for line in text.splitlines()}


def test_the_same_bits_as_on_the_host(engine: Engine, built: list[str], tmp_path: Path) -> None:
    docker, host = tmp_path / "docker", tmp_path / "host"
    bootfarm("container", "extract", built[0], "--store", str(docker), "--engine", engine.url)
    bootfarm("build", str(DEMO), "--store", str(host), "--squashfs-level", "3")
    ours, theirs = Store(docker).get("amd64"), Store(host).get("amd64")
    assert f"{ours.name}@{ours.digest}" == built[-1]
    files = listing(docker, "amd64"), listing(host, "amd64")
    assert len(files[0]) > 10_000
    differing = {
        path: (files[0].get(path), files[1].get(path))
        for path in files[0] | files[1]
        if files[0].get(path) != files[1].get(path)
    }
    assert {path: lines for path, lines in differing.items() if path not in ALLOWED} == {}
    assert set(ALLOWED) <= set(differing), "what is allowed and does not differ any more"
    manifests = [json.loads((image.path / "manifest.json").read_text()) for image in (ours, theirs)]
    for key in manifests[0] | manifests[1]:
        if key not in ALLOWED_KEYS:
            assert manifests[0][key] == manifests[1][key], key
    assert set(manifests[0]["files"]) == set(manifests[1]["files"])
    for name in ("vmlinuz", "boot/grub/x86_64-efi/normal.mod", "boot/grub/i386-pc/normal.mod"):
        assert manifests[0]["files"][name] == manifests[1]["files"][name], name


def test_pushed_and_fetched_and_extracted(
    engine: Engine, built: list[str], registry: str, tmp_path: Path
) -> None:
    done = bootfarm("container", "push", *built[:-1], "--engine", engine.url)
    lines = done.stdout.splitlines()
    assert [line.split("@sha256:")[0] for line in lines] == built[:-1]
    by_digest = f"{registry}/farm@sha256:{lines[0].split('@sha256:')[1]}"
    engine.docker("pull", by_digest)
    bootfarm("container", "extract", built[0], "--store", str(tmp_path), "--engine", engine.url)
    image = Store(tmp_path).get("amd64")
    assert f"amd64@{image.digest}" == built[-1]
    Store(tmp_path).verify(image)


def test_no_registry_and_no_such_image_are_one_error_each(
    engine: Engine, built: list[str], tmp_path: Path
) -> None:
    engine.docker("tag", built[0], "127.0.0.1:1/farm:ci")
    done = bootfarm("container", "push", "127.0.0.1:1/farm:ci", "--engine", engine.url, check=False)
    assert done.returncode == 1
    assert "the push failed" in done.stderr
    assert "hint: does 127.0.0.1:1 run" in done.stderr
    for words, says in (
        (("push", "127.0.0.1:1/none:ci"), "no such image"),
        (("extract", "nothing:here", "--store", str(tmp_path)), "no such image"),
        (("extract", "bootfarm-base:bookworm", "--store", str(tmp_path)), "holds no node image"),
    ):
        done = bootfarm("container", *words, "--engine", engine.url, check=False)
        assert done.returncode == 1
        assert says in done.stderr
    assert Store(tmp_path).images() == []
    assert "none" not in engine.docker("ps", "--all", "--quiet").stdout


def test_a_failing_stage_says_why_in_one_line(engine: Engine, small: Path) -> None:
    bad = small.with_name("bad.yaml")
    bad.write_text(SMALL.replace("nbd-client", "nbd-clientt"))
    before = engine.docker("images", "--quiet", "--filter", "dangling=false").stdout
    done = bootfarm(
        *("container", "build", str(bad), "--engine", engine.url, *build_options()),
        *("--tag", "farm:bad"),
        check=False,
    )
    assert done.returncode == 1
    error = done.stderr[done.stderr.index("Error: ") :].splitlines()
    assert "no such package: nbd-clientt" in error[0]
    assert "did you mean 'nbd-client'?" in error[1]
    assert engine.docker("images", "--quiet", "--filter", "dangling=false").stdout == before


def test_no_room_in_the_store_leaves_it_as_it_was(
    engine: Engine, built: list[str], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "8m"):
        words = ("extract", built[0], "--store", str(tmp_path / "disk/store"))
        done = bootfarm("container", *words, "--engine", engine.url, check=False)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) <= 2, done.stderr
        assert "No space left on device" in done.stderr
        assert Store(tmp_path / "disk/store").images() == []
        assert list((tmp_path / "disk/store/tmp").iterdir()) == []


def test_no_room_for_the_engine_is_said_in_one_line(small: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "240m"):
        cramped = Engine(tmp_path / "engine", data=tmp_path / "disk")
        try:
            import_base(cramped)
            done = bootfarm(
                *("container", "build", str(small), "--engine", cramped.url, *build_options()),
                check=False,
            )
        finally:
            cramped.stop()
    assert done.returncode == 1
    error = done.stderr[done.stderr.index("Error: ") :].splitlines()
    assert "the engine's disk is full" in error[0]
    assert "docker system prune" in error[1]


def test_no_permission_and_no_engine(engine: Engine, tmp_path: Path) -> None:
    """Root without its right to pass over permissions, before a socket of somebody else."""
    status = engine.socket.stat()
    os.chown(engine.socket, 65534, 65534)
    engine.socket.chmod(0o600)
    try:
        rights = "--bounding-set=-dac_override,-dac_read_search"
        done = subprocess.run(
            ["setpriv", rights, *BOOTFARM, "container", "push", "farm:ci", "--engine", engine.url],
            capture_output=True,
            text=True,
        )
    finally:
        os.chown(engine.socket, status.st_uid, status.st_gid)
        engine.socket.chmod(status.st_mode & 0o7777)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"Error: no permission to use the Docker engine ({engine.url})",
        "  hint: run as root, or as a user of the group docker",
    ]
    nowhere = f"unix://{tmp_path}/docker.sock"
    done = bootfarm("container", "push", "farm:ci", "--engine", nowhere, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: no Docker engine answers at {nowhere}: ")
    assert len(done.stderr.splitlines()) == 2


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """A file system of that size."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", path], check=True)


LIMITS = (
    *("--network", "host", "--user", "10069:10069", "--cap-drop", "ALL"),
    *("--cap-add", "NET_BIND_SERVICE", "--read-only", "--volume", "farm:/var/lib/bootfarm"),
)


def test_runs_without_root_and_stops_at_once(engine: Engine, built: list[str]) -> None:
    engine.docker("run", "--detach", "--name", "farm", *LIMITS, built[0])
    check = ("exec", "farm", "bootfarm", "healthcheck", "--config", "/etc/bootfarm/farm.yaml")
    try:
        end = time.monotonic() + 60
        while True:
            done = engine.docker(*check, check=False)
            # The services answer before the baked image is in the store.
            if done.returncode == 0 and "/ltsp/none/" not in done.stdout:
                break
            logs = engine.docker("logs", "farm")
            running = engine.docker("inspect", "-f", "{{.State.Running}}", "farm").stdout.strip()
            assert running == "true", logs.stdout + logs.stderr
            assert time.monotonic() < end, done.stderr
            time.sleep(0.5)
        assert "tftp: 512 bytes of /ltsp/amd64/grub/i386-pc/core.0" in done.stdout
        status = engine.docker("exec", "farm", "cat", "/proc/1/status").stdout
        assert "Uid:\t10069\t10069\t10069\t10069" in status
        assert "CapEff:\t0000000000000400" in status
        touched = engine.docker("exec", "farm", "touch", "/usr/lib/bootfarm/x", check=False)
        assert "Read-only file system" in touched.stderr
        engine.docker("stop", "--time", "5", "farm")
        # 137 would be SIGKILL, after the five seconds.
        code = engine.docker("inspect", "-f", "{{.State.ExitCode}}", "farm").stdout.strip()
        assert code == "0"
    finally:
        engine.docker("rm", "--force", "farm", check=False)


def test_buildkit_builds_it_too_from_the_mirror_that_it_is_given(
    engine: Engine, small: Path, tmp_path: Path
) -> None:
    mirrors = machine_mirrors("debian")
    bootfarm("container", "build", str(small), "--context", str(tmp_path / "context.tar"))
    with (tmp_path / "context.tar").open("rb") as context:
        done = subprocess.run(
            [
                *(str(program("docker")), "--host", engine.url, "build", "--progress", "plain"),
                *(*build_options(), "--build-arg", "RECIPE=recipes/packed"),
                *("--build-arg", f"DEBIAN_MIRROR={mirrors.archive}"),
                *("--build-arg", f"DEBIAN_SECURITY_MIRROR={mirrors.security}"),
                *("--tag", "farm:buildkit", "-"),
            ],
            stdin=context,
            env={**environment(), "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    store = tmp_path / "store"
    bootfarm("container", "extract", "farm:buildkit", "--store", str(store), "--engine", engine.url)
    bootfarm("build", str(small), "--store", str(tmp_path / "host"))
    assert listing(store, "small") == listing(tmp_path / "host", "small")
    show = ("run", "--rm", "--network", "host", "--entrypoint", "cat", "farm:buildkit")
    assert engine.docker(*show, "/etc/apt/sources.list").stdout.splitlines() == [
        f"deb {mirrors.archive} bookworm main",
        f"deb {mirrors.archive} bookworm-updates main",
        f"deb {mirrors.security} bookworm-security main",
    ]
