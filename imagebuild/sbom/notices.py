"""An image's third-party notices: in plain text what it holds, under which licences, and where the
source is, for whoever passes the image on (the GNU licences ask for that)."""

from collections.abc import Iterable
from typing import Final

from imagebuild.sbom.document import About
from imagebuild.sbom.licences import REFERENCE, join
from imagebuild.sbom.parts import Package, Parts

SOURCES: Final = {
    "debian": "https://snapshot.debian.org/package/SOURCE/VERSION/",
    "ubuntu": "https://launchpad.net/ubuntu/+source/SOURCE/VERSION",
}
"""Where a distribution keeps every source package that it ever published."""

_HEAD: Final = """\
Third-party notices of the node image {name} ({distribution} {release}, {architecture})

The texts of licences and copyrights stand in the image itself, below
/usr/share/doc/PACKAGE/copyright. The source of each package of {distribution} is kept, under the
source package's name and version, at {place} ;
`apt-get source SOURCE=VERSION` fetches it while the archive has it. Packages of other repositories
have their source with whoever maintains them, who is named. "not said" means: the copyright file
is not in a form that a program can read; read it.

Licences are SPDX expressions; {reference}… is a name of Debian's that SPDX has not.
"""


def render(about: About, parts: Parts, loaders: Iterable[Package] = ()) -> bytes:
    """The whole text. loaders: the packages that the boot loaders beside the root came from."""
    text = _HEAD.format(
        name=about.name,
        distribution=about.distribution,
        release=about.release,
        architecture=about.architecture,
        place=SOURCES.get(about.distribution, "its archive"),
        reference=REFERENCE,
    )
    kernel = [one for one in parts.packages if one.name.startswith("linux-image-")]
    others = [one for one in parts.packages if one not in kernel]
    sections = [
        ("Kernel", _lines(kernel)),
        (
            "Boot loaders beside the root file system (of the machine that built)",
            _lines(loaders),
        ),
        ("Packages of the root file system, by their source", _lines(others)),
        (
            "Files that the recipe's builds made from source (the recipe names it)",
            [f"{file.path}\n" for file in parts.built],
        ),
    ]
    for title, lines in sections:
        if lines:
            text += f"\n{title}\n{'-' * len(title)}\n{''.join(lines)}"
    return text.encode()


def _lines(packages: Iterable[Package]) -> list[str]:
    """One for each source package: its packages, licences, and who maintains it."""
    by_source: dict[tuple[str, str], list[Package]] = {}
    for one in packages:
        by_source.setdefault((one.source, one.source_version), []).append(one)
    lines = []
    for (source, version), group in sorted(by_source.items()):
        names = ", ".join(sorted({one.name for one in group}))
        found = sorted({text for one in group for text in one.licences or ()})
        lines.append(
            f"{source} {version}\n    packages: {names}\n"
            f"    licences: {join(found) if found else 'not said'}\n"
            f"    maintainer: {group[0].maintainer or 'not said'}\n"
        )
    return lines
