import dataclasses
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuild.chroot import configure
from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import AddedFile, Console, Recipe

RecipeOf = Callable[..., Recipe]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for directory in ("etc", "root", "usr/lib", "usr/bin", "usr/sbin"):
        (root / directory).mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "etc/shadow").write_text("root:*:1:0:::::\ndaemon:*:1:0:::::\n")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1234:1234::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nstaff:x:50:\n")
    return root


def test_rootfs_files_links_and_modes(root: Path, tmp_path: Path) -> None:
    source = tmp_path / "rootfs"
    (source / "usr/src/bootfarm").mkdir(parents=True)
    (source / "usr/src/bootfarm/x.c").write_text("")
    (source / "sbin").mkdir()
    (source / "sbin/init-ltsp").write_text("#!/bin/sh\n")
    (source / "sbin/init-ltsp").chmod(0o700)
    (source / "etc").mkdir()
    (source / "etc/conf").write_text("x")
    (source / "etc/conf").chmod(0o600)
    links = tmp_path / "rootfs.links"
    links.write_text("# path  what it says\netc/link  /nowhere\nnew/place/link  ../x\n")
    configure.install_rootfs(root, source, links)
    assert (root / "sbin/init-ltsp").stat().st_mode & 0o777 == 0o755
    assert (root / "etc/conf").stat().st_mode & 0o777 == 0o644
    assert os.readlink(root / "etc/link") == "/nowhere"
    assert os.readlink(root / "new/place/link") == "../x"
    assert not (root / "usr/src").exists()
    configure.install_rootfs(root, source, links)
    assert os.readlink(root / "etc/link") == "/nowhere"


def test_a_link_gives_way_to_a_packages_directory(root: Path, tmp_path: Path) -> None:
    links = tmp_path / "rootfs.links"
    links.write_text("opt/cni/bin /usr/lib/cni\n")
    (root / "opt/cni/bin").mkdir(parents=True)
    (root / "opt/cni/bin/loopback").write_text("")
    configure.install_rootfs(root, tmp_path / "empty", links)
    assert (root / "opt/cni/bin/loopback").is_file()


def test_our_own_rootfs_can_be_installed(root: Path) -> None:
    configure.install_rootfs(root)
    assert (root / "usr/share/initramfs-tools/hooks/bootfarm-drivers").stat().st_mode & 0o100
    assert (root / "usr/sbin/init-ltsp").stat().st_mode & 0o100
    wants = root / "etc/systemd/system/multi-user.target.wants/bootfarm-rcfile.service"
    assert os.readlink(wants) == "/usr/lib/systemd/system/bootfarm-rcfile.service"
    assert wants.name in (root / os.readlink(wants).lstrip("/")).name


def test_apparmor_profiles_are_disabled_by_links(root: Path) -> None:
    directory = root / "etc/apparmor.d"
    (directory / "abstractions").mkdir(parents=True)
    for name in ("sbin.dhclient", "usr.bin.man", "lsb_release", "usr.d"):
        (directory / name).mkdir() if name == "usr.d" else (directory / name).write_text("")
    configure.disable_apparmor_profiles(root)
    links = {path.name: os.readlink(path) for path in (directory / "disable").iterdir()}
    assert links == {
        "sbin.dhclient": "/etc/apparmor.d/sbin.dhclient",
        "usr.bin.man": "/etc/apparmor.d/usr.bin.man",
    }
    configure.disable_apparmor_profiles(root)


def test_lts_defaults_are_flat_text(root: Path, recipe_of: RecipeOf) -> None:
    configure.write_lts_defaults(root, recipe_of("lts_defaults: {B: 'a \"b\"', A: ''}\n"))
    text = (root / "etc/lts.conf").read_text()
    assert text == '# bootfarm lts.conf\nA=""\nB="a "b""\n# end\n'


def test_initramfs_modules_and_drivers(root: Path, recipe_of: RecipeOf) -> None:
    recipe = recipe_of("initramfs: {modules: [e1000, bnx2x], network_drivers: all}\n")
    configure.write_initramfs_modules(root, recipe)
    assert (root / "etc/initramfs-tools/modules").read_text() == "e1000\nbnx2x\n"
    conf = (root / "etc/initramfs-tools/conf.d/bootfarm-drivers").read_text()
    assert "BOOTFARM_ALL_NETWORK_DRIVERS=y\n" in conf
    verity = root / "etc/initramfs-tools/conf.d/bootfarm-verity"
    assert not verity.exists()
    configure.write_initramfs_modules(root, dataclasses.replace(recipe, verity=True))
    assert "BOOTFARM_VERITY=y\nexport BOOTFARM_VERITY\n" in verity.read_text()


def with_console(recipe: Recipe, console: Console) -> Recipe:
    import dataclasses

    return dataclasses.replace(recipe, console=console)


def test_console_is_locked_by_default(root: Path, recipe_of: RecipeOf) -> None:
    configure.set_console(root, recipe_of())
    assert (root / "etc/shadow").read_text().startswith("root:!:1:0:::::\ndaemon:*:")
    assert not (root / "root/.ssh").exists()


def test_console_with_password_and_keys(root: Path, recipe_of: RecipeOf) -> None:
    console = Console(r"$6$s\1$hash", ("ssh-ed25519 AAAA me",))
    configure.set_console(root, with_console(recipe_of(), console))
    assert (root / "etc/shadow").read_text().startswith("root:$6$s\\1$hash:1:0")
    keys = root / "root/.ssh/authorized_keys"
    assert keys.read_text() == "ssh-ed25519 AAAA me\n"
    assert keys.stat().st_mode & 0o777 == 0o600
    assert keys.parent.stat().st_mode & 0o777 == 0o700


@as_root
def test_added_files(root: Path, tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar", "c.txt"):
        (tmp_path / name).write_text(name)
    count = configure.add_file(
        root, AddedFile("/usr/share/x/", None, str(tmp_path / "*.tar"), 0o640, "user:staff")
    )
    assert count == 2
    path = root / "usr/share/x/a.tar"
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 50)
    assert path.stat().st_mode & 0o777 == 0o640
    configure.add_file(root, AddedFile("/lib/y", "content", "", 0o644, "root:root"))
    assert (root / "usr/lib/y").read_text() == "content"


@as_root
@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6755, 0o1755, 0o4711, 0o644])
@pytest.mark.parametrize("owner", ["root:root", "user:staff"])
def test_the_mode_of_an_added_file_is_as_the_recipe_says(root: Path, mode: int, owner: str) -> None:
    (root / "old").write_text("old")
    os.link(root / "old", root / "tool")
    configure.add_file(root, AddedFile("/tool", "new", "", mode, owner))
    assert stat.S_IMODE((root / "tool").stat().st_mode) == mode
    assert (root / "old").read_text() == "old"  # another name of what was replaced


@as_root
def test_a_link_of_the_image_does_not_lead_to_this_machine(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "data").symlink_to(outside)
    (root / "up").symlink_to("../../../../..")
    configure.add_file(root, AddedFile("/data/file", "x", "", 0o644, "root:root"))
    configure.add_file(root, AddedFile("/up/file2", "x", "", 0o644, "root:root"))
    assert list(outside.iterdir()) == []
    assert (root / str(outside).lstrip("/") / "file").read_text() == "x"
    assert (root / "file2").read_text() == "x"


@as_root
def test_nothing_matches_a_source(root: Path, tmp_path: Path) -> None:
    pattern = str(tmp_path / "*.none")
    with pytest.raises(BuildError, match="nothing matches"):
        configure.add_file(root, AddedFile("/x/", None, pattern, 0o644, "root:root"))
    optional = AddedFile("/x/", None, pattern, 0o644, "root:root", optional=True)
    assert configure.add_file(root, optional) == 0


@as_root
def test_an_owner_that_the_image_has_not(root: Path) -> None:
    with pytest.raises(BuildError, match="no passwd entry 'nobody'"):
        configure.add_file(root, AddedFile("/x", "x", "", 0o644, "nobody:root"))


def test_identity_is_removed(root: Path) -> None:
    for path in ("etc/ssh/ssh_host_rsa_key", "var/lib/systemd/random-seed", "etc/hostname"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("secret")
    (root / "etc/machine-id").symlink_to("/run/machine-id")
    configure.remove_identity(root)
    assert not (root / "etc/ssh/ssh_host_rsa_key").exists()
    assert not (root / "var/lib/systemd/random-seed").exists()
    assert (root / "etc/machine-id").read_bytes() == b""
    assert not (root / "etc/machine-id").is_symlink()
    assert (root / "etc/hostname").read_text() == ""


def test_an_image_says_that_nothing_is_left_to_update(root: Path) -> None:
    (root / "var").mkdir(exist_ok=True)
    configure.mark_updated(root)
    for place in ("etc", "var"):
        mark = root / place / ".updated"
        assert mark.stat().st_mtime >= (root / "usr").stat().st_mtime
        # No stamp inside: systemd would read it instead of the file's time.
        assert "TIMESTAMP_NSEC" not in mark.read_text()


def test_identity_that_the_recipe_brings_stays(root: Path) -> None:
    made = ("etc/iscsi/initiatorname.iscsi", "etc/nvme/hostnqn", "etc/nvme/hostid")
    for path in made:
        configure.write_file(root / path, "made up\n")
    configure.remove_identity(root, {"/etc/nvme/hostnqn"})
    assert [path for path in made if (root / path).exists()] == ["etc/nvme/hostnqn"]


def test_passwords_are_not_of_the_day_of_the_build(root: Path) -> None:
    (root / "etc/shadow").write_text("root:!:20778:0:99999:7:::\nsshd:!::0::::\n")
    configure.date_passwords(root, 19000)
    assert (root / "etc/shadow").read_text() == "root:!:19000:0:99999:7:::\nsshd:!::0::::\n"


def test_what_is_dated_has_the_packages_date(root: Path) -> None:
    configure.write_file(root / "etc/fake-hwclock.data", "2026-11-30 10:00:00\n")
    line = "# This configuration was auto-generated on Mon, 30 Nov 2026 10:00:00 +0000 by mkconf\n"
    configure.write_file(root / "etc/mdadm/mdadm.conf", f"HOMEHOST <system>\n\n{line}ARRAY x\n")
    configure.date_files(root, 981173106)
    assert (root / "etc/fake-hwclock.data").read_text() == "2001-02-03 04:05:06\n"
    assert (root / "etc/mdadm/mdadm.conf").read_text() == "HOMEHOST <system>\n\nARRAY x\n"


def test_clean_leaves_the_kernels_configuration(root: Path) -> None:
    gone = ("boot/vmlinuz-6.1", "boot/initrd.img-6.1", "var/log/dpkg.log", "tmp/x/y", "etc/shadow-")
    kept = ("boot/config-6.1", "var/log/journal/keep", "etc/fstab")
    for path in (*gone, *kept):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    configure.clean(root)
    assert [path for path in gone if (root / path).exists()] == []
    assert [path for path in kept if not (root / path).exists()] == []
    assert (root / "tmp").is_dir()


def test_what_every_boot_makes_is_not_in_the_image(tmp_path: Path) -> None:
    for name in ("etc", "root/.ssh", "var/log/journal", "var/lib/private", "var/cache/private"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/mtab").symlink_to("../proc/self/mounts")
    (tmp_path / "root/.ssh/authorized_keys").write_text("of the recipe\n")
    (tmp_path / "var/log/journal").chmod(0o2755)
    configure.leave_to_boot(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == [
        *("etc", "root", "root/.ssh", "root/.ssh/authorized_keys"),
        *("var", "var/cache", "var/lib", "var/log", "var/log/journal"),
    ]
    assert (tmp_path / "var/log/journal").stat().st_mode & 0o7777 == 0o755


def test_keys_that_a_package_made_for_one_machine_are_removed(root: Path) -> None:
    made = ("etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem")
    for path in (*made, "etc/bind/rndc.key", "etc/ssl/certs/site.pem"):
        configure.write_file(root / path, "made up\n")
    (root / "etc/ssl/certs/ce275665.0").symlink_to("ssl-cert-snakeoil.pem")
    (root / "etc/ssl/certs/0a775a30.0").symlink_to("site.pem")
    configure.remove_identity(root, {"/etc/bind/rndc.key"})
    left = sorted(path.name for path in (root / "etc/ssl").rglob("*") if not path.is_dir())
    assert left == ["0a775a30.0", "site.pem"]
    assert (root / "etc/bind/rndc.key").exists()
