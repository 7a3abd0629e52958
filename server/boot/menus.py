"""Boot menus: a BootPlan as GRUB's and iPXE's scripts say it."""

from server.boot.plan import BootPlan, Decision, Held, Unplanned
from server.boot.templates import render
from server.errors import ServerError
from server.farm.config import Menu
from server.farm.inventory import inventory_line
from server.ltsconf import NodeId


def image_path(plan: BootPlan) -> str:
    """Where the boot tree has the files of exactly this image."""
    return f"/ltsp/{plan.image.name}/@{plan.image.digest}"


def describe_node(node: NodeId) -> str:
    """A node in one line: what is known of hostname, MAC and IP."""
    return " ".join(word for word in (node.hostname, node.mac, node.ip) if word) or "unknown"


def title_of(plan: BootPlan) -> str:
    """The title of the menu's line: image, tag and short digest."""
    name, _, tag = plan.reference.partition(":")
    return f"{name}:{tag} {plan.image.digest[:12]}" if tag else plan.reference


def render_grub_menu(decision: Decision, menu: Menu) -> str:
    """GRUB's menu for a machine, whatever was decided for it."""
    match decision:
        case Held():
            return render_grub_held(decision.plan, menu)
        case Unplanned():
            return render_grub_error(decision.node, decision.error, menu)
        case _:
            return render_grub_cfg(decision, menu)


def render_ipxe_script(decision: Decision, menu: Menu, base: str, script: str) -> str:
    """The iPXE script for a machine, whatever was decided for it.

    base: URL of the server. script: the script's own path there.
    """
    match decision:
        case Held():
            return render_ipxe_held(decision.plan, base, script)
        case Unplanned():
            return render_ipxe_error(decision.node, decision.error, base, script)
        case _:
            return render_ipxe(decision, menu, base, script)


def render_grub_cfg(plan: BootPlan, menu: Menu) -> str:
    """GRUB's menu for one node; boots the plan's image, and tries again when it cannot."""
    return render(
        "grub.cfg.j2",
        node=describe_node(plan.node),
        menu=menu,
        title=title_of(plan),
        kernel=plan.image.manifest.kernel,
        addresses=[server.address for server in plan.servers],
        path=image_path(plan),
        cmdline=plan.cmdline,
    )


def render_grub_held(plan: BootPlan, menu: Menu) -> str:
    """GRUB's menu for a machine that is not listed: boots nothing before a person says so."""
    return render(
        "grub-held.cfg.j2",
        node=describe_node(plan.node),
        line=inventory_line(plan.node),
        menu=menu,
        title=title_of(plan),
        kernel=plan.image.manifest.kernel,
        addresses=[server.address for server in plan.servers],
        path=image_path(plan),
        cmdline=plan.cmdline,
    )


def render_grub_error(node: NodeId, error: ServerError, menu: Menu) -> str:
    """GRUB's menu for a node without a plan: says why, and asks again in 30 seconds."""
    return render(
        "grub-error.cfg.j2",
        node=describe_node(node),
        menu=menu,
        message=str(error),
        hint=error.hint,
    )


def list_bases(plan: BootPlan, base: str) -> list[str]:
    """The URLs of the servers that the kernel is had from, the first to ask first."""
    urls = [f"http://{server.address}:{server.http}" for server in plan.servers]
    return urls or [base]


def list_others(plan: BootPlan, base: str) -> list[str]:
    """The URLs of the servers other than the one at `base`."""
    return [url for url in list_bases(plan, base) if url != base]


def render_ipxe(plan: BootPlan, menu: Menu, base: str, script: str) -> str:
    """The iPXE script for one node, with a menu where it is to wait for a key.

    base: URL of the server. script: its own path there.
    """
    return render(
        "boot.ipxe.j2",
        node=describe_node(plan.node),
        menu=menu,
        base=base,
        bases=list_bases(plan, base),
        others=list_others(plan, base),
        script=script,
        title=title_of(plan),
        path=image_path(plan),
        cmdline=plan.cmdline,
    )


def render_ipxe_held(plan: BootPlan, base: str, script: str) -> str:
    """The iPXE script for a machine that is not listed."""
    return render(
        "boot-held.ipxe.j2",
        node=describe_node(plan.node),
        line=inventory_line(plan.node),
        base=base,
        bases=list_bases(plan, base),
        others=list_others(plan, base),
        script=script,
        title=title_of(plan),
        path=image_path(plan),
        cmdline=plan.cmdline,
    )


def render_ipxe_error(node: NodeId, error: ServerError, base: str, script: str) -> str:
    """The iPXE script for a node without a plan."""
    return render(
        "boot-error.ipxe.j2",
        node=describe_node(node),
        base=base,
        script=script,
        message=str(error),
        hint=error.hint,
    )
