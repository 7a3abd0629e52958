"""Which lts.conf counts for a node, and which image it boots: one answer, template or not."""

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from imagebuild.architecture import ARCHITECTURES
from imagebuild.store.images import Image
from imagebuild.store.manifest import Manifest
from server.boot.choice import choose_served
from server.boot.plan import BootPlan, Farm, PlanError, Settled, plan_boot
from server.errors import ServerError
from server.ltsconf import LtsConf, LtsConfError, NodeId, make_facts
from server.ltsconf.redact import redact
from server.ltsconf.template import RenderingFailedError
from server.rollout.overlay import Overlay
from server.site import Site

_NOTHING: Mapping[str, Any] = {}
_log = logging.getLogger(__name__)

T = TypeVar("T")


def describe_image(manifest: Manifest) -> dict[str, Any]:
    """An image as templates see it."""
    return {
        "name": manifest.name,
        "digest": manifest.digest,
        "kernel": manifest.kernel,
        "architecture": manifest.architecture,
        "versions": dict(manifest.versions),
    }


def settle(
    site: Site, node: NodeId, machine: Mapping[str, Any] = _NOTHING, name: str | None = None
) -> Settled:
    """The node's lts.conf and the image that it asks for.

    machine: what is known of it besides, as serial and uuid (Identity.known), for a template;
    with its architecture as `arch`, it gets no other's image.
    name: the image's name in the path that the node asked for, which its DHCP
    server's `filename` chose: it counts when lts.conf's IMAGE gives none.

    Where `site.ltsconf.needs_rendering`, it may take as long as the renderer allows, twice: the
    rendering with the facts of the image that is booted without IMAGE says which image it
    is; if that is another one, it is rendered again with that one's facts, and must still
    ask for the same.

    Raises PlanError (in words fit for the node's console) or LtsConfError, and nothing else;
    no secret of a template is in their messages.
    """
    return _guard(lambda: _settle(site, node, machine, name), site, node)


def plan_node(
    site: Site,
    node: NodeId,
    farm: Farm,
    machine: Mapping[str, Any] = _NOTHING,
    name: str | None = None,
) -> BootPlan:
    """What `node` boots: `settle`, then `plan_boot`; takes, and raises, what `settle` does."""
    return _guard(lambda: plan_boot(node, _settle(site, node, machine, name), farm), site, node)


def _guard(work: Callable[[], T], site: Site, node: NodeId) -> T:
    """Return what `work` returns.

    Exceptions leave without the secrets that a template may have used.
    """
    if not site.ltsconf.needs_rendering:
        return work()
    try:
        return work()
    except ServerError as error:
        raise _hide(error, site.secrets) from None
    except Exception as error:
        # Not its message, which may quote a secret.
        frames = traceback.extract_tb(error.__traceback__)
        last = frames[-1]
        name = node.mac or node.ip or node.hostname
        _log.error(
            "planning for %s: %s in %s (%s:%s); --log-level debug tells the way there",
            *(name, type(error).__name__, last.name, last.filename, last.lineno),
        )
        for frame in frames:
            _log.debug("planning for %s: %s:%s %s", name, frame.filename, frame.lineno, frame.name)
        raise PlanError(
            "the server could not make a plan; its log says why", cause="server"
        ) from None


def _settle(site: Site, node: NodeId, machine: Mapping[str, Any], name: str | None) -> Settled:
    said = str(machine.get("arch", ""))
    architecture = said if said in ARCHITECTURES else ""
    default: Image | None = None
    if site.ltsconf.needs_rendering:
        try:
            default = choose_served(site, "", name, architecture)[0]
        except PlanError:
            if not site.images:
                raise
            # The template has to name one, without facts of any.
    conf = _render(site, node, machine, default)
    wanted = conf.resolve(node).get("IMAGE", "")
    image, reference = choose_served(site, wanted, name, architecture)
    image, rollout = lay_over(site.images, site.overlay, node, wanted, image)
    if image is not default and site.ltsconf.needs_rendering:
        conf = _render(site, node, machine, image)
        again = conf.resolve(node).get("IMAGE", "")
        if again != wanted:
            raise PlanError(
                f"IMAGE depends on itself: rendered with the facts of {_name(default)} it is"
                f" {wanted!r}, and with those of {_name(image)} {again!r}",
                hint="IMAGE may depend on node, farm and secrets; on image only where all agree",
                cause="template",
            )
    pin = site.overlay.find(node.mac)
    is_trial = pin is not None and pin.is_trial and image.digest == pin.digest
    return Settled(conf, image, reference, rollout, is_trial)


def lay_over(
    images: Sequence[Image], overlay: Overlay, node: NodeId, wanted: str, image: Image
) -> tuple[Image, str]:
    """The image that a rollout gives to a node in place of `image`, and what there is to say of
    it, or "". wanted: lts.conf's IMAGE."""
    pin = overlay.find(node.mac)
    if pin is None:
        return image, ""
    if (words := explain_pinned(wanted, image, pin.image)) is not None:
        return image, words
    pinned = (pin.image, pin.digest)
    found = next((one for one in images if (one.name, one.digest) == pinned), None)
    if found is None:
        return image, f"the store has no {pin.words}: lts.conf's image is booted"
    return found, pin.words


def explain_pinned(wanted: str, image: Image, target: str) -> str | None:
    """Why a rollout of the image `target` leaves a node alone: lts.conf says another one, or one
    build of it. None where it does not. wanted: lts.conf's IMAGE, which is not quoted: a template
    may have made it of secrets. image: what it leads to."""
    if "@" in wanted:
        words = f"lts.conf pins IMAGE to {image.name}@{image.digest[:12]}"
        return f"{words}: the rollout leaves it alone"
    if image.name != target:
        return f"lts.conf gives it {image.name}: the rollout of {target} leaves it alone"
    return None


def _render(site: Site, node: NodeId, machine: Mapping[str, Any], image: Image | None) -> LtsConf:
    known = dict(machine)
    if image is not None:
        known["arch"] = image.manifest.architecture
    about = describe_image(image.manifest) if image is not None else None
    return site.ltsconf.render(
        make_facts(node, image=about, farm=site.facts, secrets=site.secrets, **known)
    )


def _name(image: Image | None) -> str:
    return f"{image.name}@{image.digest[:12]}" if image is not None else "no image"


def _hide(error: ServerError, secrets: Mapping[str, Any]) -> ServerError:
    message, hint = redact(error.message, secrets), redact(error.hint or "", secrets)
    if isinstance(error, LtsConfError):
        kind = RenderingFailedError if isinstance(error, RenderingFailedError) else LtsConfError
        return kind(message, path=error.path, line=error.line, column=error.column, hint=hint)
    return PlanError(message, hint=hint, cause=error.cause)
