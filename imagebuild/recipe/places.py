"""Places of the image that the build empties or writes itself: a file there would not stay.

configure.py cleans by the same lists; read.py refuses files there before anything is built.
"""

from fnmatch import fnmatchcase
from typing import Final

# dev, proc: a bootstrap and a plain chroot leave something there; the node mounts its own.
EMPTIED: Final = ("tmp", "var/tmp", "run", "dev", "proc", "sys", "var/log/apt")
"""Directories that are emptied before the image is packed."""
REMOVED: Final = (
    "var/log/*.log",
    "var/log/dpkg.log*",
    "var/log/btmp",
    "var/log/lastlog",
    "var/log/wtmp",
    "var/cache/ldconfig/aux-cache",
    "var/cache/debconf/*-old",
    "var/lib/dpkg/*-old",
    "etc/*-",
    "boot/initrd.img-*",
    "boot/vmlinuz-*",
    "boot/System.map-*",
    "initrd.img*",
    "vmlinuz*",
    "root/.bash_history",
    "var/lib/dkms/mok.*",
)
"""Patterns, below the root, of files that are removed then."""
_LINKS: Final = {"var/run": "run", "var/lock": "run/lock"}
_WRITTEN: Final = {
    "etc/machine-id": "each machine makes its own",
    "etc/hostname": "HOSTNAME in lts.conf, or the inventory, names a machine",
    "etc/hosts": "HOSTS_* in lts.conf, or in lts_defaults",
    "etc/resolv.conf": "DNS_SERVER and SEARCH_DOMAIN in lts.conf, or in lts_defaults",
    "etc/lts.conf": "lts_defaults in the recipe",
}
"""Files that the build writes last, and what to use in their place."""


def find_loss(path: str) -> tuple[str, str] | None:
    """Why a recipe's file at this path of the image would be lost, and the remedy; or None."""
    place = "/".join(part for part in path.split("/") if part)
    for link, target in _LINKS.items():
        if place.startswith(f"{link}/"):
            place = target + place.removeprefix(link)
    if place in _WRITTEN:
        return f"the build writes /{place} itself: a file of the recipe would be lost", (
            _WRITTEN[place]
        )
    top = next((one for one in EMPTIED if place.startswith(f"{one}/")), None)
    if top is not None:
        return (
            f"/{top} is emptied when the image is packed: the file would be lost",
            "another directory; a file of /etc/tmpfiles.d can make it there at each boot",
        )
    depth = place.count("/")
    if any(fnmatchcase(place, one) and depth == one.count("/") for one in REMOVED):
        return (
            "files of that name are removed when the image is packed: it would be lost",
            "another name",
        )
    return None
