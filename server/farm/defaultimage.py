"""`default_image` of farm.yaml: one image for all machines, or one for each architecture."""

from collections.abc import Mapping
from typing import Any, Final

from imagebuild.architecture import ARCHITECTURES
from server.yamlfile import Section, describe, suggest

DefaultImage = str | Mapping[str, str] | None
"""An image's name, or architecture to name."""

KEY: Final = "default_image"
_NAME: Final[Mapping[str, Any]] = {"type": ["string", "number", "null"], "pattern": r"\S"}
_SHAPE: Final[Mapping[str, Any]] = {
    "type": ["string", "number", "object"],
    "pattern": r"\S",
    "propertyNames": {"enum": list(ARCHITECTURES)},
    "additionalProperties": _NAME,
    "minProperties": 1,
}


def default_of(default_image: DefaultImage, architecture: str = "") -> str | None:
    """The image that machines of an architecture boot where nothing else names one.

    architecture: "" for a machine of which it is not known; the first that is named counts then.
    """
    if not isinstance(default_image, Mapping):
        return default_image
    if architecture:
        return default_image.get(architecture)
    return next(iter(default_image.values()), None)


def list_defaults(default_image: DefaultImage) -> list[tuple[str, str]]:
    """(architecture, image) of each that is named; "" for all architectures."""
    if isinstance(default_image, Mapping):
        return list(default_image.items())
    return [("", default_image)] if default_image is not None else []


def read_default_image(top: Section) -> DefaultImage:
    """What farm.yaml says; a fault names the key path."""
    value = top.any(KEY, _SHAPE)
    if isinstance(value, Mapping):
        return _read_each(top, value) or None
    name = top.text(KEY, shape=_SHAPE)
    if name is not None and not name.strip():
        top.fault(KEY, "is empty", "name an image, or leave the key out")
        return None
    return name


def _read_each(top: Section, value: Mapping[Any, Any]) -> dict[str, str]:
    if not value:
        top.fault(KEY, "names no image", "write `amd64: NAME` below it, or leave the key out")
    found: dict[str, str] = {}
    for key, name in value.items():
        place = f"{KEY}.{key}"
        if key not in ARCHITECTURES:
            top.fault(place, "is no architecture", suggest(str(key), ARCHITECTURES))
        elif name is None:
            continue  # as a key without a value elsewhere: not there
        elif isinstance(name, bool) or not isinstance(name, (str, int, float)):
            top.fault(place, f"expected an image's name, got {describe(name)}", "write its name")
        elif not str(name).strip() or not str(name).isprintable():
            top.fault(place, f"{name!r} is no image's name", "write its name")
        else:
            found[key] = str(name)
    return found
