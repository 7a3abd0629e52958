"""What an admin asks a rollout for: checked, from a YAML file or an API's query."""

import fnmatch
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from server.errors import ServerError

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ON_FAILURE: Final = ("hold", "back")
ON_DRAIN_TIMEOUT: Final = ("hold", "reboot")
REBOOT: Final = ("agent", "hand")
KUBERNETES: Final = "k8s:"
"""What a term of `select` begins with that is about a label of the Node."""
_SIZE: Final = re.compile(r"([1-9][0-9]{0,6})(%?)")
_WINDOW: Final = re.compile(
    r"((?P<days>[a-z]{3}(-[a-z]{3})?)\s+)?(?P<from>[0-2]\d:[0-5]\d)-(?P<to>[0-2]\d:[0-5]\d)"
)
_IMAGE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}([:@][A-Za-z0-9._-]{1,64})?")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")
_DAY: Final = 1440
_WEEK: Final = 7 * _DAY
_SECONDS_MAX: Final = 7 * 86_400


class SpecError(ServerError):
    """What is asked for is no rollout; the message names the key."""


@dataclass(frozen=True)
class Spec:
    """A rollout as it was asked for.

    image: `name:tag` or `name@digest`. select: terms as `rack=r1,r2`, `k8s:zone=a`, names,
    globs, MACs. waves: machines that each wave has reached at its end, numbers or per cent.
    max_unavailable: machines, or per cent of the cluster, that may be away at once. window:
    `mon-fri 22:00-05:00`, UTC, or "". tag: the tag that moves to the image at the end, or "".
    failures: so many hold it (in the first wave one does). Amounts are seconds.
    """

    image: str
    select: tuple[str, ...] = ()
    waves: tuple[str, ...] = ("1", "5%", "25%", "100%")
    max_unavailable: str = "1"
    window: str = ""
    tag: str = "current"
    failures: int = 1
    on_failure: str = "hold"
    on_drain_timeout: str = "hold"
    reboot: str = "agent"
    drain_seconds: int = 600
    boot_seconds: int = 900
    ready_seconds: int = 60
    finding_seconds: int = 60

    def sizes(self, members: int) -> tuple[int, ...]:
        """How many machines are reached at the end of each wave; each wave has one at least."""
        found: list[int] = []
        for wave in self.waves:
            size = min(count_of(wave, members), members)
            if size > (found[-1] if found else 0):
                found.append(size)
        return tuple(found)

    def is_open(self, now: float) -> bool:
        """Whether machines may be begun with now. now: seconds since the epoch."""
        if not self.window:
            return True
        days, begin, end = read_window(self.window)
        minute = int(now // 60)
        # 1970-01-01 was a Thursday.
        day, at = (minute // _DAY + 3) % 7, minute % _DAY
        if begin < end:
            return day in days and begin <= at < end
        return (day in days and at >= begin) or ((day - 1) % 7 in days and at < end)

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


NAMES: Final = tuple(field.name for field in fields(Spec))


def parse_spec(given: Mapping[str, Any]) -> Spec:
    """Check what was given: texts as a query has them, or YAML's values. Raises SpecError."""
    if unknown := sorted(set(map(str, given)) - set(NAMES)):
        raise SpecError(
            f"a rollout has no key {unknown[0][:60]!r}", hint=f"its keys: {', '.join(NAMES)}"
        )
    image = _text(given, "image", "")
    if not _IMAGE.fullmatch(image):
        raise SpecError(
            f"image: {image[:80]!r} names no image",
            hint="say which image is rolled out: name:tag or name@digest",
        )
    spec = Spec(
        image=image,
        select=_list(given, "select", ";", ()),
        waves=_list(given, "waves", ",", Spec.waves),
        max_unavailable=_text(given, "max_unavailable", Spec.max_unavailable),
        window=_text(given, "window", "").lower(),
        tag=_text(given, "tag", Spec.tag, empty=True),
        failures=_whole(given, "failures", Spec.failures, 1, 1_000_000),
        on_failure=_choice(given, "on_failure", Spec.on_failure, ON_FAILURE),
        on_drain_timeout=_choice(
            given, "on_drain_timeout", Spec.on_drain_timeout, ON_DRAIN_TIMEOUT
        ),
        reboot=_choice(given, "reboot", Spec.reboot, REBOOT),
        drain_seconds=_whole(given, "drain_seconds", Spec.drain_seconds, 1, _SECONDS_MAX),
        boot_seconds=_whole(given, "boot_seconds", Spec.boot_seconds, 1, _SECONDS_MAX),
        ready_seconds=_whole(given, "ready_seconds", Spec.ready_seconds, 0, _SECONDS_MAX),
        finding_seconds=_whole(given, "finding_seconds", Spec.finding_seconds, 0, _SECONDS_MAX),
    )
    if spec.tag and not _TAG.fullmatch(spec.tag):
        raise SpecError(f"tag: {spec.tag[:60]!r} is no tag", hint='as current; "" moves none')
    _check_waves(spec)
    for term in spec.select:
        key, equals, values = term.partition("=")
        if equals and not (key.removeprefix(KUBERNETES).strip() and values.strip(" ,")):
            raise SpecError(f"select: {term[:60]!r} is no label", hint="as rack=r1,r2")
    if not _SIZE.fullmatch(spec.max_unavailable):
        raise SpecError(
            f"max_unavailable: {spec.max_unavailable[:20]!r} is no amount", hint="as 2, or 5%"
        )
    if spec.window:
        read_window(spec.window)
    return spec


def _check_waves(spec: Spec) -> None:
    last = 0.0
    for wave in spec.waves:
        found = _SIZE.fullmatch(wave)
        if found is None or (found[2] and int(found[1]) > 100):
            raise SpecError(
                f"waves: {wave[:20]!r} is no size of a wave",
                hint="numbers of machines or per cent, as 1,5%,25%,100%",
            )
        if found[2]:
            if int(found[1]) <= last:
                raise SpecError(
                    f"waves: {wave} is no more than the wave before it",
                    hint="each says how many machines are reached at its end, as 1,5%,25%,100%",
                )
            last = int(found[1])
    if not spec.waves or spec.waves[-1] != "100%":
        raise SpecError("waves: the last one is not 100%", hint="as 1,5%,25%,100%")


def count_of(size: str, of: int) -> int:
    """Machines of `2` or `5%`, per cent rounded up, one at least."""
    found = _SIZE.fullmatch(size)
    if found is None:
        raise SpecError(f"{size[:20]!r} is no amount", hint="as 2, or 5%")
    number = int(found[1])
    return max(1, math.ceil(of * number / 100)) if found[2] else number


def read_window(window: str) -> tuple[frozenset[int], int, int]:
    """Days (0: Monday), and minutes of the day, of `mon-fri 22:00-05:00`. Raises SpecError."""
    found = _WINDOW.fullmatch(window.strip().lower())
    error = SpecError(
        f"window: {window[:40]!r} is no time", hint="as 22:00-05:00 or mon-fri 22:00-05:00, in UTC"
    )
    if found is None:
        raise error
    first, _, last = (found["days"] or "mon-sun").partition("-")
    begin, end = (_minutes(found[name]) for name in ("from", "to"))
    if first not in DAYS or (last or first) not in DAYS or max(begin, end) > _DAY or begin == end:
        raise error
    start, count = DAYS.index(first), (DAYS.index(last or first) - DAYS.index(first)) % 7
    return frozenset((start + step) % 7 for step in range(count + 1)), begin, end


def _minutes(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


def is_selected(
    spec: Spec,
    *,
    mac: str,
    name: str,
    labels: Mapping[str, str],
    node_labels: Mapping[str, str] | None,
) -> bool:
    """Whether a rollout is for a machine: all terms with labels hold, and one of the others does.

    labels: the inventory's. node_labels: the Node's; None where the cluster has none of it.
    """
    names = [term for term in spec.select if "=" not in term]
    for term in spec.select:
        if "=" not in term:
            continue
        key, _, values = term.partition("=")
        of_node = key.startswith(KUBERNETES)
        found = (node_labels or {}) if of_node else labels
        if found.get(key.removeprefix(KUBERNETES)) not in [
            one.strip() for one in values.split(",")
        ]:
            return False
    return not names or any(
        fnmatch.fnmatchcase(one, term.lower()) for term in names for one in (mac, name.lower())
    )


def _text(given: Mapping[str, Any], key: str, default: str, *, empty: bool = False) -> str:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SpecError(f"{key}: {str(value)[:60]!r} is no text", hint="write it in quotes")
    text = str(value).strip()
    return text if text or empty else default


def _list(
    given: Mapping[str, Any], key: str, between: str, default: tuple[str, ...]
) -> tuple[str, ...]:
    value = given.get(key)
    if value is None or value == "":
        return default
    words = value if isinstance(value, list | tuple) else str(value).split(between)
    if not all(isinstance(word, str | int) and not isinstance(word, bool) for word in words):
        raise SpecError(f"{key}: it holds more than texts", hint="a list of texts")
    return tuple(text for word in words if (text := str(word).strip()))


def _whole(given: Mapping[str, Any], key: str, default: int, least: int, most: int) -> int:
    value = given.get(key, default)
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}", text):
        raise SpecError(f"{key}: {text[:40]!r} is no number", hint=f"a whole number from {least}")
    number = int(text)
    if not least <= number <= most:
        raise SpecError(f"{key}: {number} is out of bounds", hint=f"{least} to {most}")
    return number


def _choice(given: Mapping[str, Any], key: str, default: str, words: tuple[str, ...]) -> str:
    text = _text(given, key, default)
    if text not in words:
        raise SpecError(f"{key}: {text[:40]!r} is not known", hint=f"one of {', '.join(words)}")
    return text
