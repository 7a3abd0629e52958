from imagebuild import architecture
from imagebuild.architecture import ARCHITECTURES, find_architecture, find_firmware


def test_no_number_of_option_93_means_two_kinds_of_machines() -> None:
    for kind in ("pxe", "http"):
        numbers = [
            number
            for one in ARCHITECTURES.values()
            for firmware in one.firmware
            for number in getattr(firmware, kind)
        ]
        assert len(numbers) == len(set(numbers))


def test_firmware_by_its_number() -> None:
    def name(number: int, *, http: bool = False) -> str:
        found = find_firmware(number, http=http)
        return f"{found[0].name} {found[1].name}" if found else ""

    assert [name(number) for number in (0, 7, 9)] == ["amd64 BIOS", *["amd64 UEFI x64"] * 2]
    assert name(11) == name(11, http=True) == name(19, http=True) == "arm64 UEFI arm64"
    assert name(16, http=True) == "amd64 UEFI x64"
    # 32-bit UEFI, 32-bit ARM, RISC-V; HTTP Boot's numbers from a PXE client.
    assert [name(number) for number in (6, 10, 27, 16, 19)] == [""] * 5
    assert [find_architecture(number) for number in (0, 16, 19, 6)] == [
        "amd64",
        "amd64",
        "arm64",
        "",
    ]


def test_loaders_and_platforms_have_names_of_their_own() -> None:
    assert architecture.GRUB_PLATFORMS == ("i386-pc", "x86_64-efi", "arm64-efi")
    names = ("core.0", "core.efi", "undionly.kpxe", "snponly.efi", "ipxe-arm64.efi")
    assert names == architecture.LOADERS
    assert architecture.DEFAULT == "amd64"
