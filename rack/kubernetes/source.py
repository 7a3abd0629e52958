"""Where the rack's Kubernetes comes from: published Go modules, or Debian's source package."""

from typing import Literal, get_args

from rack.kubernetes import build as modules
from rack.kubernetes.debian import build as debian
from rack.kubernetes.stack import Packages
from rack.progress import Progress

Source = Literal["modules", "debian"]
SOURCES: tuple[Source, ...] = get_args(Source)


def build(progress: Progress, source: Source = "modules") -> Packages:
    """Build what is missing of the packages; RackError says why it cannot."""
    return debian.build(progress) if source == "debian" else modules.build(progress)
