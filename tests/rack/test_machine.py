from pathlib import Path

import pytest

from rack.errors import RackError
from rack.machine import KVM, MachineFiles, Nic, NodeSpec, qemu_argv

FILES = MachineFiles(Path("/rack/nodes/n"), Path("/run/s"), "n", ["tap0"])
SPEC = NodeSpec("n", mac="52:54:00:00:00:01", uuid="11111111-2222-3333-4444-555555555555")


def values_of(argv: list[str], flag: str) -> list[str]:
    return [argv[i + 1] for i, word in enumerate(argv) if word == flag]


def test_bios_machine_boots_from_its_only_nic() -> None:
    assert qemu_argv(SPEC, FILES) == [
        *("qemu-system-x86_64", "-name", "n", "-uuid", "11111111-2222-3333-4444-555555555555"),
        *("-machine", "q35,graphics=off,sata=off", "-accel", "tcg,thread=multi,tb-size=64"),
        *("-cpu", "qemu64", "-m", "1024", "-smp", "1"),
        *("-nodefaults", "-display", "none", "-vga", "none", "-boot", "strict=on"),
        "-chardev",
        "socket,id=console,path=/run/s/n.console,server=on,wait=off,"
        "logfile=/rack/nodes/n/console.log,logappend=on",
        *("-serial", "chardev:console", "-qmp", "unix:/run/s/n.qmp,server=on,wait=off"),
        *("-object", "rng-random,id=rng,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=rng"),
        *("-netdev", "tap,id=net0,ifname=tap0,script=no,downscript=no"),
        *("-device", "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01,addr=0x10,bootindex=1"),
    ]


def test_uefi_machine_has_its_own_variables_and_no_option_rom() -> None:
    spec = NodeSpec("n", mac="52:54:00:00:00:01", firmware="uefi")
    argv = qemu_argv(spec, FILES)
    drives = values_of(argv, "-drive")
    assert "readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd" in drives[0]
    assert drives[1] == "if=pflash,format=raw,unit=1,file=/rack/nodes/n/OVMF_VARS.fd"
    assert values_of(argv, "-device")[-1].endswith("bootindex=1,romfile=")


def test_boot_nic_keeps_its_place_among_several() -> None:
    spec = NodeSpec(
        "n",
        mac="52:54:00:00:00:09",
        nic="e1000",
        extra_nics=(Nic("52:54:00:00:00:01"), Nic("52:54:00:00:00:02", "e1000e")),
        boot_nic=1,
    )
    files = MachineFiles(Path("/r"), Path("/s"), "n", ["t0", "t1", "t2"])
    cards = values_of(qemu_argv(spec, files), "-device")[-3:]
    assert cards == [
        "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01,addr=0x10",
        "e1000,netdev=net1,mac=52:54:00:00:00:09,addr=0x11,bootindex=1",
        "e1000e,netdev=net2,mac=52:54:00:00:00:02,addr=0x12",
    ]


def test_disks_and_accelerator() -> None:
    spec = NodeSpec("n", mac="52:54:00:00:00:01", disks=(Path("/d0"), Path("/d1")))
    argv = qemu_argv(spec, FILES, KVM)
    assert spec.boot_interface == "enp0s16"
    assert values_of(argv, "-accel") == ["kvm"]
    assert [drive.split(",")[3] for drive in values_of(argv, "-drive")] == ["file=/d0", "file=/d1"]


def test_a_nic_without_a_tap_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        qemu_argv(SPEC, MachineFiles(Path("/r"), Path("/s"), "n", []))


def test_long_socket_path_is_refused_before_qemu_does() -> None:
    files = MachineFiles(Path("/r"), Path("/" + "x" * 100), "n", ["tap0"])
    with pytest.raises(RackError, match="107 bytes"):
        qemu_argv(SPEC, files)


def test_completed_identity_is_stable_and_differs_between_names() -> None:
    one, again = NodeSpec("a").completed("10.9.100.1"), NodeSpec("a").completed("10.9.100.1")
    other = NodeSpec("b").completed("10.9.100.2")
    assert (one.mac, one.uuid) == (again.mac, again.uuid)
    assert one.mac != other.mac
    assert one.uuid != other.uuid
    assert one.mac.startswith("52:54:00:")
    given = NodeSpec("a", mac="52:54:00:AB:CD:EF", ip="10.9.1.1").completed("10.9.100.1")
    assert (given.mac, given.ip) == ("52:54:00:ab:cd:ef", "10.9.1.1")


def test_an_arm64_machine() -> None:
    spec = NodeSpec("n", mac="52:54:00:00:00:01", firmware="uefi", architecture="arm64")
    argv = qemu_argv(spec.completed("10.9.0.11"), FILES, KVM)
    assert argv[0] == "qemu-system-aarch64"
    assert argv[argv.index("-machine") + 1] == "virt"
    # This machine's KVM is of no use to it.
    assert "kvm" not in argv
    assert argv[argv.index("-cpu") + 1] == "cortex-a57"
    assert "file=/usr/share/AAVMF/AAVMF_CODE.fd" in values_of(argv, "-drive")[0]
    with pytest.raises(RackError, match="arm64 machines have no BIOS"):
        qemu_argv(NodeSpec("n", architecture="arm64").completed("10.9.0.11"), FILES)
