"""The boot tree of TFTP and HTTP, and NBD's export names: what a client gets for what it writes.

A path is taken apart and each part is compared with what there is; text from a
client never becomes part of a path on disk, but for a folder that `--boot-tree`
names, which it cannot leave (server/farm/extras.py).
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagebuild.architecture import GRUB_PLATFORMS
from imagebuild.store.images import Image
from imagebuild.store.manifest import MANIFEST_NAME, ROOTFS, is_digest, is_image_name
from server.boot.menus import render_grub_menu, render_ipxe_script
from server.boot.plan import export_name
from server.boot.planner import Planner
from server.content import BytesContent, Content, Export, FileContent, NotFound, Refused
from server.errors import ServerError
from server.farm.extras import IMAGES

MAX_PATH = 1024
"""Characters of a path; the longest of an image has about 150."""
_log = logging.getLogger(__name__)


class BootTree:
    """Looks paths and exports up for a client; one for all services."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    def lookup(self, path: str, client_ip: str, mac: str | None = None) -> Content:
        """What `path` is for the client at `client_ip`.

        mac: what the client says its MAC is. Raises NotFound or Refused, and
        nothing else on any input.
        """
        try:
            return self._lookup(path, client_ip, mac)
        except ServerError as error:
            raise NotFound(error.one_line(), error.cause or "not_found") from error
        except (NotFound, Refused):
            raise
        except Exception as error:
            _log.exception("looking up %r for %s", path[:200], client_ip)
            raise NotFound("the server could not look this up; its log says why") from error

    def export(self, name: str, client_ip: str) -> Export | None:
        """The NBD export of that name for a client: `[/]opt/ltsp/<image>[@<digest>]`, or a
        further one of farm.yaml or `--export`."""
        word = name.removeprefix("/").removeprefix(IMAGES)
        if word == name.removeprefix("/"):
            return self._planner.site.extras.export(name)
        head, separator, digest = word.partition("@")
        if not is_image_name(head):
            return None
        if separator:
            image = self._planner.site.find_image(head, digest)
        else:
            image = self._planner.image(client_ip, head, name)
        return _export(image) if image is not None else None

    def list_exports(self, client_ip: str) -> Sequence[str]:
        """Names for NBD_OPT_LIST: the further ones, each image's current one, one a digest."""
        site = self._planner.site
        images = site.images
        current = [f"/{IMAGES}{image.name}" for image in images if "current" in image.tags]
        exact = [export_name(image) for image in images]
        return [*site.extras.exports, *current, *exact]

    # Inside

    def _lookup(self, path: str, client_ip: str, mac: str | None) -> Content:
        parts = _split(path)
        folder = self._planner.site.extras.folder
        if folder is not None and (found := folder.find(parts)) is not None:
            return found
        if len(parts) < 3 or parts[0] != "ltsp" or not is_image_name(parts[1]):
            raise NotFound("the boot tree is /ltsp/<image>/...")
        name, rest = parts[1], parts[2:]
        match rest:
            case [tag, *inner] if tag.startswith("@"):
                return self._exact_file(name, tag[1:], "/".join(inner))
            case ["lts.conf"]:
                return BytesContent(
                    self._planner.plan(client_ip, name, mac).flat.encode("utf-8", "surrogateescape")
                )
            # GRUB tries grub.cfg-01-<mac> and grub.cfg-<address in hex> first: the same
            # answer, five requests earlier.
            case ["grub", file] if file == "grub.cfg" or file.startswith("grub.cfg-"):
                return self._grub_cfg(name, client_ip, path)
            case ["grub", arch, "grub.cfg"] if arch in GRUB_PLATFORMS:
                return self._grub_cfg(name, client_ip, path)
            case ["boot.ipxe"]:
                return self._ipxe_script(name, client_ip, path)
            case ["vmlinuz" | "initrd.img" as file]:
                return _file(self._planner.plan(client_ip, name).image, file)
            case ["grub" | "ipxe" as kind, *inner]:
                image = self._planner.image(client_ip, name)
                if image is None:
                    raise NotFound(f"there is no image {name}")
                return _loader(image, kind, "/".join(inner))
            case _:
                raise NotFound(f"the boot tree of {name} has no such file")

    def _exact_file(self, name: str, digest: str, file: str) -> Content:
        image = self._planner.site.find_image(name, digest) if is_digest(digest) else None
        if image is None:
            raise NotFound(f"there is no image {name}@{digest[:12]}; read the menu again")
        return _file(image, file)

    def _grub_cfg(self, name: str, client_ip: str, path: str) -> BytesContent:
        decision = self._planner.decide(client_ip, name, path)
        return BytesContent(render_grub_menu(decision, self._planner.site.menu).encode())

    def _ipxe_script(self, name: str, client_ip: str, path: str) -> BytesContent:
        base = self._planner.base_url(client_ip)
        decision = self._planner.decide(client_ip, name, path)
        menu, script = self._planner.site.menu, f"/ltsp/{name}/boot.ipxe"
        return BytesContent(render_ipxe_script(decision, menu, base, script).encode())


def _split(path: str) -> list[str]:
    """A path's parts; empty ones (`//`) left out, dots and odd characters refused."""
    if len(path) > MAX_PATH or not path.isprintable() or "\\" in path:
        raise NotFound("not a path of the boot tree")
    parts = [part for part in path.split("/") if part]
    if "." in parts or ".." in parts:
        raise NotFound("not a path of the boot tree")
    return parts


def _file(image: Image, file: str) -> FileContent:
    """A file of an image, by its key in the manifest."""
    if file == MANIFEST_NAME:
        return _checked(image.path / MANIFEST_NAME)
    if file not in image.manifest.files:
        raise NotFound(f"image {image.name}@{image.digest[:12]} has no file {file}")
    return _checked(image.path.joinpath(*file.split("/")))


def _loader(image: Image, kind: str, file: str) -> FileContent:
    """A boot loader's file of an image. kind: grub or ipxe."""
    prefix = f"boot/{kind}/"
    if not any(known.startswith(prefix) for known in image.manifest.files):
        raise NotFound(
            f"image {image.name}@{image.digest[:12]} has no {kind} loader: build it again"
        )
    return _file(image, prefix + file)


def _checked(path: Path) -> FileContent:
    try:
        return FileContent(path, path.stat().st_size)
    except OSError as error:
        _log.error("%s: %s", path, error.strerror)
        raise NotFound("the file of this image is gone; read the menu again") from None


def _export(image: Image) -> Export | None:
    if ROOTFS not in image.manifest.files:
        return None
    return Export(
        name=export_name(image),
        path=image.path / ROOTFS,
        size=image.manifest.files[ROOTFS].size,
        digest=image.digest,
        description=_describe(image.manifest.versions, image),
    )


def _describe(versions: Mapping[str, str], image: Image) -> str:
    words = [f"{key} {version}" for key, version in sorted(versions.items())]
    return ", ".join([f"{image.name} {image.digest[:12]}", *words])[:200]
