"""Values of a known shape: zones, addresses, lines of fstab and crontab, sizes.

Each check gives what is wrong and the remedy, or None. They look at texts only;
what an image has (its time zones, its modules) is for the node to tell.
"""

from __future__ import annotations

import ipaddress
import re
import zoneinfo
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import cache

Wrong = tuple[str, str]
"""What is wrong, and the remedy."""

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_HOST_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_NUMBERS = re.compile(r"[0-9.]+")
_SIZE = re.compile(r"[0-9]+[kKmMgGtTpPeE]?|[0-9]{1,3}%")
_SIZES = ("size", "nr_blocks", "nr_inodes")
_SPANS = (
    *("x-systemd.device-timeout", "x-systemd.mount-timeout", "x-systemd.idle-timeout"),
    "x-systemd.automount-timeout",
)
_MODE = re.compile(r"[0-7]{1,4}")
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,-]*")
_ACCOUNTS_TEXT = """
root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc nobody admin
ubuntu debian user"""
_ACCOUNTS = frozenset(_ACCOUNTS_TEXT.split())
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CRON = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("weekday", 0, 7, _DAYS),
)
_SHORT = {
    **{str(number): days for number, days in ((2, 29), (4, 30), (6, 30), (9, 30), (11, 30))},
    **{"02": 29, "04": 30, "06": 30, "09": 30},
    **{"feb": 29, "apr": 30, "jun": 30, "sep": 30, "nov": 30},
}
"""Months that are shorter than 31 days, and their last day."""
_NICKNAMES_TEXT = "@reboot @yearly @annually @monthly @weekly @daily @midnight @hourly"
_NICKNAMES = frozenset(_NICKNAMES_TEXT.split())


@cache
def list_zones() -> frozenset[str]:
    """The time zones of this machine; empty where it has no tzdata."""
    return frozenset(zoneinfo.available_timezones())


def check_timezone(value: str) -> Wrong | None:
    """What is wrong with a name below /usr/share/zoneinfo."""
    zones = list_zones()
    name = value.removeprefix("posix/").removeprefix("right/")
    if name in zones or (not zones and re.fullmatch(r"[A-Za-z][A-Za-z0-9_+-]*(/[\w+-]+)*", name)):
        return None
    name = name[:60]
    folded = {zone.lower(): zone for zone in zones}
    close = get_close_matches(name.lower(), folded, 1, 0.7)
    hint = f"Did you mean {folded[close[0]]}?" if close else "Write a zone as Europe/Prague or UTC."
    return f"{value[:60]!r} is no time zone", hint


def is_address(word: str) -> bool:
    """Whether it is an IPv4 or IPv6 address, the latter with a scope or without."""
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True


def _check_reachable(word: str) -> Wrong | None:
    """What is wrong with an address that a host has to have."""
    address = ipaddress.ip_address(word)
    if address.is_unspecified or address.is_multicast or word == "255.255.255.255":
        return f"{word!r} is no host's address", "Write the address of one host."
    return None


def check_server_address(word: str) -> Wrong | None:
    """What is wrong with the address of a host that the node asks."""
    return check_address(word) or _check_reachable(word)


def check_address(word: str) -> Wrong | None:
    """What is wrong with a word that has to be an address, not a name."""
    if is_address(word):
        return None
    return f"{word!r} is no IP address", "Write four numbers from 0 to 255, or an IPv6 address."


def check_host(word: str) -> Wrong | None:
    """What is wrong with a word that has to be an address or a host name."""
    if is_address(word):
        return _check_reachable(word)
    if _NUMBERS.fullmatch(word) or ":" in word:
        return f"{word!r} is no IP address", "Write four numbers from 0 to 255, or a host name."
    return check_name(word)


def check_name(word: str) -> Wrong | None:
    """What is wrong with a host name or domain (RFC 1123, 2.1; an underscore passes)."""
    if _NUMBERS.fullmatch(word):
        return f"{word[:60]!r} is no host name", "Write a name; an address is none."
    if len(word) <= 253 and _NAME.fullmatch(word):
        return None
    return f"{word[:60]!r} is no host name", "Write letters, digits, dashes and dots."


def check_hostname(value: str) -> Wrong | None:
    """A node's own name, which it cleans to what RFC 1123 allows."""
    labels = value.split(".")
    is_name = all(_HOST_LABEL.fullmatch(label) for label in labels) and len(value) <= 253
    if is_name and not is_address(value) and value.lower() != "localhost":
        return None
    return (
        f"{value!r} is no host name: the node takes out what RFC 1123 does not allow",
        "Write letters, digits and dashes, at most 63 in a row.",
    )


def check_words(value: str, check: Callable[[str], Wrong | None]) -> Wrong | None:
    """The first wrong one of words with blanks or commas between."""
    found = (check(word) for word in value.replace(",", " ").split())
    return next((wrong for wrong in found if wrong is not None), None)


def check_hosts_line(value: str) -> Wrong | None:
    """What is wrong with a line of /etc/hosts: an address and names."""
    words = value.partition("#")[0].split()
    if not words:
        return None
    if len(words) < 2:
        return "it has fewer than two words", "Write an address and names."
    return check_address(words[0]) or next(
        (wrong for wrong in map(check_name, words[1:]) if wrong is not None), None
    )


def check_fstab_line(value: str) -> Wrong | None:
    """A line of fstab(5): device, mount point, type, options, and at most dump and pass."""
    fields = value.split()
    if not fields or fields[0].startswith("#"):
        return None
    if not 4 <= len(fields) <= 6:
        return (
            f"it has {len(fields)} field{'s' if len(fields) != 1 else ''}",
            "A line of fstab has device, mount point, type, options, dump and pass:"
            " /dev/data/x /srv/x ext4 nofail 0 0.",
        )
    wrong = _check_mount_point(fields[1]) or _check_source(fields[0], fields[2])
    if wrong is not None:
        return wrong
    for option in fields[3].split(","):
        name, equals, text = option.partition("=")
        if not name:
            return f"the options {fields[3]!r} hold an empty one", "Write one comma between two."
        is_size = equals and name in _SIZES and fields[2] in ("tmpfs", "ramfs", "hugetlbfs")
        if is_size and not _is_size(text):
            return f"{option!r} is no size", "Write a number with k, m or g, or with %."
        if name in _SPANS and not _SPAN.fullmatch(text):
            return f"{option[:60]!r} is no span of time", f"Write seconds, as {name}=90s."
        if equals and name == "mode" and not _MODE.fullmatch(text):
            return f"{option!r} is no mode", "Write octal digits, as mode=0755."
    for name, field in zip(("dump", "pass"), fields[4:], strict=False):
        if not re.fullmatch(r"[0-9]", field):
            return f"{name} is {field!r}", "The fifth and sixth field are digits, as 0 0."
    return None


_SYSTEM_TEXT = "/ /bin /dev /etc /lib /lib64 /proc /root/.ssh /rofs /run /sbin /sys /usr"
_SYSTEM = frozenset(_SYSTEM_TEXT.split())
_ON_DISK = ("ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "f2fs", "exfat", "ntfs3", "iso9660")
_TYPES = (
    *(*_ON_DISK, "nfs", "nfs4", "cifs", "tmpfs", "ramfs", "overlay", "swap", "ceph", "9p"),
    *("ntfs", "zfs", "erofs", "squashfs", "devtmpfs", "hugetlbfs"),
)
_NUMBERED = re.compile(r"(ext|nfs|cifs|tmpfs|xfs)[0-9]+")
_LATEST = {"ext": "ext4", "nfs": "nfs", "cifs": "cifs", "tmpfs": "tmpfs", "xfs": "xfs"}
_UUID = re.compile(r'"?[0-9A-Fa-f]+(-[0-9A-Fa-f]+)*"?')
_SPAN = re.compile(r"infinity|([0-9]+(\.[0-9]+)?[a-zµ]+)*([0-9]+(\.[0-9]+)?[a-zµ]*)")
_TAG = re.compile(r"(UUID|LABEL|PARTUUID|PARTLABEL|ID)=(.*)")


def _check_mount_point(path: str) -> Wrong | None:
    if not path.startswith("/") and path not in ("none", "swap"):
        return f"the mount point {path!r} is no absolute path", "Begin it with a /."
    if ".." in path.split("/"):
        return f"the mount point {path!r} holds ..", "Write the path as it is."
    if path.rstrip("/") in _SYSTEM or path == "/":
        return f"a file system on {path} hides the system's own files", "Mount it elsewhere."
    return None


def _check_source(source: str, kind: str) -> Wrong | None:
    """What is wrong with the first field, as far as the type of the file system tells."""
    if not _TYPE.fullmatch(kind):
        return f"{kind!r} is no type of file system", "Write its name, as ext4, nfs or tmpfs."
    if (numbered := _NUMBERED.fullmatch(kind)) and kind not in _TYPES:
        return f"{kind!r} is no type of file system", f"Did you mean {_LATEST[numbered[1]]}?"
    close = get_close_matches(kind, _TYPES, 1, 0.8)
    if kind not in _TYPES and close and kind.rstrip("0123456789") not in _TYPES:
        return f"{kind!r} is no type of file system", f"Did you mean {close[0]}?"
    tag = _TAG.fullmatch(source)
    if tag is not None and not tag[2].strip('"'):
        return f"{source!r} names nothing", f"Write {tag[1]}= and what `blkid` shows."
    if tag is not None and tag[1] in ("UUID", "PARTUUID") and not _UUID.fullmatch(tag[2]):
        why = f"{source[:60]!r} is no {tag[1]}: that has digits, a to f and dashes"
        return why, "Write what `blkid` shows, or LABEL=, if it is a label."
    if kind in ("nfs", "nfs4") and ":/" not in source:
        return f"{source[:60]!r} is no directory of an NFS server", "Write it as 10.9.0.1:/srv/x."
    if kind == "cifs" and not source.startswith("//"):
        return f"{source[:60]!r} is no share", "Write it as //10.9.0.1/share."
    if kind in _ON_DISK and tag is None and not source.startswith("/"):
        return f"{source[:60]!r} is no device", f"Write /dev/{source[:60]}, LABEL= or UUID=."
    return None


_DISK = re.compile(r"/dev/|(UUID|LABEL|PARTUUID|PARTLABEL|ID)=")
_NOT_WAITED_FOR = frozenset(("nofail", "noauto", "x-systemd.automount", "_netdev", "bind", "rbind"))


def check_required_disk(value: str) -> Wrong | None:
    """A good line of fstab without which the system does not start: its disk may be missing.

    systemd's local-fs.target requires it then, and its failure is emergency mode
    (systemd.mount(5), fstab(5)). As the node's own `local_lines` reads it.
    """
    fields = value.split()
    if len(fields) < 4 or not _DISK.match(fields[0]) or not fields[1].startswith("/"):
        return None
    options = fields[3].split(",")
    if fields[2] == "swap" or any(one.partition("=")[0] in _NOT_WAITED_FOR for one in options):
        return None
    mended = [*fields[:3], f"{fields[3]},nofail", *fields[4:]]
    return (
        f"without nofail a machine on which {fields[0][:60]} is missing, or late, does not start:"
        " it ends in systemd's emergency mode, where nobody can log in",
        f'Write "{" ".join(mended)[:200]}"; leave it as it is, if a machine without that disk'
        " shall not run.",
    )


_MEMORY_SIZE = re.compile(r"0*[0-9]{1,7}[MmGg%]?")
_LIKE_A_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_MIB = {"k": 1 / 1024, "": 1.0, "m": 1.0, "g": 1024.0, "t": 1024.0 * 1024}


def check_size(value: str) -> Wrong | None:
    """A size of memory: 512M, 2G, 30% or a number of MiB; as lib/memory.sh on the node takes it."""
    if _MEMORY_SIZE.fullmatch(value):
        number = int(value.rstrip("MmGg%"))
        if value.endswith("%") and number == 100:
            return "'100%' leaves no memory for anything else", "Write 512M, 2G or 30%."
        if number and not (value.endswith("%") and number > 100):
            return None
        why = "nothing" if not number else "more than all of the memory"
        return f"{value!r} is {why}", "Write 512M, 2G or 30%."
    like = _LIKE_A_SIZE.fullmatch(value.strip())
    if like is not None:
        mib = round(float(like[1]) * _MIB[like[2].lower()])
        if 0 < mib < 10_000_000:
            text = f"{mib // 1024}G" if mib % 1024 == 0 else f"{mib}M"
            return f"{value[:40]!r} is no size that a node reads", f"Write {text}."
    return f"{value[:40]!r} is no size", "Write 512M, 2G or 30%."


def check_seconds(value: str) -> Wrong | None:
    """Whole seconds, as the node reads them."""
    if re.fullmatch(r"([0-9]{1,4})?", value):
        return None  # an empty value counts as not set
    return f"{value[:40]!r} is no number of seconds", "Write a whole number from 0 to 9999."


def _is_size(text: str) -> bool:
    if not _SIZE.fullmatch(text):
        return False
    return not text.endswith("%") or int(text[:-1]) <= 100


def check_crontab_line(value: str) -> Wrong | None:
    """A line of a user's crontab(5): five fields of time and the command, no user."""
    text = value.strip()
    if not text or text.startswith("#") or re.match(r"[A-Za-z_]\w*[ \t]*=", text):
        return None  # a comment, or a line of environment
    words = text.split()
    if words[0].startswith("@"):
        if words[0] not in _NICKNAMES:
            return f"{words[0]!r} is no time of cron's", f"Write {', '.join(sorted(_NICKNAMES))}."
        rest = words[1:]
        if not rest:
            return "it has no command", "Write the command behind the time."
    else:
        for (name, low, high, names), word in zip(_CRON, words, strict=False):
            if not _is_cron_field(word, low, high, names):
                return (
                    f"the {name} is {word!r}",
                    f"Write a number from {low} to {high}, *, */n, a-b or a list with commas.",
                )
        if len(words) < 6:
            return "it has fewer than six fields", (
                "Write minute, hour, day, month, weekday and the command."
            )
        rest = words[5:]
        if words[2].isdecimal() and words[3].lower() in _SHORT and words[4] == "*":
            longest = _SHORT[words[3].lower()]
            if int(words[2]) > longest:
                return (
                    f"there is no day {words[2]} in month {words[3]}",
                    f"Write a day up to {longest}.",
                )
        if re.fullmatch(r"[0-9*?/,-]+", rest[0]):
            return (
                f"the command begins with {rest[0]!r}: there are five fields of time",
                "Write minute, hour, day, month, weekday and the command.",
            )
    if re.search(r"(?<!\\)%", text):
        return (
            "cron ends a command at %, and gives the rest to its standard input",
            "Write \\% for a percent sign.",
        )
    if rest[0] in _ACCOUNTS and len(rest) > 1:
        return (
            f"the command begins with {rest[0]!r}: LTSP 5 has the user's name there, but this is a"
            " line of root's own crontab",
            f"Remove {rest[0]}.",
        )
    return None


def _is_cron_field(word: str, low: int, high: int, names: Iterable[str]) -> bool:
    known = list(names)
    for part in word.split(","):
        span, slash, step = part.partition("/")
        # A step beyond the field's values comes true once an hour, day or year: */90 is no
        # hour and a half.
        if slash and not (step.isdecimal() and 0 < int(step[:6]) <= high - low + 1):
            return False
        if span == "*":
            continue
        ends = span.split("-")
        if len(ends) > 2:
            return False
        values = []
        for end in ends:
            if end.isdecimal() and low <= int(end[:6]) <= high:
                values.append(int(end))
            elif end.lower() in known:
                values.append(known.index(end.lower()) + low)
            else:
                return False
        if len(values) == 2 and values[0] > values[1]:
            return False
    return True


def is_computed(value: str) -> bool:
    """Whether a word is only known on the node, or when a template is rendered."""
    return any(sign in value for sign in ("$", "`", "{{", PLACEHOLDER))


PLACEHOLDER = "placeholder"
"""What stands in a checked template for a value that is not known."""
