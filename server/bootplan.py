"""What a node gets: decided here, from (node, images, lts.conf, farm), and nowhere else."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imagebuild.store import Image
from server.errors import ServerError
from server.ltsconf import LtsConf, NodeId, render_flat

CURRENT = "current"
NBD_PORT = 10809
CMDLINE_MAX = 2047
"""Bytes of a kernel command line on x86 (COMMAND_LINE_SIZE less its NUL)."""
BOOTIF_LENGTH = len(" BOOTIF=01-00-00-00-00-00-00")
_PREFIX = re.compile(r"[0-9a-f]{12,64}")


class PlanError(ServerError):
    """One node cannot be told what to boot; others are not concerned."""


@dataclass(frozen=True)
class Farm:
    """What of farm.yaml and of the server's sockets stands in a node's plan.

    address: of the server, as this node reaches it.
    """

    address: str
    http_port: int = 8080
    nbd_port: int = NBD_PORT
    default_image: str | None = None
    cmdline: tuple[str, ...] = ()
    on_error: str = "shell"


@dataclass(frozen=True)
class BootPlan:
    """What one node boots.

    reference: how lts.conf asked for the image, as `amd64:current`. export: the
    NBD export's name, bound to the digest. cmdline: kernel arguments in order,
    BOOTIF aside (only the loader knows the card that it booted from); each is one
    argument as the kernel understands it, blanks included. values: the node's
    resolved lts.conf; flat: the text of it.
    """

    node: NodeId
    image: Image
    reference: str
    export: str
    cmdline: tuple[str, ...]
    values: Mapping[str, str]
    flat: str


def export_name(image: Image) -> str:
    """The NBD export of exactly this image."""
    return f"/opt/ltsp/{image.name}@{image.digest}"


def plan_boot(
    node: NodeId,
    images: Sequence[Image],
    ltsconf: LtsConf,
    farm: Farm,
    name: str | None = None,
) -> BootPlan:
    """Decide what `node` boots; pure.

    name: the image's name in the path that the node asked for, which its DHCP
    server's `filename` chose: it counts when lts.conf's IMAGE gives none.
    Raises PlanError in words fit for the node's console.
    """
    wanted = ltsconf.resolve(node).get("IMAGE", "")
    image, reference = choose_image(wanted, images, farm.default_image, name)
    defaults = {key: value for key, value in image.manifest.lts_defaults.items() if key != "IMAGE"}
    values = ltsconf.resolve(node, defaults)
    cmdline = _make_cmdline(image, farm, values.get("KERNEL_CMDLINE", ""))
    return BootPlan(
        node=node,
        image=image,
        reference=reference,
        export=export_name(image),
        cmdline=cmdline,
        values=values,
        flat=render_flat(values),
    )


def choose_image(
    wanted: str, images: Sequence[Image], default_image: str | None, name: str | None = None
) -> tuple[Image, str]:
    """The image that an IMAGE value means, and the same in full words.

    wanted: `name`, `name:tag`, `name@digest`, `:tag`, or "" for what the other
    arguments say. Raises PlanError, which lists what there is.
    """
    names = sorted({image.name for image in images})
    if not names:
        raise PlanError("the store holds no image", hint="build one (bootfarm build) or import one")
    head, separator, rest = _split_reference(wanted)
    chosen = head or _default_name(names, default_image, name)
    if chosen not in names:
        raise PlanError(
            f"IMAGE {wanted!r}: there is no image {chosen!r}"
            if head
            else f"default_image: there is no image {chosen!r}",
            hint=f"{_meant(chosen, names)}the store has: {', '.join(names)}",
        )
    mine = [image for image in images if image.name == chosen]
    if separator == "@":
        found = [
            image for image in mine if _PREFIX.fullmatch(rest) and image.digest.startswith(rest)
        ]
        if len(found) != 1:
            digests = ", ".join(image.digest[:12] for image in mine)
            raise PlanError(
                f"IMAGE {wanted!r}: {chosen} has no image with that digest",
                hint=f"it has: {digests}; give 12 digits or more",
            )
        return found[0], f"{chosen}@{found[0].digest[:12]}"
    tag = rest or CURRENT
    for image in mine:
        if tag in image.tags:
            return image, f"{chosen}:{tag}"
    tags = sorted({tag for image in mine for tag in image.tags})
    raise PlanError(
        f"IMAGE {wanted!r}: image {chosen} has no tag {tag!r}",
        hint=f"{_meant(tag, tags)}it has: {', '.join(tags) or 'no tags at all'}",
    )


def _split_reference(wanted: str) -> tuple[str, str, str]:
    for separator in "@:":
        head, found, rest = wanted.strip().partition(separator)
        if found:
            return head.strip(), separator, rest.strip()
    return wanted.strip(), "", ""


def _default_name(names: list[str], default_image: str | None, name: str | None) -> str:
    if name in names:
        return name
    if default_image:
        return default_image
    if len(names) == 1:
        return names[0]
    raise PlanError(
        f"nothing says which image to boot: the store has {', '.join(names)}",
        hint="set IMAGE in lts.conf, default_image in farm.yaml, or the name in DHCP's filename",
    )


def _meant(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def split_cmdline(text: str) -> tuple[str, ...]:
    """Kernel arguments of one text, split as Linux does (lib/cmdline.c, next_arg).

    Blanks separate, double quotes keep them together and are removed. PlanError
    on what cannot be passed on: an open quote, a control character.
    """
    words: list[str] = []
    word: list[str] = []
    quoted = started = False
    for char in text:
        if char == '"':
            quoted = not quoted
            started = True
        elif char in " \t" and not quoted:
            if started:
                words.append("".join(word))
            word, started = [], False
        elif ord(char) < 32 or ord(char) == 127:
            raise PlanError(
                f"KERNEL_CMDLINE holds the control character {char!r}", hint="write it on one line"
            )
        else:
            word.append(char)
            started = True
    if quoted:
        raise PlanError(
            f"KERNEL_CMDLINE has a quote without its end: {text[:80]!r}",
            hint='quotes come in pairs, as in dyndbg="file nbd.c +p"',
        )
    if started:
        words.append("".join(word))
    return tuple(words)


def _make_cmdline(image: Image, farm: Farm, extra: str) -> tuple[str, ...]:
    words = ["root=/dev/nbd0", f"nbdroot={farm.address}:{export_name(image)}"]
    if farm.nbd_port != NBD_PORT:
        words.append(f"nbdport={farm.nbd_port}")
    words += ["init=/sbin/init-ltsp", f"bootfarm.http={farm.http_port}"]
    if farm.on_error != "shell":
        words.append(f"bootfarm.on_error={farm.on_error}")
    for argument in (*image.manifest.cmdline, *farm.cmdline):
        words += split_cmdline(argument)
    words += split_cmdline(extra)
    for word in words:
        if "\\" in word or "'" in word:
            raise PlanError(
                f"KERNEL_CMDLINE: {word[:80]!r} holds a backslash or an apostrophe",
                hint="boot loaders change them on the way: set it on the running node (RCFILE_*)",
            )
    length = len(" ".join(words).encode()) + 2 * sum(" " in word for word in words) + BOOTIF_LENGTH
    if length > CMDLINE_MAX:
        raise PlanError(
            f"the kernel command line has {length} bytes, and Linux takes {CMDLINE_MAX}",
            hint="shorten KERNEL_CMDLINE in lts.conf or cmdline in farm.yaml",
        )
    return tuple(words)
