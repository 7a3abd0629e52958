"""What a node gets: decided here, from (node, its lts.conf and image, farm), and nowhere else."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imagebuild.store.images import Image
from server.boot.servers import order_servers, write_servers
from server.errors import ServerError
from server.farm.defaultimage import DefaultImage, default_of
from server.farm.extras import IMAGES
from server.farm.peers import OtherServer, Server
from server.ltsconf import LtsConf, NodeId, render_flat
from server.ltsconf.cmdline import CMDLINE_MAX, OTHER_WAY, explain_ipxe

CURRENT = "current"
NBD_PORT = 10809
"""IANA's port for NBD; with another one the kernel command line names it."""
BOOTIF_LENGTH = len(" BOOTIF=01-00-00-00-00-00-00")
TRIAL = ("panic=30", "bootfarm.on_error=reboot")
"""For an image that a rollout tries on a machine: what fails gets another boot, by which it is
called back. The image's, farm.yaml's and lts.conf's own words come later, and so count more."""
_PREFIX = re.compile(r"[0-9a-f]{12,64}")


class PlanError(ServerError):
    """Why one node has no plan; other nodes are not concerned."""


@dataclass(frozen=True)
class Farm:
    """What a node's plan takes from farm.yaml and from the server's sockets.

    address: the server's, as this node reaches it. loader: the one that machines are given.
    others: the farm's other servers.
    """

    address: str
    http_port: int = 8080
    nbd_port: int = NBD_PORT
    cmdline: tuple[str, ...] = ()
    on_error: str = "shell"
    loader: str = "ipxe"
    others: tuple[OtherServer, ...] = ()


@dataclass(frozen=True)
class BootPlan:
    """What one node boots.

    reference: how lts.conf asked for the image, as `amd64:current`. export: the
    NBD export's name, bound to the digest. cmdline: kernel arguments in order,
    BOOTIF aside (only the loader knows the card that it booted from); each is one
    argument as the kernel understands it, blanks included. values: the node's
    resolved lts.conf; flat: the text of it. servers: those that have the image, in the
    order in which this node asks them; empty where farm.yaml names no others. rollout:
    what a rollout has to do with it, or "".
    """

    node: NodeId
    image: Image
    reference: str
    export: str
    cmdline: tuple[str, ...]
    values: Mapping[str, str]
    flat: str
    servers: tuple[Server, ...] = ()
    rollout: str = ""


@dataclass(frozen=True)
class Held:
    """A machine that has a plan, and boots it only when a person says so."""

    plan: BootPlan
    reason: str


@dataclass(frozen=True)
class Unplanned:
    """A machine without a plan, and the error that says why."""

    node: NodeId
    error: ServerError

    @property
    def reason(self) -> str:
        """What happened and what to do, on one line."""
        return self.error.one_line()

    @property
    def cause(self) -> str:
        """One of server.causes' words for plans."""
        return self.error.cause


Decision = BootPlan | Held | Unplanned
"""What a machine boots, or what keeps it from booting."""


@dataclass(frozen=True)
class Settled:
    """The lts.conf that counts for one node, and the image that the node boots.

    reference: how lts.conf asked for the image, in full words, as `amd64:current`. rollout:
    why that is another image now, or why a rollout leaves the node alone; else "". is_trial: a
    rollout tries the image on the node (server.rollout.overlay).
    """

    conf: LtsConf
    image: Image
    reference: str
    rollout: str = ""
    is_trial: bool = False

    @property
    def defaults(self) -> dict[str, str]:
        """The lowest layer below lts.conf: the image's `lts_defaults`, which cannot name an
        image."""
        return drop_image(self.image.manifest.lts_defaults)


def drop_image(defaults: Mapping[str, str]) -> dict[str, str]:
    """An image's `lts_defaults` without IMAGE: an image does not say which image is booted."""
    return {key: value for key, value in defaults.items() if key != "IMAGE"}


def export_name(image: Image) -> str:
    """The NBD export of exactly this image."""
    return f"/{IMAGES}{image.name}@{image.digest}"


def plan_boot(node: NodeId, settled: Settled, farm: Farm) -> BootPlan:
    """Decide what `node` boots; pure. Raises PlanError in words fit for the node's console.

    settled: its lts.conf and image, as boot.settlement.settle finds them.
    """
    image = settled.image
    values = settled.conf.resolve(node, settled.defaults)
    servers: tuple[Server, ...] = ()
    if farm.others:
        own = Server(farm.address, farm.http_port, farm.nbd_port)
        servers = order_servers(node.mac or node.ip or "", own, farm.others, image.digest)
    extra = values.get("KERNEL_CMDLINE", "")
    cmdline = _make_cmdline(image, farm, extra, servers, is_trial=settled.is_trial)
    return BootPlan(
        node=node,
        image=image,
        reference=settled.reference,
        export=export_name(image),
        cmdline=cmdline,
        values=values,
        flat=render_flat(values),
        servers=servers,
        rollout=settled.rollout,
    )


def check_boot(node: NodeId, settled: Settled, farm: Farm) -> None:
    """Raise what `plan_boot` would raise, without making a plan: a third of its work.

    Also what the loader's menu would say instead of booting: a command line that iPXE
    cannot be given.
    """
    values = settled.conf.resolve(node, settled.defaults)
    extra = values.get("KERNEL_CMDLINE", "")
    words = _make_cmdline(settled.image, farm, extra, is_trial=settled.is_trial)
    for word in words if farm.loader == "ipxe" else ():
        if (why := explain_ipxe(word)) is not None:
            hint = f"{OTHER_WAY}; `loader: grub` in farm.yaml says that machines boot by GRUB"
            raise PlanError(f"KERNEL_CMDLINE: {why}", hint=hint, cause="command_line")


def choose_image(
    wanted: str,
    images: Sequence[Image],
    default_image: DefaultImage,
    name: str | None = None,
    architecture: str = "",
) -> tuple[Image, str]:
    """The image that an IMAGE value means, and the same in full words.

    wanted: `name`, `name:tag`, `name@digest`, `:tag`, or "" for what the other
    arguments say. architecture: the machine's, "" where it is not known; then that of
    the image called `name`, whose loader the machine runs. Raises PlanError, which lists
    what there is, also where the image is for machines of another architecture.
    """
    mine = architecture or _architecture_of(name, images)
    image, reference = _choose(wanted, images, default_image, name, mine)
    theirs = image.manifest.architecture
    if mine and theirs != mine:
        fitting = sorted({one.name for one in images if one.manifest.architecture == mine})
        have = f"the store has for {mine}: {', '.join(fitting)}" if fitting else ""
        way = "name one in IMAGE, or for each architecture in default_image"
        raise PlanError(
            f"image {reference} is for {theirs} machines, and this machine is {mine}",
            hint=f"{have}; {way}" if have else f"build or import an image for {mine}; {way}",
            cause="architecture",
        )
    return image, reference


def _architecture_of(name: str | None, images: Sequence[Image]) -> str:
    """The architecture of all images of that name; "" where there is none, or several."""
    found = {image.manifest.architecture for image in images if image.name == name}
    return found.pop() if len(found) == 1 else ""


def _choose(
    wanted: str,
    images: Sequence[Image],
    default_image: DefaultImage,
    name: str | None,
    architecture: str,
) -> tuple[Image, str]:
    names = sorted({image.name for image in images})
    if not names:
        raise PlanError(
            "the store holds no image",
            hint="build one (bootfarm build) or import one",
            cause="no_image",
        )
    head, separator, rest = _split_reference(wanted)
    chosen = head or _default_name(images, default_image, name, architecture)
    if chosen not in names:
        raise PlanError(
            f"IMAGE {wanted!r}: there is no image {chosen!r}"
            if head
            else f"default_image: there is no image {chosen!r}",
            hint=f"{_meant(chosen, names)}the store has: {', '.join(names)}",
            cause="no_image",
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
                cause="no_image",
            )
        return found[0], f"{chosen}@{found[0].digest[:12]}"
    tag = rest or CURRENT
    for image in mine:
        if tag in image.tags:
            return image, f"{chosen}:{tag}"
    tags = sorted({tag for image in mine for tag in image.tags})
    raise PlanError(
        f"{f'IMAGE {wanted!r}: ' if wanted else ''}image {chosen} has no tag {tag!r}",
        hint=f"{_meant(tag, tags)}it has: {', '.join(tags) or 'no tags at all'}",
        cause="no_image",
    )


def _split_reference(wanted: str) -> tuple[str, str, str]:
    for separator in "@:":
        head, found, rest = wanted.strip().partition(separator)
        if found:
            return head.strip(), separator, rest.strip()
    return wanted.strip(), "", ""


def _default_name(
    images: Sequence[Image], default_image: DefaultImage, name: str | None, architecture: str
) -> str:
    """The image's name where IMAGE gives none."""
    names = sorted({image.name for image in images})
    default = default_of(default_image, architecture)
    if name is not None and name in names:
        # DHCP's file name counts, unless it names another architecture's, and farm.yaml has one.
        theirs = _architecture_of(name, images)
        if architecture in ("", theirs) or not (isinstance(default_image, Mapping) and default):
            return name
    if default:
        return default
    if len(names) == 1:
        return names[0]
    fitting = {image.name for image in images if image.manifest.architecture == architecture}
    if len(fitting) == 1:
        return fitting.pop()
    raise PlanError(
        f"nothing says which image to boot: the store has {', '.join(names)}",
        hint="set IMAGE in lts.conf, default_image in farm.yaml, or the name in DHCP's filename",
        cause="no_image",
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
                f"KERNEL_CMDLINE holds the control character {char!r}",
                hint="write it on one line",
                cause="command_line",
            )
        else:
            word.append(char)
            started = True
    if quoted:
        raise PlanError(
            f"KERNEL_CMDLINE has a quote without its end: {text[:80]!r}",
            hint='quotes come in pairs, as in dyndbg="file nbd.c +p"',
            cause="command_line",
        )
    if started:
        words.append("".join(word))
    return tuple(words)


def _make_cmdline(
    image: Image,
    farm: Farm,
    extra: str,
    servers: Sequence[Server] = (),
    *,
    is_trial: bool = False,
) -> tuple[str, ...]:
    first = servers[0] if servers else Server(farm.address, farm.http_port, farm.nbd_port)
    words = ["root=/dev/nbd0", f"nbdroot={first.address}:{export_name(image)}"]
    if first.nbd != NBD_PORT:
        words.append(f"nbdport={first.nbd}")
    words += ["init=/sbin/init-ltsp", f"bootfarm.http={first.http}"]
    if len(servers) > 1:
        words.append(f"bootfarm.servers={write_servers(servers)}")
    if is_trial:
        words += TRIAL
    elif farm.on_error != "shell":
        words.append(f"bootfarm.on_error={farm.on_error}")
    for argument in (*image.manifest.cmdline, *farm.cmdline):
        words += split_cmdline(argument)
    words += split_cmdline(extra)
    if image.manifest.verity is not None:
        words.append(image.manifest.verity.argument())  # last: of several the node takes that one
    for word in words:
        if "\\" in word or "'" in word:
            raise PlanError(
                f"KERNEL_CMDLINE: {word[:80]!r} holds a backslash or an apostrophe",
                hint="boot loaders change them on the way: set it on the running node (RCFILE_*)",
                cause="command_line",
            )
    length = len(" ".join(words).encode()) + 2 * sum(" " in word for word in words) + BOOTIF_LENGTH
    if length > CMDLINE_MAX:
        raise PlanError(
            f"the kernel command line has {length} bytes, and Linux takes {CMDLINE_MAX}",
            hint="shorten KERNEL_CMDLINE in lts.conf or cmdline in farm.yaml",
            cause="command_line",
        )
    return tuple(words)
