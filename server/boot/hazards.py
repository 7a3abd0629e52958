"""Lines of an lts.conf in force that no machine can use; they are reported when it is loaded.

These are IMAGE lines that name no image of the store, and secrets that a template names and
that do not exist. They stand in sections that perhaps no machine has met yet, so no node's
error would show them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from server.boot.plan import PlanError, choose_image
from server.ltsconf import Conf
from server.site import Site
from server.troubles import Trouble

MOST: Final = 5
"""Of one kind that are told one by one."""


def find_hazards(site: Site) -> tuple[Trouble, ...]:
    """Every hazard of a site.

    Raises LtsConfError where a template cannot be read; the trial reports that.
    """
    conf = site.ltsconf
    found = list(_bound("image", _check_images(conf, site))) if site.images else []
    found += _bound("secret", _check_secrets(conf, site.secrets))
    return tuple(found)


def _bound(kind: str, lines: Iterable[str]) -> Iterator[Trouble]:
    texts = list(dict.fromkeys(lines))
    for text in texts[:MOST]:
        yield Trouble(kind, text)
    if len(texts) > MOST:
        yield Trouble(kind, f"{len(texts) - MOST} more lines of the same kind")


def _check_images(conf: Conf, site: Site) -> Iterator[str]:
    """A line for each value of IMAGE that names no image of the store."""
    answers: dict[str, PlanError | None] = {}  # many sections give few different values
    for where, value in conf.locate_settings("IMAGE"):
        if not value.strip() or value.upper() == "NONE":
            continue
        if value not in answers:
            answers[value] = _refuse(value, site)
        if (error := answers[value]) is not None:
            hint = f"; {error.hint}" if error.hint else ""
            yield f"{where}: {error.message}: machines of this section get no image{hint}"


def _refuse(value: str, site: Site) -> PlanError | None:
    """Why no machine gets an image for this value.

    None where some machine gets one, by its DHCP file name.
    """
    first: PlanError | None = None
    for name in (None, *sorted({image.name for image in site.images})):
        try:
            choose_image(value, site.images, site.default_image, name)
        except PlanError as error:
            first = error if first is None or name is None else first
        else:
            return None
    return first


def _check_secrets(conf: Conf, secrets: Mapping[str, Any]) -> Iterator[str]:
    """A line for each secret that the template names and that does not exist.

    A secret used with `default(…)` or `is defined` may be missing.
    """
    for use in conf.check():
        if use.path[0] != "secrets" or use.guarded:
            continue
        name = ".".join(use.path)
        if _has(secrets, use.path[1:]):
            if _is_empty(secrets, use.path[1:]):
                yield f"{conf.template}:{use.line}: {name} is an empty file: write the secret"
            continue
        yield (
            f"{conf.template}:{use.line}: the template names {name}, and the directory of secrets"
            " has no such file: put it back (`secrets` in farm.yaml says where), or take the name"
            " out"
        )


def _is_empty(known: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        known = known.get(name) if isinstance(known, Mapping) else None
    return isinstance(known, str) and not known.strip()


def _has(known: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        if not isinstance(known, Mapping):
            return True
        if name not in known:
            return hasattr(dict, name)  # a template may call a method of a mapping, as items
        known = known[name]
    return True
