"""SPDX and CycloneDX: by the formats' own schemas, the same for the same image."""

import dataclasses
import json
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from license_expression import get_spdx_licensing
from packageurl import PackageURL

from imagebuild.sbom import cyclonedx, notices, spdx
from imagebuild.sbom.document import About, make_purl
from imagebuild.sbom.parts import BuiltFile, Package, Parts, list_built, list_packages

SHA = "ab" * 32
ABOUT = About(
    "amd64",
    "debian",
    "bookworm",
    "amd64",
    "6.1.0-49-cloud-amd64",
    {"basesystem": "cd" * 32, "final": "ef" * 32},
    {"rootfs.squashfs": SHA, "vmlinuz": SHA},
)
PARTS = Parts(
    1_700_000_000,
    (
        Package(
            "bash",
            "5.2.15-2+b7",
            "amd64",
            "bash",
            "5.2.15-2",
            "Matthias Klose <doko@debian.org>",
            "https://tiswww.case.edu/~chet/bash/",
            ("GPL-3.0-or-later", "LicenseRef-Debian-GFDL"),
        ),
        Package("libstdc++6", "12.2.0-14", "amd64", "gcc-12", "12.2.0-14", "", "no URL", None),
        Package(
            "perl-base", "1:5~a", "all", "perl", "1:5~a", '"Perl Team" <p@d>', "", ("MIT OR ISC",)
        ),
    ),
    (BuiltFile("/usr/lib/bootfarm/nbdroot", 7, SHA),),
)


def test_spdx() -> None:
    data = json.loads(spdx.render(ABOUT, PARTS))
    check_spdx(data)
    names = {package["name"]: package for package in data["packages"]}
    assert names["bash"]["licenseDeclared"] == "GPL-3.0-or-later AND LicenseRef-Debian-GFDL"
    assert names["bash"]["sourceInfo"] == "built from the source package bash 5.2.15-2"
    assert names["bash"]["supplier"] == "Person: Matthias Klose (doko@debian.org)"
    assert names["libstdc++6"]["licenseDeclared"] == "NOASSERTION"
    assert "homepage" not in names["libstdc++6"]
    assert names["perl-base"]["supplier"] == "Organization: Perl Team (p@d)"
    assert names["/usr/lib/bootfarm/nbdroot"]["checksums"][0]["checksumValue"] == SHA
    assert names["amd64"]["versionInfo"] == "ef" * 32
    assert "6.1.0-49-cloud-amd64" in names["amd64"]["comment"]
    assert data["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    (reference,) = data["hasExtractedLicensingInfos"]
    assert reference["licenseId"] == "LicenseRef-Debian-GFDL"


def check_spdx(data: dict[str, Any]) -> None:
    """What SPDX 2.3 asks of a document, clause by clause, and no more than it names."""
    assert data["spdxVersion"] == "SPDX-2.3"
    assert data["dataLicense"] == "CC0-1.0"
    ids = [data["SPDXID"], *(package["SPDXID"] for package in data["packages"])]
    assert len(ids) == len(set(ids))
    licensing = get_spdx_licensing()
    own = {one["licenseId"] for one in data["hasExtractedLicensingInfos"]}
    for package in data["packages"]:
        assert set(package["SPDXID"].removeprefix("SPDXRef-")) <= set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-"
        )
        assert {"name", "downloadLocation", "SPDXID"} <= package.keys()
        assert package["filesAnalyzed"] is False
        for checksum in package.get("checksums", ()):
            assert checksum["algorithm"] == "SHA256"
            assert len(checksum["checksumValue"]) == 64
        declared = package["licenseDeclared"]
        if declared != "NOASSERTION":
            parsed = licensing.parse(declared)
            unknown = {key for key in licensing.unknown_license_keys(parsed)}
            assert unknown <= own, "neither SPDX has it, nor the document"
    for link in data["relationships"]:
        assert {link["spdxElementId"], link["relatedSpdxElement"]} <= set(ids)
    described = [one for one in data["relationships"] if one["relationshipType"] == "DESCRIBES"]
    assert [one["relatedSpdxElement"] for one in described] == ["SPDXRef-Image"]


def test_cyclonedx_by_its_own_schema() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = cyclonedx.render(ABOUT, PARTS).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    data = json.loads(text)
    names = {one["name"]: one for one in data["components"]}
    assert names["bash"]["licenses"] == [
        {"expression": "GPL-3.0-or-later AND LicenseRef-Debian-GFDL"}
    ]
    assert names["libstdc++6"]["properties"] == [
        {"name": "bootfarm:source", "value": "gcc-12"},
        {"name": "bootfarm:source-version", "value": "12.2.0-14"},
    ]
    assert "licenses" not in names["libstdc++6"]
    assert names["vmlinuz"]["hashes"] == [{"alg": "SHA-256", "content": SHA}]
    assert data["metadata"]["component"]["version"] == "ef" * 32


def test_package_urls_are_what_others_read() -> None:
    found = [PackageURL.from_string(make_purl(ABOUT, package)) for package in PARTS.packages]
    assert [(one.type, one.namespace, one.name, one.version) for one in found] == [
        ("deb", "debian", package.name, package.version) for package in PARTS.packages
    ]
    assert [one.qualifiers for one in found] == [
        {"arch": "amd64", "distro": "debian-bookworm", "upstream": "bash@5.2.15-2"},
        {"arch": "amd64", "distro": "debian-bookworm", "upstream": "gcc-12"},
        {"arch": "all", "distro": "debian-bookworm", "upstream": "perl"},
    ]


@pytest.mark.parametrize("render", [spdx.render, cyclonedx.render])
def test_the_same_image_has_the_same_bytes_and_another_has_another_name(
    render: Callable[[About, Parts], bytes],
) -> None:
    again = Parts.from_json(PARTS.to_json())
    assert again == PARTS
    assert render(ABOUT, again) == render(ABOUT, PARTS)
    other = dataclasses.replace(PARTS, built=())

    def name(data: bytes) -> str:
        found = json.loads(data)
        return str(found.get("documentNamespace") or found["serialNumber"])

    assert name(render(ABOUT, other)) != name(render(ABOUT, PARTS))
    assert name(spdx.render(ABOUT, PARTS)) != name(cyclonedx.render(ABOUT, PARTS))


def test_an_image_with_nothing_known() -> None:
    about = About("x", "debian", "sid", "amd64", "", {}, {})
    check_spdx(json.loads(spdx.render(about, Parts(0))))
    assert json.loads(cyclonedx.render(about, Parts(0)))["components"] == []


STATUS = """\
Package: bash
Status: install ok installed
Version: 5.2-1+b1
Architecture: amd64
Source: bash (5.2-1)
Maintainer: A <a@b>
Description: shell
 Version: 9

Package: gone
Status: deinstall ok config-files
Version: 1
Architecture: amd64

Package: awk
Status: install ok installed
Version: 1.3
Architecture: all
"""


def test_packages_of_a_root(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    docs = tmp_path / "usr/share/doc"
    (docs / "bash").mkdir(parents=True)
    (docs / "bash/copyright").write_text(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"
        "Files: *\nLicense: GPL-3+\n"
    )
    (docs / "awk").symlink_to("/usr/share/doc/bash")  # of this machine, not of the root
    awk, bash = list_packages(tmp_path)
    assert (awk.name, awk.source, awk.source_version, awk.licences) == ("awk", "awk", "1.3", None)
    assert (bash.source, bash.source_version) == ("bash", "5.2-1")
    assert bash.licences == ("GPL-3.0-or-later",)
    assert bash.maintainer == "A <a@b>"


def test_files_of_the_builder(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "outputs.tar", "w") as tar:
        for name, data in (("usr/lib/b", b"two"), ("usr/lib/a", b"one!")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
        link = tarfile.TarInfo("usr/lib/link")
        link.type, link.linkname = tarfile.SYMTYPE, "a"
        tar.addfile(link)
    found = list_built(tmp_path / "outputs.tar")
    assert [(one.path, one.size) for one in found] == [("/usr/lib/a", 4), ("/usr/lib/b", 3)]


def test_notices_name_source_licences_and_who_to_ask() -> None:
    loader = Package("ipxe", "1.0+git-2021", "all", "ipxe", "1.0+git-2021", "x", "", None)
    kernel = Package(
        "linux-image-6.1-amd64", "6.1.9-1", "amd64", "linux-signed-amd64", "6.1.9+1", "Kernel Team"
    )
    parts = dataclasses.replace(PARTS, packages=(*PARTS.packages, kernel))
    text = notices.render(ABOUT, parts, [loader]).decode()
    assert text == notices.render(ABOUT, parts, [loader]).decode()
    kernels, loaders, packages, built = (part for part in text.split("\n\n") if "---" in part)
    assert "linux-signed-amd64 6.1.9+1\n    packages: linux-image-6.1-amd64\n" in kernels
    assert "\nipxe 1.0+git-2021\n    packages: ipxe\n    licences: not said\n" in loaders
    assert (
        "bash 5.2.15-2\n    packages: bash\n"
        "    licences: GPL-3.0-or-later AND LicenseRef-Debian-GFDL\n"
        "    maintainer: Matthias Klose <doko@debian.org>\n"
    ) in packages
    assert built.endswith("\n/usr/lib/bootfarm/nbdroot\n")
    assert "https://snapshot.debian.org/package/SOURCE/VERSION/" in text


def test_notices_put_the_packages_of_one_source_together() -> None:
    both = tuple(
        Package(name, "2", "amd64", "one", "2", "m", "", licences)
        for name, licences in (("one-b", ("MIT",)), ("one-a", ("GPL-2.0-only",)))
    )
    text = notices.render(ABOUT, Parts(1, both)).decode()
    assert "one 2\n    packages: one-a, one-b\n    licences: GPL-2.0-only AND MIT\n" in text
    assert "Boot loaders" not in text
    assert "made from source" not in text
