"""The rack's error: what happened and where, and what to do about it."""

from imagebuild.errors import HintedError


class RackError(HintedError):
    """An error of the rack."""
