"""The templates of netboot-config/, wherever they are, and how their values are quoted."""

import json
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from server.errors import ServerError
from server.ltsconf.cmdline import IPXE_ENDS, OTHER_WAY, explain_ipxe

_BESIDE = Path(__file__).resolve().parents[2] / "netboot-config"
_INSTALLED = [
    Path(sysconfig.get_path("data", scheme)) / "share" / "bootfarm" / "netboot-config"
    for scheme in (sysconfig.get_default_scheme(), "posix_user")  # pip install, --user
]


class QuotingError(ServerError):
    """A value cannot be written in the language of a template."""


def quote_grub(text: str) -> str:
    """A word for a GRUB script: inside '…' nothing is special but the apostrophe itself."""
    return "'" + _plain(text).replace("'", "'\\''") + "'"


def quote_ipxe(text: str) -> str:
    """A word for an iPXE script, as it is; iPXE has no quoting.

    Raises QuotingError for what iPXE would take as something else.
    """
    why = explain_ipxe(text)
    if why is not None:
        raise QuotingError(why, hint=OTHER_WAY)
    if " " in text:
        return f'"{_plain(text)}"'  # for the kernel; iPXE passes quotes on
    return _plain(text)


def quote_ipxe_text(text: str) -> str:
    """Words for iPXE's echo; what it would expand or run is made harmless."""
    words = _plain(text).replace("${", "$ {").split()
    return " ".join(
        f"'{word}'" if word in IPXE_ENDS or word.startswith("#") else word for word in words
    )


def quote_dhcpd(text: str) -> str:
    """A string in ISC dhcpd's configuration, quotes included."""
    return '"' + _plain(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


@cache
def find_templates() -> Path:
    """The directory netboot-config/: beside the packages in a checkout, else as installed."""
    for path in (_BESIDE, *_INSTALLED):
        if (path / "grub.cfg.j2").is_file():
            return path
    raise ServerError(
        f"the templates (netboot-config/) are neither in {_BESIDE} nor in {_INSTALLED[0]}",
        hint="install bootfarm again: `make install`, or pip install",
    )


@cache
def _environment(directory: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(directory),
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        grub=quote_grub,
        ipxe=quote_ipxe,
        ipxe_text=quote_ipxe_text,
        dhcpd=quote_dhcpd,
        json=lambda value: json.dumps(value, ensure_ascii=True),
    )
    return environment


def render(template: str, **values: Any) -> str:
    """One template of netboot-config/ with these values; an undefined one is an error."""
    return _environment(find_templates()).get_template(template).render(**values)
