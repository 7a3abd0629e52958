"""Debian's copyright files: what they say in machine-readable form, and no more."""

from pathlib import Path

import pytest

from imagebuild.sbom.licences import convert, join, list_references, read_licences

HEAD = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"


def test_the_licences_of_all_stanzas_with_files() -> None:
    text = HEAD + (
        "Upstream-Name: x\nLicense: ignored-of-the-header\n\n"
        "Files: *\nCopyright: A\nLicense: GPL-2+\n This is the text.\n License: no\n\n"
        "Files: debian/*\nCopyright: B\nLicense:  Expat\n\n"
        "Files: a b\nCopyright: C\nLicense:\tGPL-2+\n\n"
        "License: GPL-3\n text of one that no file has\n"
    )
    assert read_licences(text) == ("GPL-2.0-or-later", "MIT")


@pytest.mark.parametrize("text", ["", "This package was debianized by X.\nLicense: GPL-2\n"])
def test_a_file_in_another_format_says_nothing(text: str) -> None:
    assert read_licences(text) is None


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("GPL-1+ or Artistic", "GPL-1.0-or-later OR LicenseRef-Debian-Artistic"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("LGPL-2", "LGPL-2.0-only"),
        ("AGPL-3", "AGPL-3.0-only"),
        ("GPL-4", "LicenseRef-Debian-GPL-4"),
        ("GPL", "LicenseRef-Debian-GPL"),
        ("Expat", "MIT"),
        ("MIT", "LicenseRef-Debian-MIT"),
        ("BSD-3-Clause", "BSD-3-Clause"),
        ("BSL-1.0 and Zlib", "BSL-1.0 AND Zlib"),
        ("public-domain", "LicenseRef-Debian-public-domain"),
        (
            "GPL-2+ with OpenSSL exception",
            "LicenseRef-Debian-GPL-2-or-later-with-OpenSSL-exception",
        ),
        ("GPL-2, and Expat or ISC", "LicenseRef-Debian-GPL-2-and-Expat-or-ISC"),
        ("GPL-2 and Expat or ISC", "LicenseRef-Debian-GPL-2-and-Expat-or-ISC"),
    ],
)
def test_debians_names_as_spdx(name: str, expression: str) -> None:
    assert convert(name) == expression


def test_together() -> None:
    assert join(["GPL-2.0-only OR MIT"]) == "GPL-2.0-only OR MIT"
    assert join(["A AND B", "B", "C OR D"]) == "A AND B AND (C OR D)"
    assert list_references(["MIT OR LicenseRef-Debian-x", "ISC"]) == ["LicenseRef-Debian-x"]


def test_the_copyright_files_of_this_machine() -> None:
    """Every one is read, whatever it holds; and Debian has not a few of the format."""
    found = [
        read_licences(path.read_text(errors="replace"))
        for path in sorted(Path("/usr/share/doc").glob("*/copyright"))
    ]
    assert sum(one is not None for one in found) > 10
    for licences in found:
        for expression in licences or ():
            assert set(expression) <= set(
                "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.- "
            ), expression
