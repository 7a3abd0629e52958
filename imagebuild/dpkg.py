"""What dpkg's own file says of a root (deb-control(5), /var/lib/dpkg/status)."""

import re
from collections.abc import Iterator
from pathlib import Path

from imagebuild.errors import BuildError

_FIELD = re.compile(r"[\w-]+: ")


def read_installed(root: Path) -> Iterator[dict[str, str]]:
    """The one-line fields of every package that is installed, in the file's order.

    Raises BuildError where the file cannot be read.
    """
    status = root / "var/lib/dpkg/status"
    try:
        text = status.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BuildError(f"cannot read {status}: {error.strerror}") from None
    for stanza in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if _FIELD.match(line))
        if fields.get("Status", "").endswith(" installed"):
            yield fields
