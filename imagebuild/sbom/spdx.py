"""An image's bill of materials as SPDX 2.3, JSON (spdx.github.io/spdx-spec/v2.3)."""

import re
from collections.abc import Iterator
from typing import Any, Final

from imagebuild.sbom.document import About, dump, format_time, make_purl, make_uuid
from imagebuild.sbom.licences import join, list_references
from imagebuild.sbom.parts import BuiltFile, Package, Parts

_UNKNOWN: Final = "NOASSERTION"
_MAIL: Final = re.compile(r"(.*?)\s*<(.*)>")
_MANY: Final = re.compile(r"team|maintainers|developers|group|project|packagers", re.IGNORECASE)
_IMAGE: Final = "SPDXRef-Image"


def render(about: About, parts: Parts) -> bytes:
    """The whole document."""
    packages = [_image(about), *_files(about)]
    packages += [_package(about, package) for package in parts.packages]
    packages += [_built(number, file) for number, file in enumerate(parts.built, 1)]
    references = list_references(
        one for package in parts.packages for one in package.licences or ()
    )
    links = [("SPDXRef-DOCUMENT", "DESCRIBES", _IMAGE)]
    links += [(_IMAGE, "CONTAINS", package["SPDXID"]) for package in packages[1:]]
    return dump(
        {
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": f"{about.name} {about.recipe[:12]}".strip(),
            "documentNamespace": f"urn:uuid:{make_uuid(about, parts, 'spdx')}",
            "creationInfo": {
                "created": format_time(parts.epoch),
                "creators": ["Tool: bootfarm"],
                "comment": "created is the time of the newest package's changelog, so that the"
                " same image has the same document.",
            },
            "packages": packages,
            "relationships": [
                {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
                for one, kind, other in links
            ],
            "hasExtractedLicensingInfos": [
                {
                    "licenseId": reference,
                    "extractedText": "The text stands in the copyright files of the packages that"
                    " name it, in the image below /usr/share/doc.",
                }
                for reference in references
            ],
        }
    )


def _image(about: About) -> dict[str, Any]:
    stages = ", ".join(f"{name} {digest}" for name, digest in sorted(about.stages.items()))
    return {
        **_plain(_IMAGE, about.name),
        "versionInfo": about.recipe,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "comment": f"{about.distribution} {about.release}, {about.architecture}, kernel"
        f" {about.kernel}. versionInfo is the digest of the recipe with all that it names;"
        f" stages: {stages}.",
    }


def _files(about: About) -> Iterator[dict[str, Any]]:
    for number, (path, sha256) in enumerate(sorted(about.files.items()), 1):
        yield {
            **_plain(f"SPDXRef-File-{number}", path),
            "packageFileName": path,
            "primaryPackagePurpose": "FILE",
            "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}],
        }


def _package(about: About, package: Package) -> dict[str, Any]:
    found = {
        **_plain(f"SPDXRef-Package-{_clean(package.name)}-{package.architecture}", package.name),
        "versionInfo": package.version,
        "supplier": _name_supplier(package.maintainer),
        "sourceInfo": f"built from the source package {package.source} {package.source_version}",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": make_purl(about, package),
            }
        ],
    }
    if package.licences:
        found["licenseDeclared"] = join(package.licences)
    if package.homepage.startswith(("https://", "http://")):
        found["homepage"] = package.homepage
    return found


def _built(number: int, file: BuiltFile) -> dict[str, Any]:
    return {
        **_plain(f"SPDXRef-Built-{number}", file.path),
        "packageFileName": file.path,
        "primaryPackagePurpose": "FILE",
        "sourceInfo": "built from source in the stage builder",
        "checksums": [{"algorithm": "SHA256", "checksumValue": file.sha256}],
    }


def _plain(identifier: str, name: str) -> dict[str, Any]:
    return {
        "SPDXID": identifier,
        "name": name,
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "copyrightText": _UNKNOWN,
    }


def _clean(name: str) -> str:
    """Letters, digits, dots and dashes: what an identifier may hold; names stay apart."""
    return name.replace("+", ".plus.")


def _name_supplier(maintainer: str) -> str:
    found = _MAIL.fullmatch(maintainer.strip())
    if found is None or not found[1]:
        return _UNKNOWN
    kind = "Organization" if _MANY.search(found[1]) else "Person"
    return f"{kind}: {found[1].strip(chr(34))} ({found[2]})"
