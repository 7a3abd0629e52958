"""Words of the kernel's command line that a boot loader, the menu or the initramfs would not take.

One table for lts.conf's KERNEL_CMDLINE, farm.yaml's `cmdline` and the menus.
"""

import re
from typing import Final

from server.ltsconf.shapes import Wrong

IPXE_ENDS: Final = ("||", "&&", ";")
"""Words behind which iPXE reads another command."""
OTHER_WAY: Final = "boot this node by GRUB, or set the value on the running node (RCFILE_*)"
RESERVED: Final = (
    *("root", "nbdroot", "nbdport", "init", "BOOTIF", "boot", "ip", "bootfarm.http"),
    "bootfarm.verity",
)
"""Parameters that the server's menu sets for each machine."""
CMDLINE_MAX: Final = 2047
"""Bytes of a kernel command line on x86 (COMMAND_LINE_SIZE less its NUL)."""
_OWN: Final = {
    "bootfarm.on_error": ("shell", "reboot"),
    "bootfarm.home": ("never", "SECONDS"),
}
"""Our own parameters that people may set, and their values; SECONDS: a number."""
_SECONDS: Final = re.compile(r"[0-9]{1,5}")
_MACHINE_ID: Final = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}|firmware")
"""machine-id(5), kernel-command-line(7); systemd takes no notice of any other."""


def explain_ipxe(text: str) -> str | None:
    """Why iPXE would take an argument for something else; None if it takes it as it is.

    iPXE splits at blanks, whatever the quotes, and expands settings (its src/core/exec.c).
    """
    if "${" in text:
        return f"{text[:80]!r} holds '${{', which iPXE would expand"
    for word in text.split():
        if word in IPXE_ENDS:
            return f"{word!r} ends a command in iPXE: {text[:80]!r}"
        if word.startswith("#"):
            return f"{word[:40]!r} begins a comment in iPXE: {text[:80]!r}"
    return None


def check_parameters(text: str) -> Wrong | None:
    """The first parameter of a text that the menu sets itself, or that is none of ours."""
    for word in text.replace('"', " ").split():
        key, equals, value = word.partition("=")
        if key in RESERVED and (equals or key == "ip"):
            return f"{key[:40]}= is set by the server's boot menu", "Leave it out."
        if key.startswith("bootfarm.") and key not in _OWN:
            known = ", ".join(f"{name}={'|'.join(values)}" for name, values in _OWN.items())
            return f"{key[:40]!r} is no parameter of bootfarm's", f"There is {known}."
        if key == "systemd.machine_id" and not _MACHINE_ID.fullmatch(value):
            return f"systemd.machine_id is {value[:40]!r}", "Write 32 hexadecimal digits."
        if key in _OWN and not _takes(key, value):
            choices = " or ".join(_OWN[key])
            return f"{key} is {value[:40]!r}", f"Write {choices}."
    return None


def _takes(key: str, value: str) -> bool:
    """Whether a parameter of our own takes a value."""
    if "SECONDS" in _OWN[key]:
        return value == "never" or _SECONDS.fullmatch(value) is not None
    return value in _OWN[key]


def check_cmdline(text: str) -> Wrong | None:
    """What is wrong with arguments that are written down, for whatever loader."""
    if len(text.encode("utf-8", "surrogateescape")) > CMDLINE_MAX:
        return (
            f"it has more than {CMDLINE_MAX} bytes, and Linux takes no more in all",
            "Shorten it.",
        )
    if text.count('"') % 2:
        return "a double quote without its end", 'Quotes come in pairs: dyndbg="file nbd.c +p".'
    if "\\" in text or "'" in text:
        return (
            "boot loaders change a backslash or an apostrophe on the way",
            "Set it on the running node (RCFILE_*), or write it without.",
        )
    control = re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text)
    if control is not None:
        return f"it holds the control character {control[0]!r}", "Write it on one line."
    return check_parameters(text)
