"""The command lines of the stages, word for word."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from imagebuild.apt import AptView
from imagebuild.architecture import ARCHITECTURES, Grub
from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import Mirrors, Recipe
from imagebuild.run import NAMESPACES, Log
from imagebuild.stage import StageContext, stage_id
from imagebuild.stages import basesystem, builder, final, ltsp_image
from imagebuild.store.verity import Verity

RecipeOf = Callable[..., Recipe]
GRUBS = {
    firmware.grub.platform: firmware.grub
    for architecture in ARCHITECTURES.values()
    for firmware in architecture.firmware
}


def grub_of(platform: str) -> Grub:
    return GRUBS[platform]


@pytest.fixture
def context(recipe_of: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageContext:
    recipe = dataclasses.replace(recipe_of(), mirrors=Mirrors("http://a", "http://s"))
    monkeypatch.setattr("imagebuild.apt.machine_proxies", lambda: ())
    return StageContext(
        recipe=recipe,
        apt=AptView(recipe, tmp_path / "cache"),
        root=Path("/build/root"),
        product=tmp_path / "product",
        products={},
        cache=Path("/cache"),
    )


def test_mmdebstrap_with_the_cache_mounted(context: StageContext) -> None:
    archives = "/var/cache/apt/archives"
    assert basesystem.bootstrap_argv(context) == [
        *NAMESPACES,
        "mmdebstrap",
        "--mode=root",
        "--variant=apt",
        "--architectures=amd64",
        "--format=directory",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=APT::Sandbox::User "root"',
        "--dpkgopt=force-unsafe-io",
        "--skip=essential/unlink",
        f'--setup-hook=mkdir -p "$1{archives}" && mount --bind "/cache/apt/archives" '
        f'"$1{archives}" && mkdir -p "$1{archives}/partial"',
        f'--customize-hook=umount "$1{archives}"',
        "",
        "/build/root",
        "-",
    ]


def test_mmdebstrap_where_nothing_can_be_mounted(context: StageContext) -> None:
    argv = basesystem.bootstrap_argv(dataclasses.replace(context, isolate=False))
    assert argv[0] == "mmdebstrap"
    assert not any("mount" in word for word in argv)


def test_mksquashfs() -> None:
    assert ltsp_image.squash_argv(Path("/r"), Path("/s"), 3, 1000) == [
        *("mksquashfs", "/r", "/s", "-comp", "zstd", "-Xcompression-level", "3"),
        *("-b", "131072", "-noappend", "-no-progress", "-xattrs", "-mkfs-time", "1000"),
    ]


@pytest.mark.parametrize(
    ("platform", "target", "own"),
    [
        ("i386-pc", "i386-pc-pxe", "pxe"),
        ("x86_64-efi", "x86_64-efi", "efinet"),
        ("arm64-efi", "arm64-efi", "efinet"),
    ],
)
def test_grub_mkimage(platform: str, target: str, own: str) -> None:
    source = Path("/usr/lib/grub") / platform
    argv = final.boot_loader_argv("amd64", grub_of(platform), source, Path("/out/core"))
    assert argv[:9] == [
        *("grub-mkimage", "--format", target, "--directory", f"/usr/lib/grub/{platform}"),
        *("--prefix", "/ltsp/amd64/grub", "--output", "/out/core"),
    ]
    needed = "regexp net tftp http linux normal serial terminal test sleep reboot echo configfile"
    assert {own, *needed.split()} <= set(argv[9:])


def test_every_module_exists() -> None:
    for platform, own in (("i386-pc", "pxe"), ("x86_64-efi", "efinet")):
        directory = Path("/usr/lib/grub") / platform
        if not directory.is_dir():
            pytest.skip(f"GRUB's platform {platform} is not installed")
        names = final.boot_loader_argv("a", grub_of(platform), directory, Path("x"))[9:]
        assert own in names
        assert [name for name in names if not (directory / f"{name}.mod").is_file()] == []


def test_ipxe_for_each_firmware(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe_of: RecipeOf
) -> None:
    monkeypatch.setattr(final, "IPXE", tmp_path)
    for name in ("undionly.kpxe", "snponly.efi", "ipxe.iso"):
        (tmp_path / name).write_text(name)
    context = cast(StageContext, SimpleNamespace(recipe=recipe_of()))
    final.copy_ipxe(context, tmp_path / "image/boot/ipxe")
    copied = {path.name: path.read_text() for path in (tmp_path / "image/boot/ipxe").iterdir()}
    assert copied == {"undionly.kpxe": "undionly.kpxe", "snponly.efi": "snponly.efi"}


def test_loaders_of_arm64_are_those_that_basesystem_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe_of: RecipeOf
) -> None:
    recipe = dataclasses.replace(recipe_of(), architecture="arm64")
    unpacked = tmp_path / "basesystem/loaders/usr/lib"
    (unpacked / "ipxe").mkdir(parents=True)
    for name in ("ipxe-amd64.efi", "ipxe-arm64.efi"):
        (unpacked / "ipxe" / name).write_text(name)
    (unpacked / "grub/arm64-efi").mkdir(parents=True)
    for name in ("net.mod", "command.lst", "kernel.img"):
        (unpacked / "grub/arm64-efi" / name).write_text(name)
    said: list[list[str]] = []
    monkeypatch.setattr(final, "run_command", lambda argv, **rest: said.append(argv))
    products = {basesystem.NAME: tmp_path / "basesystem"}
    log = Log()
    context = cast(StageContext, SimpleNamespace(recipe=recipe, products=products, log=log))
    final.copy_ipxe(context, tmp_path / "image/ipxe")
    assert [path.name for path in (tmp_path / "image/ipxe").iterdir()] == ["ipxe-arm64.efi"]
    final.make_boot_loader(context, GRUBS["arm64-efi"], tmp_path / "image/grub")
    assert {path.name for path in (tmp_path / "image/grub").iterdir()} == {"net.mod", "command.lst"}
    assert said[0][:5] == [
        *("grub-mkimage", "--format", "arm64-efi"),
        *("--directory", str(unpacked / "grub/arm64-efi")),
    ]


def test_an_image_of_a_release_without_ipxe_for_arm64_has_grub_alone(
    tmp_path: Path, recipe_of: RecipeOf
) -> None:
    recipe = dataclasses.replace(recipe_of(), architecture="arm64")
    products = {basesystem.NAME: tmp_path}
    context = cast(StageContext, SimpleNamespace(recipe=recipe, products=products))
    final.copy_ipxe(context, tmp_path / "ipxe")
    assert not (tmp_path / "ipxe").exists()


def test_ipxe_is_looked_for_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe_of: RecipeOf
) -> None:
    monkeypatch.setattr(final, "IPXE", tmp_path)
    (tmp_path / "undionly.kpxe").write_text("")
    recipe = recipe_of()
    with pytest.raises(BuildError, match=r"snponly\.efi") as caught:
        final.inputs(recipe, AptView(recipe, tmp_path, Log()))
    assert caught.value.hint == "apt-get install ipxe"


def test_other_ipxe_loaders_make_another_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe_of: RecipeOf
) -> None:
    monkeypatch.setattr(final, "IPXE", tmp_path)
    recipe = recipe_of()
    ids = []
    for content in ("old", "new", "new"):
        for name in ("undionly.kpxe", "snponly.efi"):
            (tmp_path / name).write_text(content)
        ids.append(stage_id("", final.NAME, final.inputs(recipe, AptView(recipe, tmp_path, Log()))))
    assert ids[0] != ids[1] == ids[2]


@pytest.mark.parametrize(
    ("kernel", "headers"),
    [
        ("linux-image-cloud-amd64", "linux-headers-cloud-amd64"),
        ("linux-image-6.1.0-49-amd64", "linux-headers-6.1.0-49-amd64"),
    ],
)
def test_headers_are_beside_the_kernel(recipe_of: RecipeOf, kernel: str, headers: str) -> None:
    recipe = dataclasses.replace(recipe_of(), kernel_package=kernel)
    assert builder.headers_package(recipe) == headers


def test_short_versions() -> None:
    packages = {"docker.io": "20.10.24+dfsg1-1+deb12u1+b6", "kubelet": "1.37.0-1.1", "x": "1"}
    packages["openssh-server"] = "1:9.2p1-2+deb12u3"
    assert final.short_versions(packages) == {
        "docker.io": "20.10.24",
        "kubelet": "1.37.0",
        "openssh-server": "9.2",
    }


def test_outputs_are_found_through_links_and_stay_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/lib/modules/6.1/updates/deep").mkdir(parents=True)
    (root / "usr/lib/modules/6.1/updates/deep/x.ko").write_text("x")
    (root / "lib").symlink_to("usr/lib")
    (root / "out").symlink_to("/etc")
    updates = "usr/lib/modules/6.1/updates"
    assert [str(path) for path in builder.find_outputs(root, "/lib/modules/*/updates")] == [
        updates,
        f"{updates}/deep",
        f"{updates}/deep/x.ko",
    ]
    assert builder.find_outputs(root, "/usr/bin/nothing") == []
    with pytest.raises(BuildError, match="leads out of the image"):
        builder.find_outputs(root, "/out/passwd")


def test_only_outputs_leave_the_builder(tmp_path: Path) -> None:
    root, target = tmp_path / "root", tmp_path / "target"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_text("tool")
    (root / "usr/bin/tool").chmod(0o4755)
    (root / "usr/bin/gcc").write_text("gcc")
    (root / "usr/bin/alias").symlink_to("tool")
    builder.pack_outputs(root, ["/usr/bin/tool", "/usr/bin/alias"], tmp_path / "outputs.tar")
    (target / "usr/bin").mkdir(parents=True)
    (target / "bin").symlink_to("usr/bin")
    builder.unpack_outputs(tmp_path / "outputs.tar", target)
    assert sorted(path.name for path in (target / "usr/bin").iterdir()) == ["alias", "tool"]
    assert (target / "usr/bin/tool").stat().st_mode & 0o7777 == 0o4755
    assert (target / "bin").is_symlink()


def test_a_package_built_anew_under_its_old_version_is_another_input(
    recipe_of: RecipeOf, tmp_path: Path
) -> None:
    index = tmp_path / "apt/dists/stable/main/binary-amd64/Packages"
    index.parent.mkdir(parents=True)
    index.write_text("Package: kubelet\nSHA256: 1\n")
    recipe = recipe_of(
        "repositories: [{name: own, uri: 'file:apt', suite: stable, components: [main], key: k}]\n"
    )
    [(label, path)] = ltsp_image._indexes(recipe.repositories[0])
    assert (label, path) == ("repositories/own/main/binary-amd64/Packages", index)
    flat = dataclasses.replace(recipe.repositories[0], suite="./", components=())
    (tmp_path / "apt/Packages").write_text("")
    assert [name for name, _ in ltsp_image._indexes(flat)] == ["repositories/own/Packages"]
    far = dataclasses.replace(flat, uri="https://x")
    assert ltsp_image._indexes(far) == []


@pytest.mark.parametrize(
    ("packages", "refused"),
    [
        ({"kubelet": "1.38.0-1.1", "containerd": "1.7.24~ds1-6"}, True),
        ({"kubelet": "1.38.0-1.1", "containerd.io": "2.4.2-1"}, False),
        ({"kubelet": "1.37.2-1.1", "containerd": "1.7.24~ds1-6"}, False),
    ],
)
def test_a_pair_that_apt_would_install_and_that_cannot_work(
    recipe_of: RecipeOf, packages: dict[str, str], refused: bool
) -> None:
    recipe = recipe_of(
        "repositories: [{name: k, uri: 'http://x', suite: /, key: k}]\n"
        "kubernetes: {version: '1.37', repository: k}\n"
        "container_runtime: {name: containerd, package: containerd.io}\n"
    )
    if refused:
        with pytest.raises(BuildError, match=r"container_runtime: kubelet 1\.38 cannot use"):
            ltsp_image.refuse_pairs(recipe, packages)
    else:
        assert ltsp_image.refuse_pairs(recipe, packages).kubelet is not None


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        ({"kernel/drivers/md/dm-mod.ko.xz": "", "kernel/drivers/md/dm-verity.ko.xz": ""}, None),
        ({"modules.builtin": "kernel/md/dm-mod.ko\nkernel/md/dm-verity.ko\n"}, None),
        ({"modules.builtin": "kernel/md/dm-mod.ko\n"}, "dm-verity"),
        ({"kernel/drivers/md/dm-verity.ko": ""}, "dm-mod"),
        ({"modules.builtin": "kernel/md/not-dm-mod.ko\n", "x/dm-verity-x.ko": ""}, "dm-mod"),
    ],
)
def test_a_kernel_that_cannot_check_blocks_is_refused(
    context: StageContext, tmp_path: Path, files: dict[str, str], lacks: str | None
) -> None:
    root = tmp_path / "root"
    for name, text in {"boot/vmlinuz-6.1": "", "usr/lib/modules/6.1/x": ""}.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    (root / "usr/lib/modules/6.1/x").unlink()
    for name, text in files.items():
        path = root / "usr/lib/modules/6.1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    context = dataclasses.replace(context, root=root)
    if lacks is None:
        ltsp_image.refuse_without_verity(context)
        return
    with pytest.raises(BuildError, match=f"verity: the kernel 6.1 has no {lacks}$") as caught:
        ltsp_image.refuse_without_verity(context)
    assert "kernel.package" in caught.value.hint


def test_the_hash_trees_facts_reach_the_manifest(recipe_of: RecipeOf, tmp_path: Path) -> None:
    verity = Verity(5, 6, "0" * 64, "1" * 64)
    path = tmp_path / ltsp_image.VERITY
    assert final.read_verity(path) is None
    path.write_text(json.dumps(vars(verity)))
    found = final.read_verity(path)
    assert final.make_manifest(recipe_of(), {}, {}, {}, found).verity == verity
    assert final.make_manifest(recipe_of(), {}, {}, {}).verity is None


class Said:
    """A chroot that notes what it would run."""

    def __init__(self) -> None:
        self.argv: list[list[str]] = []

    def run(self, argv: list[str], what: str = "") -> str:
        self.argv.append(argv)
        return ""


def test_verityroot_is_static_and_shares_the_log(tmp_path: Path) -> None:
    said = Said()
    context = SimpleNamespace(root=tmp_path, chroot=said)
    builder.build_nbdroot(cast(StageContext, context))
    builder.build_verityroot(cast(StageContext, context))
    nbdroot, verityroot = said.argv
    assert "-static" in nbdroot
    assert not any("verity" in word for word in nbdroot)
    assert "-static" in verityroot
    assert verityroot[verityroot.index("-o") + 1] == builder.VERITYROOT
    sources = {word for word in verityroot if word.endswith(".c")}
    assert {"/usr/src/bootfarm/log.c", "/usr/src/bootfarm/verity/verityroot.c"} <= sources
    assert "/usr/src/bootfarm/nbdroot.c" not in sources
    assert all((tmp_path / word.lstrip("/")).is_file() for word in sources)
