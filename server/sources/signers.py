"""Keys that images have to be signed by, and what is revoked, watched; which images may be served.

What cannot be read any more, or is wrong, stays in force as it was. Whatever it is that
cannot be told of an image, it is not served.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from imagebuild.errors import BuildError
from imagebuild.store.images import Image
from imagebuild.store.signatures import list_stamps
from imagebuild.store.trust import Trust, load_trust
from server.errors import ServerError
from server.sources.stamp import Stamp
from server.troubles import Trouble

_log = logging.getLogger(__name__)


class SignersSource:
    """farm.yaml's `require_signed` and `revoked`. Without keys every image may be served.

    refused: the images of the last look that may not be, each with the reason in a line.
    """

    def __init__(self, signers: Path | None = None, revoked: Path | None = None) -> None:
        self.refused: tuple[tuple[Image, str], ...] = ()
        self._paths = (signers, revoked)
        self._trust: Trust | None = None
        self._stamps: tuple[Stamp | None, ...] = ()
        self._problem = ""

    def load_first(self) -> None:
        """Read both at the start; ServerError says what is wrong."""
        signers, revoked = self._paths
        if signers is None:
            if revoked is not None:
                raise ServerError(
                    "revoked: counts with require_signed only",
                    hint="give require_signed, the file of the keys that images are signed by",
                )
            return
        self._stamps = self._look()
        try:
            self._trust = load_trust(signers, revoked)
        except BuildError as error:
            raise ServerError(f"require_signed: {error.message}", hint=error.hint) from None

    @property
    def is_wanted(self) -> bool:
        """Whether images have to be signed."""
        return self._paths[0] is not None

    def poll(self) -> bool:
        """Look for an edit of either file. True when what is in force has changed."""
        signers, revoked = self._paths
        if signers is None or (stamps := self._look()) == self._stamps:
            return False
        self._stamps = stamps
        before = self._trust
        try:
            self._trust = load_trust(signers, revoked)
            self._problem = ""
        except BuildError as error:
            self._problem = f"{error.one_line()}: the keys and what is revoked stay as they were"
            _log.error("%s", self._problem)
        if self._trust == before:
            return False
        _log.info("the keys that images are signed by, or what is revoked, have changed")
        return True

    def choose(self, images: Sequence[Image]) -> tuple[Image, ...]:
        """Those of the images that may be served."""
        if not self.is_wanted:
            return tuple(images)
        judged = [(image, self._explain(image)) for image in images]
        told = {reason for _, reason in self.refused}
        self.refused = tuple((image, reason) for image, reason in judged if reason)
        for _, reason in self.refused:
            if reason not in told:
                _log.error("not served: %s", reason)
        return tuple(image for image, reason in judged if not reason)

    def _explain(self, image: Image) -> str:
        """Why an image may not be served; "" where it may."""
        if self._trust is None:
            return f"image {image.name}@{image.digest[:12]}: no key was ever read"
        return self._trust.judge(image).reason

    def list_stamps(self, folders: Sequence[Path]) -> Iterator[object]:
        """What changes where a signature comes, goes or changes. folders: of images."""
        if self.is_wanted:
            for folder in folders:
                yield (str(folder), *list_stamps(folder))

    def troubles(self) -> Iterator[Trouble]:
        """What is wrong with the keys, and which images are refused that a tag names."""
        if self._problem:
            yield Trouble("signature", self._problem)
        for image, reason in self.refused:
            if image.tags:  # without one it waits for garbage collection
                yield Trouble("signature", f"not served: {reason}")

    def _look(self) -> tuple[Stamp | None, ...]:
        return tuple(Stamp.of(path) for path in self._paths if path is not None)
