"""Real builds: mmdebstrap, dkms, patches, mksquashfs. Minutes at first, then from the cache."""

import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from imagebuild.apt import AptView, machine_mirrors
from imagebuild.errors import BuildError
from imagebuild.pipeline import Options, build, cache_directory, run_stages
from imagebuild.recipe.ingredients import Recipe, Squashfs
from imagebuild.recipe.mirrors import load_recipe_with
from imagebuild.recipe.read import load_recipe
from imagebuild.run import Chroot, run
from imagebuild.store.images import Image, Store
from imagebuild.store.manifest import SBOMS
from tests.imagebuild.sbom.test_documents import check_spdx

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

RECIPES = Path(__file__).parents[2] / "recipes"

SMALL = """\
name: small
release: bookworm
kernel: {package: linux-image-cloud-amd64}
packages: [openssh-server, apparmor, cron]
builds:
  - dkms: acpi-call-dkms
  - name: hello
    file: hello.c
    sha256: "%s"
    commands:
      - test "$SOURCE" = "$PWD/hello.c" && grep -q processor /proc/cpuinfo
      - gcc -o /usr/local/bin/hello "$SOURCE" && touch /usr/local/bin/undeclared
    outputs: [/usr/local/bin/hello]
patches: [{series: patches}]
initramfs: {modules: [acpi_call]}
skip_maintainer_scripts: {cron: [postinst]}
services: {mask: [cron.service]}
files: [{path: /etc/motd, content: "hello\\n", mode: "0600"}]
cmdline: [console=ttyS0]
lts_defaults: {LTSP_NBD_TO_RAM: "true"}
squashfs: {level: 1}
"""
HELLO = "int main(void) { return 42; }\n"
PATCH = """\
Description: a banner of our own
Forwarded: not-needed
--- a/etc/issue
+++ b/etc/issue
@@ -1 +1 @@
-Debian GNU/Linux 12 \\n \\l
+Node \\n \\l
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("small")
    (place / "hello.c").write_text(HELLO)
    (place / "patches").mkdir()
    (place / "patches/series").write_text("0001-banner.patch  # ours\n")
    (place / "patches/0001-banner.patch").write_text(PATCH)
    digest = hashlib.sha256(HELLO.encode()).hexdigest()
    (place / "recipe.yaml").write_text(SMALL % digest)
    return place


def mounts() -> list[str]:
    """What is mounted where the builder works; other tests mount elsewhere meanwhile."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split()[4].startswith(str(cache_directory()))]


@pytest.fixture(scope="module")
def image(place: Path) -> Iterator[Image]:
    before = mounts()
    recipe = load_recipe(place / "recipe.yaml")
    yield build(recipe, Store(place / "store"), Options(cache_directory()), ["current"])
    assert mounts() == before
    assert not (cache_directory() / "work").exists()


@pytest.fixture(scope="module")
def root(image: Image, place: Path) -> Path:
    run(["unsquashfs", "-q", "-n", "-d", place / "root", image.path / "rootfs.squashfs"])
    return place / "root"


@pytest.fixture(scope="module")
def initramfs(image: Image, place: Path) -> set[str]:
    return list_initramfs(image.path / "initrd.img", load_recipe(place / "recipe.yaml"))


def list_initramfs(initrd: Path, recipe: Recipe) -> set[str]:
    """The paths in an initramfs, by the lsinitramfs of the recipe's own release."""
    stages = run_stages(recipe, Options(cache_directory()), "basesystem")
    chroot = Chroot(stages["basesystem"] / "root", binds=((initrd.parent, "/mnt"),))
    return set(chroot.run(["lsinitramfs", f"/mnt/{initrd.name}"]).splitlines())


def test_the_manifest_describes_the_image(image: Image) -> None:
    Store(image.path.parents[2]).verify(image)
    manifest = image.manifest
    assert re.fullmatch(r"6\.1\.0-\d+-cloud-amd64", manifest.kernel)
    assert manifest.cmdline == ("console=ttyS0",)
    assert {"openssh-server", "cron", "initramfs-tools"} <= set(manifest.packages)
    assert set(manifest.stages) == {
        *("ltsp-base", "basesystem", "builder", "ltsp-image", "final"),
    }
    boot = {"boot/grub/i386-pc/core.0", "boot/grub/x86_64-efi/core.efi"}
    boot |= {"boot/ipxe/undionly.kpxe", "boot/ipxe/snponly.efi"}
    assert boot | {"rootfs.squashfs", "vmlinuz", "initrd.img"} <= set(manifest.files)


def test_the_bill_of_materials_has_all_that_is_in_the_image(image: Image) -> None:
    spdx = json.loads((image.path / SBOMS["spdx"]).read_text())
    check_spdx(spdx)
    text = (image.path / SBOMS["cyclonedx"]).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    notices = (image.path / SBOMS["notices"]).read_text()
    for words in ("\nlinux-signed-amd64 6.1.", "packages: grub-efi-amd64-bin", "packages: ipxe"):
        assert words in notices
    named = {one["name"]: one for one in spdx["packages"]}
    packages = {
        one["name"]: one["versionInfo"] for one in spdx["packages"] if "externalRefs" in one
    }
    assert packages == dict(image.manifest.packages)
    assert named["linux-image-cloud-amd64"]["sourceInfo"].startswith(
        "built from the source package linux-signed-amd64 "
    )
    assert named["openssh-server"]["licenseDeclared"] != "NOASSERTION"
    built = {name for name, one in named.items() if "stage builder" in one.get("sourceInfo", "")}
    assert {"/usr/lib/bootfarm/nbdroot", "/usr/local/bin/hello"} <= built
    assert any(name.endswith((".ko", ".ko.xz")) for name in built)
    for path in ("rootfs.squashfs", "vmlinuz", "initrd.img", "boot/grub/i386-pc/core.0"):
        (checksum,) = named[path]["checksums"]
        assert checksum["checksumValue"] == image.manifest.files[path].sha256
    assert named["small"]["versionInfo"] == image.manifest.stages["final"]


def test_the_listing_is_the_squashfs(image: Image, root: Path) -> None:
    from imagebuild.chroot.listing import render_listing

    assert (image.path / "rootfs.list").read_text() == render_listing(root)


def test_nothing_that_must_differ_between_nodes(root: Path) -> None:
    assert list(root.glob("etc/ssh/ssh_host_*")) == []
    assert not (root / "var/lib/systemd/random-seed").exists()
    assert (root / "etc/machine-id").read_bytes() == b""
    assert (root / "etc/shadow").read_text().startswith("root:!:")


def test_nothing_of_the_build_stays(root: Path) -> None:
    for path in ("usr/sbin/policy-rc.d", "usr/bin/gcc", "usr/src/bootfarm", "usr/sbin/dkms"):
        assert not (root / path).exists(), path
    assert not (root / "usr/local/bin/undeclared").exists()
    assert list((root / "var/lib/apt/lists").iterdir()) == []
    assert list((root / "var/cache/apt").iterdir()) == []
    assert sorted(path.name for path in (root / "etc/apt/apt.conf.d").iterdir()) == [
        "01autoremove",
        "01bootfarm",
        "70debconf",
    ]


def test_apt_in_the_image(root: Path) -> None:
    sources = (root / "etc/apt/sources.list.d/debian.sources").read_text()
    assert "Suites: bookworm bookworm-updates\n" in sources
    assert "Suites: bookworm-security\n" in sources
    conf = (root / "etc/apt/apt.conf.d/01bootfarm").read_text()
    assert 'APT::Install-Recommends "false";' in conf
    assert 'APT::Periodic::Enable "0";' in conf
    timer = root / "etc/systemd/system/apt-daily-upgrade.timer"
    assert os.readlink(timer) == "/dev/null"


def test_no_recommends_came_in(image: Image) -> None:
    # openssh-server recommends it, cron suggests the other.
    assert not {"libpam-systemd", "xauth", "checksecurity"} & set(image.manifest.packages)


def test_drivers_from_the_builder(root: Path, initramfs: set[str], image: Image) -> None:
    modules = root / "usr/lib/modules" / image.manifest.kernel
    [driver] = (modules / "updates").rglob("acpi_call.ko*")
    assert str(driver.relative_to(modules)) in (modules / "modules.dep").read_text()
    assert any(path.endswith("/acpi_call.ko") for path in initramfs)
    assert (root / "usr/local/bin/hello").stat().st_mode & 0o111


def test_nbdroot_is_static(root: Path) -> None:
    binary = root / "usr/lib/bootfarm/nbdroot"
    assert binary.stat().st_mode & 0o777 == 0o755
    headers = run(["readelf", "--program-headers", "--wide", binary])
    assert "LOAD" in headers
    assert "INTERP" not in headers


def test_the_initramfs_boots_our_way(initramfs: set[str]) -> None:
    assert {"scripts/bootfarm", "etc/lts.conf", "usr/lib/bootfarm/nbdroot"} <= initramfs
    names = {path.rsplit("/", 1)[-1] for path in initramfs}
    assert {"nbd.ko", "overlay.ko", "squashfs.ko", "loop.ko"} <= names


def test_the_initramfs_holds_what_a_network_root_needs_and_no_more(initramfs: set[str]) -> None:
    modules = {path.rsplit("/", 1)[-1].split(".ko")[0] for path in initramfs if ".ko" in path}
    # Cards of hypervisors and of metal, as far as the cloud kernel has them.
    assert {"virtio_net", "vmxnet3", "hv_netvsc", "ena", "mlx5_core"} <= modules
    assert not {"sd_mod", "ahci", "nvme", "xfs", "btrfs", "nfs", "usb-storage"} & modules
    names = {path.rsplit("/", 1)[-1] for path in initramfs}
    assert not {"lvm", "dmsetup", "hwdb.bin", "e2fsck"} & names


def test_patches_files_services_and_skipped_scripts(root: Path) -> None:
    assert (root / "etc/issue").read_text().startswith("Node \\n")
    assert (root / "etc/motd").read_text() == "hello\n"
    assert (root / "etc/motd").stat().st_mode & 0o777 == 0o600
    assert os.readlink(root / "etc/systemd/system/cron.service") == "/dev/null"
    # cron's postinst would have made this link; it never ran, and dpkg knows nothing of that.
    assert not (root / "etc/systemd/system/multi-user.target.wants/cron.service").is_symlink()
    assert not (root / "var/lib/dpkg/info/cron.postinst").exists()
    assert (root / "etc/lts.conf").read_text() == (
        '# bootfarm lts.conf\nLTSP_NBD_TO_RAM="true"\n# end\n'
    )


def test_apparmor_profiles_are_disabled(root: Path) -> None:
    for profile in (root / "etc/apparmor.d").iterdir():
        if profile.is_file() and profile.name.startswith(("sbin.", "usr.")):
            assert (root / "etc/apparmor.d/disable" / profile.name).is_symlink()


def test_the_same_again_is_the_same_image(image: Image, place: Path) -> None:
    recipe = load_recipe(place / "recipe.yaml")
    events: list[str] = []
    options = Options(cache_directory(), lambda event: events.append(event.kind))
    again = build(recipe, Store(place / "store"), options, ["current"])
    assert again.digest == image.digest
    assert events.count("cached") == 5


def variant(place: Path, name: str, old: str, new: str) -> Path:
    text = (place / "recipe.yaml").read_text()
    assert old in text
    path = place / f"{name}.yaml"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("package", "openssh-server", "opensh-server", "packages, kernel.package: no such package"),
        ("patch", "series: patches", "series: bad", r"0001-bad\.patch: does not apply below /"),
        ("command", "gcc -o", "false -o", r"builds\.hello\.commands\[1\]: exit status"),
        ("output", "outputs: [/usr/local/bin/hello]", "outputs: [/no]", r"outputs\[0\]: nothing"),
        ("unit", "mask: [cron.service]", "enable: [nothing.service]", r"services\.enable\[0\]"),
    ],
)
def test_what_cannot_be_built_publishes_nothing(
    image: Image, place: Path, name: str, old: str, new: str, message: str
) -> None:
    (place / "bad").mkdir(exist_ok=True)
    (place / "bad/series").write_text("0001-bad.patch\n")
    (place / "bad/0001-bad.patch").write_text(PATCH.replace("-Debian", "-Devuan"))
    before, store = mounts(), Store(place / "other-store")
    recipe = load_recipe(variant(place, name, old, new))
    with pytest.raises(BuildError, match=message) as caught:
        build(recipe, store, Options(cache_directory()), ["current"])
    assert store.images() == []
    assert mounts() == before
    if name == "package":
        assert caught.value.hint == "did you mean 'openssh-server'?"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_mount_and_no_image(
    image: Image, place: Path, number: signal.Signals
) -> None:
    path = variant(place, f"interrupted-{number}", "hello\\n", f"{number}-{os.getpid()}\\n")
    before = mounts()
    argv = [sys.executable, "-c", "from bootfarm import main; main()", "build", str(path)]
    argv += ["--store", str(place / "interrupted-store")]
    checkout = Path(__file__).parents[2]
    with subprocess.Popen(
        argv, cwd=checkout, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as builder:
        assert builder.stderr is not None
        # The initramfs is being made: a chroot with mounts and processes in it.
        seen = [line for line in iter_until(builder.stderr, "initramfs")]
        assert seen
        builder.send_signal(number)
        rest = builder.stderr.read()
    assert builder.returncode != 0
    if number != signal.SIGKILL:
        assert "interrupted: nothing was published" in rest
        assert "Traceback" not in rest
        assert not (cache_directory() / "work").exists()
    assert Store(place / "interrupted-store").images() == []
    assert mounts() == before


def iter_until(stream: Iterator[str], word: str) -> Iterator[str]:
    for line in stream:
        yield line
        if word in line:
            return
    raise AssertionError(f"the build ended before {word!r}")


# production.yaml


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """production.yaml with both repositories replaced by a local one, as without internet."""
    directory = tmp_path_factory.mktemp("upstream")
    key = make_flat_repository(directory)
    words = [f"{n}=file:{directory},key={key},suite=/" for n in ("kubernetes", "docker")]
    recipe = load_recipe_with(RECIPES / "production.yaml", None, words)
    return replace(recipe, squashfs=Squashfs(1))


STAND_INS = {
    "kubelet": ("1.37.0-1.1", "1.37.1-1.1", "1.38.0-1.1"),
    "kubeadm": ("1.37.0-1.1", "1.37.1-1.1", "1.38.0-1.1"),
    "kubectl": ("1.37.0-1.1", "1.37.1-1.1", "1.38.0-1.1"),
    "cri-tools": ("1.37.0-1.1",),
    "kubernetes-cni": ("1.10.0-1.1",),
    "containerd.io": ("1.7.29-1", "2.4.2-1"),
}
STAND_IN_FILES = {
    "kubernetes-cni": {"opt/cni/bin/loopback": "", "opt/cni/bin/bridge": ""},
    "containerd.io": {
        "etc/containerd/config.toml": 'disabled_plugins = ["cri"]\n',
        "usr/lib/systemd/system/containerd.service": "[Service]\nExecStart=/usr/bin/containerd\n"
        "[Install]\nWantedBy=multi-user.target\n",
    },
}


def make_flat_repository(directory: Path) -> Path:
    """A signed flat repository (`deb URI /`) of stand-ins for upstream's; returns its key."""
    for package, versions in STAND_INS.items():
        depends = "Depends: kubernetes-cni\n" if package == "kubelet" else ""
        for version in versions:
            tree = directory / "tree"
            (tree / "DEBIAN").mkdir(parents=True)
            (tree / "DEBIAN/control").write_text(
                f"Package: {package}\nVersion: {version}\nArchitecture: amd64\n{depends}"
                "Maintainer: nobody <nobody@example.org>\nDescription: a stand-in\n"
            )
            for path, text in STAND_IN_FILES.get(package, {}).items():
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).write_text(text)
            name = f"{package}_{version}_amd64.deb"
            run(["dpkg-deb", "--root-owner-group", "-b", tree, directory / name])
            shutil.rmtree(tree)
    (directory / "Packages").write_text(run(["apt-ftparchive", "packages", "."], cwd=directory))
    (directory / "Release").write_text(run(["apt-ftparchive", "release", "."], cwd=directory))
    home = directory / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    run([*gpg, "--quick-generate-key", "upstream <u@example.org>", "rsa3072", "sign", "never"])
    run([*gpg, "--armor", "--output", "Release.key", "--export"], cwd=directory)
    run([*gpg, "--output", "InRelease", "--clearsign", "Release"], cwd=directory)
    run(["gpgconf", "--homedir", str(home), "--kill", "all"])
    shutil.rmtree(home, ignore_errors=True)  # the agent takes its sockets away meanwhile
    return directory / "Release.key"


def test_productions_packages_resolve(production: Recipe) -> None:
    from imagebuild.chroot import runtime
    from imagebuild.stages import basesystem

    view = AptView(production, cache_directory())
    view.update()
    names = [*basesystem.packages(production), *runtime.packages(production)]
    resolved = view.resolve(names, "packages")
    assert set(names) <= set(resolved)
    # The newest patch release of the minor version, not the next minor.
    for package in ("kubelet", "kubeadm", "kubectl"):
        assert resolved[package] == "1.37.1-1.1"
    assert resolved["containerd.io"] == "2.4.2-1"
    assert {"intel-microcode", "firmware-bnx2x"} <= set(resolved)
    assert not {"docker.io", "containerd"} & set(resolved)


def test_productions_initramfs_has_every_network_driver_and_its_firmware(
    production: Recipe,
) -> None:
    stages = run_stages(production, Options(cache_directory()), "ltsp-image")
    root = stages["basesystem"] / "root"
    product = stages["ltsp-image"] / "product"
    chroot = Chroot(root, binds=((product, "/mnt"),))
    present = set(chroot.run(["lsinitramfs", "/mnt/initrd.img"]).splitlines())
    [modules] = (root / "usr/lib/modules").iterdir()
    drivers = sorted((modules / "kernel/drivers/net/ethernet").rglob("*.ko*"))
    assert len(drivers) > 100
    assert [path for path in drivers if str(path.relative_to(root)) not in present] == []
    names = [path.name.split(".ko")[0] for path in drivers]
    named = set(chroot.run(["modinfo", "-F", "firmware", "-k", modules.name, *names]).split())
    available = debian_firmware(production)
    wanted = {name for name in named if available & {name, f"{name}.xz", f"{name}.zst"}}
    assert len(wanted) > 50
    there = {path.split("lib/firmware/", 1)[1] for path in present if "lib/firmware/" in path}
    missing = [name for name in sorted(wanted) if not there & {name, f"{name}.xz", f"{name}.zst"}]
    assert missing == []


def debian_firmware(recipe: Recipe) -> set[str]:
    """Every path below lib/firmware/ that a package of the recipe's release has."""
    mirror = (recipe.mirrors or machine_mirrors(recipe.distribution)).archive
    found: set[str] = set()
    for component in recipe.components:
        for architecture in ("all", "amd64"):
            name = f"dists/{recipe.release}/{component}/Contents-{architecture}.gz"
            with (
                urllib.request.urlopen(f"{mirror}/{name}", timeout=60) as response,
                gzip.open(response, "rt", encoding="utf-8") as lines,
            ):
                for line in lines:
                    if "lib/firmware/" in line:
                        path = line.rsplit(None, 1)[0]
                        found.add(path.split("lib/firmware/", 1)[1])
    return found


def test_productions_settings(production: Recipe) -> None:
    stages = run_stages(production, Options(cache_directory()), "ltsp-image")
    listing = (stages["ltsp-image"] / "product/rootfs.list").read_text()
    for path in (
        "/etc/containerd/config.toml",
        "/etc/kubernetes/kubelet.conf.d/50-recipe.conf",
        "/etc/systemd/system/kubelet.service.d/30-bootfarm-recipe.conf",
        "/etc/crictl.yaml",
        "/usr/share/bootfarm/runtime",
    ):
        assert re.search(rf" {re.escape(path)}$", listing, re.M), path
    assert not re.search(r" /etc/cni/net\.d/.*conflist$", listing, re.M)
    assert not re.search(r" /etc/apt/sources\.list\.d/kubernetes", listing, re.M)
    assert not re.search(r" /etc/apt/(sources\.list\.d|keyrings)/docker", listing, re.M)
    wanted = "/etc/systemd/system/multi-user.target.wants/containerd.service -> "
    assert wanted in listing
    assert production.cmdline[:3] == ("forcepae", "console=tty1", "console=ttyS0,9600n8")
