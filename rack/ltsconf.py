"""The example lts.conf with the rack's own values filled in."""

from collections.abc import Mapping
from pathlib import Path

import jinja2

from rack.cache import checkout_directory
from rack.errors import RackError

EXAMPLE = Path("netboot-config") / "examples" / "lts.conf"


def example_lts_conf() -> Path:
    """The example with every variable of the article's ConfigMap."""
    return checkout_directory() / EXAMPLE


def without_join(template: str) -> str:
    """The same without its `kubeadm join` line, for a rack without a control plane."""
    return "".join(line for line in template.splitlines(True) if "kubeadm join" not in line)


def render_lts_conf(template: str, values: Mapping[str, str]) -> str:
    """Replace `{{ name }}` by the rack's values; an unknown name is an error.

    Text without placeholders comes back as it is.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    try:
        return environment.from_string(template).render(**values)
    except jinja2.TemplateError as error:
        raise RackError(
            f"cannot fill in the lts.conf: {error}",
            hint=f"the rack knows: {', '.join(sorted(values)) or 'nothing yet'}",
        ) from None
