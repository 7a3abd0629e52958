"""What is wrong with the server or with what it serves: a sentence, of one of a few kinds.

`/healthz` and the page show the sentence; metrics and alerts go by the kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

KINDS: Final[Mapping[str, str]] = {
    "store": "the store is empty or gone, or an image in it is damaged",
    "current": "an image that machines boot has no tag `current`",
    "default_image": "farm.yaml's default_image is not in the store",
    "image": "IMAGE in lts.conf names what the store has not",
    "signature": "an image is not signed as require_signed wants, or the keys cannot be read",
    "secret": "a secret that a template names is gone, or secrets cannot be read",
    "ltsconf": "an edit of lts.conf is refused, or in force with errors",
    "machines": "machines get no plan, so they cannot boot",
    "farm": "an edit of farm.yaml or its inventory is refused",
    "restart": "an edit of farm.yaml waits for a restart",
    "peers": "another server of the farm is away or differs, or images do not come from where they"
    " should",
    "server": "a part of the server itself does not work",
}
"""Kind to what it means."""


@dataclass(frozen=True)
class Trouble:
    """One thing that wants a person. kind: of KINDS. text: what, where, what to do, in one line.

    stops: no machine at all can boot while it lasts.
    """

    kind: str
    text: str
    stops: bool = False
