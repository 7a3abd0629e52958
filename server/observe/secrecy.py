"""What people may read of values that may be secret: events, lts.conf on the page, kernel logs.

Three ways tell a secret: it stands in the directory of secrets, its variable in
lts.conf is called like one, or its text looks like one (`--token x`, a bootstrap
token, a private key). None of them is complete: docs/security.md says so.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from server.events import Event
from server.ltsconf import Conf
from server.ltsconf.redact import list_values

MASK: Final = "(secret)"
SHORTEST: Final = 6
"""Characters of a secret, or of a line of one, that is looked for inside of longer texts."""
_FREE_TEXT: Final = ("detail", "message", "error", "words", "last", "said", "bootstrap")
_NAME = re.compile(
    r"(^|_)(TOKEN|PASSWORD|PASSWD|PASSPHRASE|PASS|PW|SECRET|CREDENTIALS?|PSK|(?:PRIVATE_?|API_?"
    r"|ACCESS_?|CERTIFICATE_?|SSH_?|WPA_?|ENCRYPTION_?)KEY|AUTH)S?(_|$|\d)"
)
_WORDS: Final = (
    r"token|password|passwd|passphrase|secret|api[_-]?key|access[_-]?key|certificate-key"
)
# Each repetition is bounded: the sender of a line must not choose how long masking it takes.
_VALUE: Final = r"(?:\"[^\"]*\"?|'[^']*'?|\S+)"
_PATTERNS: Final = (
    # A PEM private key, also one that was cut.
    re.compile(
        r"(?P<keep>-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        re.DOTALL,
    ),
    # kubeadm's bootstrap token (its public half names it, and is kept from view, too).
    re.compile(r"(?P<keep>)\b[a-z0-9]{6}\.[a-z0-9]{16}\b"),
    # A JSON web token, perhaps behind a word and a hyphen. The pattern first looks for a dot
    # behind the word, so that a line of `-eyJ-eyJ-` is read once, not once for each.
    re.compile(r"(?<![\w-])(?=[\w-]{11,}+\.)(?P<keep>[\w-]*?)\beyJ[\w-]{8,}+\.[\w-]+(?:\.[\w-]*)?"),
    # --token VALUE, --discovery-token=VALUE; not --discovery-token-ca-cert-hash.
    re.compile(rf"(?P<keep>(?i:--?(?:[a-z]{{1,20}}-){{0,4}}(?:{_WORDS})[ =]{{1,4}})){_VALUE}"),
    # token: VALUE, MY_PASSWORD=VALUE, "password": "VALUE".
    re.compile(
        # (but `RCFILE_01_TOKEN: exit 1` is how a line of lts.conf ended)
        rf"(?P<keep>(?i:(?:{_WORDS})[\w-]{{0,20}}[\"']?\s{{0,4}}[:=]\s{{0,4}}))(?!exit \d)"
        r"(?:\"[^\"]*\"?|'[^']*'?|[^\s\"',;]+)"
    ),
    re.compile(r"(?P<keep>\b(?i:bearer|basic) )[\w.~+/=-]{8,}"),
    # https://user:VALUE@host
    re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@]{0,100}:)[^\s/@]+(?=@)"),
    # A hash of crypt(3).
    re.compile(r"(?P<keep>)\$(?:1|2[aby]?|5|6|7|y|gy)\$[\w./$=,-]{8,}"),
)


def is_secret_name(name: str) -> bool:
    """Whether a variable is called like one that holds a secret, as JOIN_TOKEN."""
    return _NAME.search(name.upper()) is not None


def find_secrets(conf: Conf) -> list[str]:
    """The secrets that stand in an lts.conf itself, in any section; of a template, those in its
    text."""
    found: list[str] = []
    for key, value in conf.list_settings():
        if is_secret_name(key):
            found.append(value)
        else:
            for pattern in _PATTERNS:
                found += [
                    match.group()[len(match["keep"]) :].strip("\"'")
                    for match in pattern.finditer(value)
                ]
    return [value for value in found if value and "{{" not in value]


class Secrecy:
    """Masks texts. secrets: gives the present ones, as SecretsSource.current; maps may nest.

    conf: gives the present lts.conf, which may hold some, too.
    """

    def __init__(
        self,
        secrets: Callable[[], Mapping[str, Any]] = dict,
        conf: Callable[[], Conf | None] = lambda: None,
    ) -> None:
        self._secrets = secrets
        self._conf = conf
        self._seen: tuple[object, object] | None = None
        self._known: tuple[str, ...] = ()
        self._whole: frozenset[str] = frozenset()

    def mask(self, text: str) -> str:
        """`text` with each secret in it replaced by `(secret)`."""
        self._refresh()
        if text in self._whole:
            return MASK
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, MASK)
        for pattern in _PATTERNS:
            text = pattern.sub(_replace, text)
        return text

    def mask_value(self, name: str, value: str) -> str:
        """A variable's value: all of it when the variable is called like a secret."""
        return MASK if value and is_secret_name(name) else self.mask(value)

    def mask_event(self, event: Event) -> Event:
        """The event with its free texts masked; paths and names stay as they are."""
        changed: dict[str, str] = {}
        for key in _FREE_TEXT:
            value = event.detail.get(key)
            if isinstance(value, str) and (masked := self.mask(value)) != value:
                changed[key] = masked
        if not changed:
            return event
        return dataclasses.replace(event, detail={**event.detail, **changed})

    def _refresh(self) -> None:
        secrets, conf = self._secrets(), self._conf()
        if self._seen is not None and self._seen[0] is secrets and self._seen[1] is conf:
            return
        whole = [value for value in list_values(secrets) if value.strip()]
        if conf is not None:
            whole += find_secrets(conf)
        lines = {line.strip() for value in whole for line in value.splitlines()}
        lines |= {value.strip() for value in whole}
        self._known = tuple(
            sorted((line for line in lines if len(line) >= SHORTEST), key=len, reverse=True)
        )
        self._whole = frozenset(whole)
        self._seen = (secrets, conf)


def _replace(match: re.Match[str]) -> str:
    return match.group("keep") + MASK
