"""A node's plan out of a template: rendered with the facts of the image that it boots."""

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from imagebuild.manifest import Manifest
from imagebuild.store import Image
from server.bootplan import BootPlan, Farm, PlanError, choose_image, plan_boot
from server.errors import ServerError
from server.ltsconf import LtsConf, LtsConfError, LtsTemplate, NodeId, make_facts
from server.ltsconf.redact import redact
from server.ltsconf.template import RenderingFailedError

_log = logging.getLogger(__name__)

T = TypeVar("T")


class NotYetError(PlanError):
    """The plan is being made: ask again."""


@dataclass(frozen=True)
class Known:
    """What templates may use besides node and image. machine: serial and uuid, if known."""

    farm: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, Any] = field(default_factory=dict, repr=False)
    machine: Mapping[str, str] = field(default_factory=dict)


def describe_image(manifest: Manifest) -> dict[str, Any]:
    """An image as templates see it."""
    return {
        "name": manifest.name,
        "digest": manifest.digest,
        "kernel": manifest.kernel,
        "architecture": manifest.architecture,
        "versions": dict(manifest.versions),
    }


def plan_template(
    node: NodeId,
    images: Sequence[Image],
    template: LtsTemplate,
    farm: Farm,
    name: str | None,
    known: Known,
) -> BootPlan:
    """Decide what `node` boots; it may take as long as the renderer allows, twice.

    The rendering with the facts of the image that is booted without IMAGE says
    which image it is; if that is another one, it is rendered again with that
    one's facts, and must still ask for the same. Raises PlanError or
    LtsConfError, without secrets in their messages, and nothing else.
    """

    def make() -> BootPlan:
        conf, _ = _settle(node, images, template, farm.default_image, name, known)
        return plan_boot(node, images, conf, farm, name)

    return _guard(make, node, known)


def settle_template(
    node: NodeId,
    images: Sequence[Image],
    template: LtsTemplate,
    default_image: str | None,
    name: str | None,
    known: Known,
) -> tuple[LtsConf, Image]:
    """The node's rendering and the image that it asks for; takes and raises as `plan_template`."""
    return _guard(lambda: _settle(node, images, template, default_image, name, known), node, known)


def _guard(work: Callable[[], T], node: NodeId, known: Known) -> T:
    """What comes of `work`; no secret is in what it raises."""
    try:
        return work()
    except ServerError as error:
        raise _hide(error, known.secrets) from None
    except Exception as error:
        # Not its message, which may quote a secret.
        frames = "".join(traceback.format_tb(error.__traceback__))
        _log.error("planning for %s: %s\n%s", node, type(error).__name__, frames)
        raise PlanError("the server could not make a plan; its log says why") from None


def _settle(
    node: NodeId,
    images: Sequence[Image],
    template: LtsTemplate,
    default_image: str | None,
    name: str | None,
    known: Known,
) -> tuple[LtsConf, Image]:
    try:
        default: Image | None = choose_image("", images, default_image, name)[0]
    except PlanError:
        if not images:
            raise
        default = None  # the template has to name one, without facts of any
    conf = _render(node, template, default, known)
    wanted = conf.resolve(node).get("IMAGE", "")
    image, _ = choose_image(wanted, images, default_image, name)
    if image is not default:
        conf = _render(node, template, image, known)
        again = conf.resolve(node).get("IMAGE", "")
        if again != wanted:
            raise PlanError(
                f"IMAGE depends on itself: rendered with the facts of {_name(default)} it is"
                f" {wanted!r}, and with those of {_name(image)} {again!r}",
                hint="IMAGE may depend on node, farm and secrets; on image only where all agree",
            )
    return conf, image


def _render(node: NodeId, template: LtsTemplate, image: Image | None, known: Known) -> LtsConf:
    machine = dict(known.machine)
    if image is not None:
        machine["arch"] = image.manifest.architecture
    about = describe_image(image.manifest) if image is not None else None
    return template.render(
        make_facts(node, image=about, farm=known.farm, secrets=known.secrets, **machine)
    )


def _name(image: Image | None) -> str:
    return f"{image.name}@{image.digest[:12]}" if image is not None else "no image"


def _hide(error: ServerError, secrets: Mapping[str, Any]) -> ServerError:
    message, hint = redact(error.message, secrets), redact(error.hint or "", secrets)
    if isinstance(error, LtsConfError):
        kind = RenderingFailedError if isinstance(error, RenderingFailedError) else LtsConfError
        return kind(message, path=error.path, line=error.line, column=error.column, hint=hint)
    return PlanError(message, hint=hint)
