"""What each parameter of ltsp.conf(5) becomes in lts.conf, or why it becomes nothing."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

DESKTOP: Final = "it is about people who log in at the machine, and a node of bootfarm has none"
_LEAVE: Final = "leave it out"
_MACRO: Final = re.compile(r"%\{(IP|MAC)\}$")
_CALL: Final = re.compile(r"\bsection_[a-z0-9_]+")
_CRON: Final = re.compile(r"(@\S+|\S+\s+\S+\s+\S+\s+\S+\s+\S+)\s+(\S+)\s+(.+)")


@dataclass(frozen=True)
class Mapped:
    """What a parameter becomes. check: what a person should look at, or "", and what to do."""

    values: tuple[tuple[str, str], ...]
    check: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Left:
    """Why a parameter becomes nothing, and what to do instead."""

    why: str
    hint: str = _LEAVE


Outcome = Mapped | Left


def map_parameter(name: str, value: str) -> Outcome:
    """One parameter with its value, as the shell has it."""
    if "\n" in value:
        return Left("its value has several lines, and a value of lts.conf is one line", FILES)
    if name in _PLAIN:
        return Mapped(((_PLAIN[name], value),))
    if name in _SPECIAL:
        return _SPECIAL[name](value)
    for prefix, convert in _FAMILIES.items():
        if name.startswith(prefix) and len(name) > len(prefix):
            return convert(name.upper(), value)  # as keys of lts.conf are
    for pattern, left in _LEFT.items():
        if fnmatchcase(name, pattern):
            return left
    return Left(
        "ltsp.conf(5) has no such parameter",
        "if a script of yours reads it, put script and value into the recipe's files",
    )


REMOVED: Final = "RM_SYSTEM_SERVICES"
FILES: Final = "put a file into the image by the recipe's `files`, or a script by RCFILE_*"

_PLAIN: Final[Mapping[str, str]] = {
    "DNS_SERVER": "DNS_SERVER",
    "SEARCH_DOMAIN": "SEARCH_DOMAIN",
    "KEEP_SYSTEM_SERVICES": "KEEP_SYSTEM_SERVICES",
    # Both of them; convert.py puts what they hold together.
    "DISABLE_SYSTEM_SERVICES": REMOVED,
    "MASK_SYSTEM_SERVICES": REMOVED,
}


def _map_hostname(value: str) -> Outcome:
    value = value.partition(" ")[0]
    macro = _MACRO.search(value)
    base = value[: macro.start()] if macro else value
    if re.search(r"[%$`\\]", base) or not base:
        return Left(
            "it is computed on the machine from more than its address",
            "give names by DHCP or the inventory, or write HOSTNAME in a section for each machine;"
            " a template (# jinja2) computes them on the server",
        )
    if macro is None:
        return Mapped((("HOSTNAME", base),))
    if macro[1] == "MAC":
        return Mapped((("HOSTNAME_BASE", base), ("HOSTNAME_EXTRA", "mac")))
    return Mapped(
        (("HOSTNAME_BASE", base), ("HOSTNAME_EXTRA", "ip")),
        "%{IP} is the address's number within its network, HOSTNAME_EXTRA = ip the last number of"
        " the address: the same in networks of 256 addresses (/24), another in others",
        "in another network give names by DHCP or the inventory",
    )


def _map_to_ram(value: str) -> Outcome:
    return Mapped((("LTSP_NBD_TO_RAM", "true" if value == "1" else "false"),))


def _map_image(value: str) -> Outcome:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", value):
        return Left(
            f"{value!r} is no name that an image of bootfarm can have",
            "build an image by a recipe, and write IMAGE = its name",
        )
    return Mapped(
        (("IMAGE", value),),
        "LTSP's images do not come along: the store needs one of this name",
        f"`bootfarm build` one with the recipe's name: {value}, or write another name here",
    )


def _map_cmdline(value: str) -> Outcome:
    return Mapped((("KERNEL_CMDLINE", value),))


def _map_timeout(value: str) -> Outcome:
    seconds = f" (here {int(value) // 1000})" if value.isdecimal() and len(value) < 9 else ""
    return Left(
        "the menu's time is the server's setting, the same for all machines",
        f"menu: {{timeout: …}} in farm.yaml, in seconds{seconds}",
    )


def _map_swap(value: str) -> Outcome:
    if value == "0":
        return Left("no swap partition of a disk is ever activated here", "nothing is to be done")
    return Left("kubelet does not start while there is swap", _LEAVE)


_SPECIAL: Final[Mapping[str, Callable[[str], Outcome]]] = {
    "HOSTNAME": _map_hostname,
    "IMAGE_TO_RAM": _map_to_ram,
    "DEFAULT_IMAGE": _map_image,
    "KERNEL_PARAMETERS": _map_cmdline,
    "MENU_TIMEOUT": _map_timeout,
    "LOCAL_SWAP": _map_swap,
}


def _map_same(name: str, value: str) -> Outcome:
    return Mapped(((name, value),))


def _map_fstab(name: str, value: str) -> Outcome:
    if re.match(r"server[:/]|//server/", value):
        return Mapped(
            ((name, value),),
            "LTSP puts the name `server` into the machine's /etc/hosts, and bootfarm does not",
            "write the server's own name or address, or a line HOSTS_01 = ADDRESS server",
        )
    return Mapped(((name, value),))


def _map_crontab(name: str, value: str) -> Outcome:
    found = _CRON.fullmatch(value.strip())
    if found is None:
        return Left(
            "it is no line of /etc/cron.d: time, user, command",
            "write CRONTAB_* as minute, hour, day, month, weekday, command",
        )
    when, user, command = found.groups()
    if user == "root":
        return Mapped(((name, f"{' '.join(when.split())} {command}"),))
    return Left(
        f"it runs as {user}, and lines of CRONTAB_* are root's own",
        f"write the command as `runuser -u {user} -- …`, if the image has that user",
    )


def _map_post_init(name: str, value: str) -> Outcome:
    if call := _CALL.search(value):
        return Left(f"it calls the section {call[0]}, which is a function of shell there", FILES)
    return Mapped((("PREINIT_" + name.removeprefix("POST_INIT_"), value),))


_FAMILIES: Final[Mapping[str, Callable[[str, str], Outcome]]] = {
    "FSTAB_": _map_fstab,
    "HOSTS_": _map_same,
    "CRONTAB_": _map_crontab,
    "POST_INIT_": _map_post_init,
}

_SHELL: Final = Left(
    "it hooks into a step of LTSP's boot that does not exist here",
    "INIT_COMMAND_* and PREINIT_* run before systemd, RCFILE_* when the system is up",
)
_IMAGE: Final = Left(
    "an image is built by a recipe, not made of a running system",
    "docs/recipes.md: packages, files and what is removed",
)
_SERVER: Final = Left(
    "it is about the server of LTSP", "docs/farm.yaml.md has what bootfarm's server can be told"
)
_DESKTOP: Final = Left(DESKTOP)

_LEFT: Final[Mapping[str, Left]] = {
    "SERVER": Left("the server is the one that the machine booted from"),
    "NAT": Left("bootfarm routes nothing", "let the router or the host's firewall do it"),
    "IMAGE": Left("a machine's image is named by DEFAULT_IMAGE in ltsp.conf, by IMAGE here"),
    "ADD_IMAGE_EXCLUDES": _IMAGE,
    "OMIT_IMAGE_EXCLUDES": _IMAGE,
    "RPI_IMAGE": Left("bootfarm boots machines with x86-64 processors only"),
    "BASE_DIR": _SERVER,
    "TFTP_DIR": _SERVER,
    "HOME_DIR": _SERVER,
    "IPXE_*": Left("bootfarm's menu has one entry: what the machine boots"),
    "DEBUG_LOG": Left(
        "each step has a log of its own, and tells the server when it fails",
        "`bootfarm node MAC` and the console have what went wrong",
    ),
    "LTSP_DEBUG": Left("each step has a log of its own", "`bootfarm node MAC` has what went wrong"),
    "DEBUG_SHELL": Left(
        "a boot that fails ends in a shell on the console anyway",
        'KERNEL_CMDLINE = "bootfarm.on_error=reboot" makes it reboot instead',
    ),
    "OMIT_FUNCTIONS": Left(
        "LTSP's functions are not there", "what bootfarm does at boot: docs/boot.md"
    ),
    "PRE_*": _SHELL,
    "POST_*": _SHELL,
    **dict.fromkeys(
        (
            *("AUTOLOGIN", "RELOGIN", "GDM3_CONF", "LIGHTDM_CONF", "SDDM_CONF", "SLICK_CONF"),
            *("CUPS_SERVER", "MULTISEAT", "UDEV_SEAT_*", "PASSWORDS_*", "PAM_AUTH_TYPE"),
            *("PWMERGE_*", "REMOTEAPPS", "LTSPDM_USERS", "SSH_SERVER", "SSH_OPTIONS"),
            *("DISABLE_SESSION_SERVICES", "KEEP_SESSION_SERVICES", "MASK_SESSION_SERVICES"),
            *("X_*", "IGNORE_EPOPTES"),
        ),
        _DESKTOP,
    ),
}
