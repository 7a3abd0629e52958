"""Docker, by its SDK: build the farm's container image, push it, take its store out.

The only importer of `docker`. Nothing of the build stands here: the engine
runs the Dockerfile, and its RUN lines are the stages (`imagebuild.container`).
"""

import contextlib
import io
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import docker
import docker.errors
import requests

from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import Recipe
from imagebuild.recipe.packing import pack_recipe
from imagebuild.store.images import Image, Store
from imagebuild.store.manifest import is_digest, is_image_name

HOUSE = Path(__file__).parents[2]
CONTEXT = ("Dockerfile", ".dockerignore", "container", "imagebuild", "netboot-config", "server")
PACKED_AT = "recipes/packed"
IMAGES = "/usr/share/bootfarm/store/images"
REFERENCE_FILE = "/usr/share/bootfarm/image"
_LEFT_OUT = ("__pycache__", ".mypy_cache", ".ruff_cache", "*.so")
"""What stands in .dockerignore too, which engines do not apply to a packed context."""
_REFERENCE = re.compile(
    r"(?P<repository>(?:[a-zA-Z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:(?:[._]|__|-+|/)[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
)
_PAINT = re.compile(r"\x1b\[[0-9;]*m")
_TIMEOUT = 120
"""Seconds that the engine may be silent; a build has no limit."""


@dataclass(frozen=True)
class Reference:
    """`repository[:tag]` of a container image."""

    repository: str
    tag: str = ""

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}" if self.tag else self.repository


@dataclass(frozen=True)
class BuildRequest:
    """What to build: a recipe, build arguments, and how the engine is to go about it.

    `names` are what the result is called; each repository also gets the node
    image's digest as a tag.
    """

    recipe: Recipe
    names: tuple[Reference, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    network: str = ""
    fresh: bool = False


@dataclass(frozen=True)
class Built:
    """A built container image: the engine's id, the node image in it, its references."""

    id: str
    name: str
    digest: str
    references: tuple[str, ...]


def parse_reference(text: str) -> Reference:
    """`registry.example.org:5000/farm:canary`; BuildError for anything else."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise BuildError(
            f"{text!r} is not the name of a container image",
            hint="lower-case, as registry.example.org/farm or registry.example.org/farm:canary",
        )
    return Reference(match["repository"], match["tag"] or "")


class Engine:
    """A Docker engine: `url` as in DOCKER_HOST; without it DOCKER_HOST, else the usual socket."""

    def __init__(self, url: str = "") -> None:
        self._url = url
        try:
            self._client = (
                docker.DockerClient(base_url=url, timeout=_TIMEOUT)
                if url
                else docker.from_env(timeout=_TIMEOUT)
            )
            self._client.ping()
            self.url = str(self._client.api.base_url)
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise _connection_error(error, url) from None

    # Build

    def build(self, request: BuildRequest, listen: Callable[[dict[str, Any]], None]) -> Built:
        """Build the image; `listen` gets each message of the engine's stream.

        BuildError when a step fails; the engine keeps the steps before it.
        """
        with tempfile.TemporaryFile() as context:
            write_context(request.recipe, context)
            context.seek(0)
            arguments = {**request.arguments, "RECIPE": PACKED_AT}
            image_id = ""
            with self._errors("the build"):
                stream = self._client.api.build(
                    fileobj=context,
                    custom_context=True,
                    buildargs=arguments,
                    network_mode=request.network or None,
                    nocache=request.fresh,
                    rm=True,
                    forcerm=True,
                    decode=True,
                    timeout=None,
                )
                image_id = follow_build(stream, listen)
        name, digest = self.node_image(image_id)
        references: list[str] = []
        with self._errors("tagging"):
            for wanted in request.names:
                for tag in dict.fromkeys((digest, wanted.tag or "latest")):
                    self._client.api.tag(image_id, wanted.repository, tag)
                    references.append(f"{wanted.repository}:{tag}")
        return Built(image_id, name, digest, tuple(dict.fromkeys(references)))

    def node_image(self, reference: str) -> tuple[str, str]:
        """Name and digest of the node image in a container image."""
        with self._container(reference) as container:
            data = self._read_file(container, REFERENCE_FILE, reference)
        name, _, digest = data.decode(errors="replace").strip().partition("@")
        if not is_image_name(name) or not is_digest(digest):
            raise BuildError(f"{reference}: {REFERENCE_FILE} names no image: {data[:80]!r}")
        return name, digest

    # Push

    def push(self, reference: Reference, listen: Callable[[dict[str, Any]], None]) -> str:
        """Push one tag; the registry's digest of it (`sha256:…`)."""
        tag = reference.tag or "latest"
        digest = ""
        with self._errors(f"pushing {reference}"):
            self._client.images.get(f"{reference.repository}:{tag}")
            for message in self._client.api.push(
                reference.repository, tag=tag, stream=True, decode=True
            ):
                if "error" in message:
                    raise push_error(f"{reference.repository}:{tag}", str(message["error"]))
                digest = (message.get("aux") or {}).get("Digest") or digest
                listen(message)
        return digest

    # Extract

    def extract(self, reference: str, store: Store, tags: Iterable[str]) -> list[Image]:
        """Put every node image of a container image into `store`; what is there stays."""
        with self._container(reference) as container, self._errors(f"reading {reference}"):
            try:
                chunks, _ = self._client.api.get_archive(container, IMAGES)
            except docker.errors.NotFound:
                raise _no_farm(reference) from None
            with store.writing() as staging:
                unpack_images(_Chunks(chunks), staging)
                found = sorted((staging / "images").glob("*/*/manifest.json"))
                if not found:
                    raise _no_farm(reference)
                return [
                    store.publish(path.parent.parent.name, path.parent, tags=tuple(tags))
                    for path in found
                ]

    # Inside

    @contextlib.contextmanager
    def _container(self, reference: str) -> Iterator[str]:
        """A container of the image that never runs, for as long as the block lasts."""
        with self._errors(f"opening {reference}"):
            container = self._client.api.create_container(reference, command=["none"])["Id"]
        try:
            yield container
        finally:
            with contextlib.suppress(docker.errors.APIError, requests.RequestException):
                self._client.api.remove_container(container, force=True)

    def _read_file(self, container: str, path: str, reference: str) -> bytes:
        with self._errors(f"reading {reference}"):
            try:
                chunks, _ = self._client.api.get_archive(container, path)
            except docker.errors.NotFound:
                raise _no_farm(reference) from None
            data = b"".join(chunks)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            stream = archive.extractfile(archive.getmembers()[0])
            return stream.read() if stream is not None else b""

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """The SDK's exceptions as BuildError."""
        try:
            yield
        except docker.errors.ImageNotFound as error:
            raise BuildError(
                f"{what}: the engine has no such image: {error.explanation}",
                hint="bootfarm container build makes it; docker pull fetches it",
            ) from None
        except docker.errors.APIError as error:
            raise _api_error(what, error) from None
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise _connection_error(error, self._url) from None


# The context


def write_context(recipe: Recipe, target: IO[bytes], house: Path = HOUSE) -> None:
    """Write what `docker build` gets, as a tar: the Dockerfile, the code, and the packed recipe."""
    if not (house / "Dockerfile").is_file():
        raise BuildError(
            f"there is no Dockerfile in {house}",
            hint="run bootfarm from a checkout of its repository (make install)",
        )
    with (
        tempfile.TemporaryDirectory(prefix="bootfarm-context-") as scratch,
        tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        packed = Path(scratch) / "packed"
        pack_recipe(recipe, packed)
        for name in CONTEXT:
            archive.add(house / name, name, filter=_plain)
        archive.add(packed, PACKED_AT, filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Owner, group and time left out: the same files make the same context."""
    if any(fnmatchcase(Path(member.name).name, pattern) for pattern in _LEFT_OUT):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    if not member.issym():
        member.mode = 0o755 if member.isdir() or member.mode & 0o111 else 0o644
    return member


# The engine's messages


def follow_build(stream: Iterable[dict[str, Any]], listen: Callable[[dict[str, Any]], None]) -> str:
    """Pass the messages on; the id of the image at the end, or BuildError with its last words."""
    image_id = ""
    tail: list[str] = []
    for message in stream:
        listen(message)
        if "error" in message:
            raise build_error(str(message["error"]), tail)
        # The classic builder paints what a step writes to its standard error.
        text = _PAINT.sub("", str(message.get("stream", "")))
        tail = [*tail[-199:], *text.splitlines()]
        image_id = (message.get("aux") or {}).get("ID") or image_id
    if not image_id:
        raise BuildError("the engine ended the build without an image", hint="\n".join(tail[-3:]))
    return image_id


def build_error(error: str, tail: list[str]) -> BuildError:
    """A failed step: what the stage said, if it is one of ours, else the last lines."""
    if "no space left" in error or any("No space left on device" in line for line in tail[-30:]):
        return BuildError(
            f"the engine's disk is full: {error}",
            hint="docker system df shows what takes it; docker system prune frees it",
        )
    starts = [index for index, line in enumerate(tail) if line.startswith("Error: ")]
    if starts:
        said = [line for line in tail[starts[-1] :] if line.strip()]
        text = "\n".join(said).removeprefix("Error: ")
        message, _, hint = text.partition("\n  hint: ")
        return BuildError(message, hint=hint)
    lines = "".join(f"\n    {line}" for line in [line for line in tail if line.strip()][-15:])
    return BuildError(f"{error}{lines}", hint="the lines above are the failed step's last ones")


def push_error(reference: str, error: str) -> BuildError:
    """What a registry or the way to it refused, and the remedy."""
    host = reference.split("/", 1)[0]
    low = error.lower()
    if "unauthorized" in low or "denied" in low or "authentication" in low:
        hint = f"docker login {host}, with an account that may write there"
    elif "http response to https" in low:
        hint = (
            f"{host} speaks plain HTTP: give it TLS, or list it in the engine's insecure-registries"
        )
    elif "certificate" in low:
        hint = f"put its CA into /etc/docker/certs.d/{host}/ca.crt on the engine's machine"
    elif any(words in low for words in ("connection refused", "no such host", "timeout", "dial")):
        hint = f"does {host} run, and does the engine's machine reach it?"
    else:
        hint = ""
    return BuildError(f"{reference}: the push failed: {error}", hint=hint)


def _api_error(what: str, error: docker.errors.APIError) -> BuildError:
    reason = str(error.explanation or error)
    if "no space left" in reason.lower():
        return BuildError(f"{what}: {reason}", hint="docker system prune frees space")
    return BuildError(f"{what}: the engine says: {reason}")


def _connection_error(error: Exception, url: str) -> BuildError:
    reason = str(error)
    where = url or "DOCKER_HOST, else unix:///var/run/docker.sock"
    if "Permission denied" in reason:
        return BuildError(
            f"no permission to use the Docker engine ({where})",
            hint="run as root, or as a user of the group docker",
        )
    if isinstance(error, requests.exceptions.ReadTimeout):
        return BuildError(f"the Docker engine ({where}) does not answer any more")
    return BuildError(
        f"no Docker engine answers at {where}: {_root_cause(error)}",
        hint="start one (apt-get install docker.io), or name it with --engine or DOCKER_HOST",
    )


def _root_cause(error: BaseException) -> str:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return str(error)


def _no_farm(reference: str) -> BuildError:
    return BuildError(
        f"{reference} holds no node image",
        hint="only images of bootfarm container build (or of its Dockerfile) do",
    )


# Taking the store out


class _Chunks(io.RawIOBase):
    """An iterator of bytes, read like a file."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def unpack_images(stream: io.RawIOBase, target: Path) -> None:
    """Write `images/<name>/<digest>/…` of a tar stream below `target`; regular files only."""
    try:
        with tarfile.open(fileobj=io.BufferedReader(stream), mode="r|") as archive:
            for member in archive:
                parts = Path(member.name).parts
                known = (
                    len(parts) >= 4
                    and parts[0] == "images"
                    and is_image_name(parts[1])
                    and is_digest(parts[2])
                )
                if not known or not member.isfile():
                    continue
                if ".." in parts:
                    raise BuildError(f"the engine's archive holds {member.name!r}")
                source = archive.extractfile(member)
                assert source is not None
                place = target.joinpath(*parts)
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except tarfile.TarError as error:
        raise BuildError(f"the engine's archive is damaged: {error}") from None
    except requests.RequestException:
        raise  # an OSError too, but the engine's
    except OSError as error:
        raise BuildError(f"cannot write to {target}: {error.strerror}") from None
