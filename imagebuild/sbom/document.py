"""What both formats say alike: which image, its parts, its names, its time."""

import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from imagebuild.sbom.parts import Package, Parts

_SPACE: Final = uuid.UUID("6f9f6c0e-3a0f-5d1b-9d5e-0b3a5f3f1c11")
"""The namespace of the documents' UUIDs (RFC 9562, section 5.5)."""


@dataclass(frozen=True)
class About:
    """The image. stages: name to id; that of `final` is the digest of the recipe with all that
    it names. files: of the image's directory, path to SHA-256 in hex."""

    name: str
    distribution: str
    release: str
    architecture: str
    kernel: str
    stages: Mapping[str, str]
    files: Mapping[str, str]

    @property
    def recipe(self) -> str:
        """The digest of the recipe with all that it names, and of the code that built it."""
        return self.stages.get("final", "")


def make_uuid(about: About, parts: Parts, kind: str) -> str:
    """The same for the same content: of a build that is repeated, the document is too."""
    text = json.dumps([kind, about.name, about.recipe, dict(about.files), parts.to_json()])
    return str(uuid.uuid5(_SPACE, hashlib.sha256(text.encode()).hexdigest()))


def format_time(epoch: int) -> str:
    """UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


def make_purl(about: About, package: Package) -> str:
    """The package URL (type deb), with its source package as `upstream`, as scanners read it."""
    upstream = package.source
    if package.source_version != package.version:
        upstream += f"@{package.source_version}"
    words = {"arch": package.architecture, "distro": f"{about.distribution}-{about.release}"}
    if upstream != package.name:
        words["upstream"] = upstream
    qualifiers = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(words.items()))
    name, version = quote(package.name, safe=""), quote(package.version, safe="")
    return f"pkg:deb/{about.distribution}/{name}@{version}?{qualifiers}"


def dump(data: Mapping[str, Any]) -> bytes:
    """JSON of one spelling: keys sorted, two blanks, one end of line."""
    return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
