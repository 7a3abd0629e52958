"""An image's bill of materials as CycloneDX 1.6, JSON (cyclonedx.org/docs/1.6/json)."""

from collections.abc import Iterator
from typing import Any, Final

from imagebuild.sbom.document import About, dump, format_time, make_purl, make_uuid
from imagebuild.sbom.licences import join
from imagebuild.sbom.parts import BuiltFile, Package, Parts

_IMAGE: Final = "image"


def render(about: About, parts: Parts) -> bytes:
    """The whole document."""
    components = [*_files(about), *(_package(about, package) for package in parts.packages)]
    components += [_built(file) for file in parts.built]
    return dump(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{make_uuid(about, parts, 'cyclonedx')}",
            "version": 1,
            "metadata": {
                "timestamp": format_time(parts.epoch),
                "tools": {"components": [{"type": "application", "name": "bootfarm"}]},
                "component": _image(about),
            },
            "components": components,
            "dependencies": [
                {"ref": _IMAGE, "dependsOn": sorted(one["bom-ref"] for one in components)}
            ],
        }
    )


def _image(about: About) -> dict[str, Any]:
    facts = {
        "distribution": f"{about.distribution} {about.release}",
        "architecture": about.architecture,
        "kernel": about.kernel,
        **{f"stage:{name}": digest for name, digest in about.stages.items()},
    }
    return {
        "type": "operating-system",
        "bom-ref": _IMAGE,
        "name": about.name,
        # The digest of the recipe with all that it names.
        "version": about.recipe,
        "properties": _properties(facts),
    }


def _files(about: About) -> Iterator[dict[str, Any]]:
    for path, sha256 in sorted(about.files.items()):
        yield {
            "type": "file",
            "bom-ref": f"file:{path}",
            "name": path,
            "hashes": [{"alg": "SHA-256", "content": sha256}],
        }


def _package(about: About, package: Package) -> dict[str, Any]:
    purl = make_purl(about, package)
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
        "properties": _properties(
            {"source": package.source, "source-version": package.source_version}
        ),
    }
    if package.maintainer:
        found["supplier"] = {"name": package.maintainer}
    if package.licences:
        found["licenses"] = [{"expression": join(package.licences)}]
    if package.homepage.startswith(("https://", "http://")):
        found["externalReferences"] = [{"type": "website", "url": package.homepage}]
    return found


def _built(file: BuiltFile) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"built:{file.path}",
        "name": file.path,
        "hashes": [{"alg": "SHA-256", "content": file.sha256}],
        "properties": _properties({"built-by": "the stage builder"}),
    }


def _properties(facts: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": f"bootfarm:{key}", "value": value} for key, value in sorted(facts.items())]
