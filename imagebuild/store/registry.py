"""Node images in a registry, by skopeo: pushed, looked at and pulled as OCI artifacts.

Credentials are Docker's and Podman's: what `docker login` or `skopeo login` wrote. skopeo knows
no bound for its bandwidth, so it is halted while it is ahead of the pace.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuild.errors import BuildError
from imagebuild.store.artifact import image_digest, read_artifact, write_artifact
from imagebuild.store.disk import tree_size
from imagebuild.store.images import CURRENT, Image, Store, is_tag
from imagebuild.store.incoming import Pace, open_incoming

SCHEME: Final = "oci://"
LOOK_SECONDS: Final = 0.05
"""Between two looks at how much has come."""
SILENT_SECONDS: Final = 60.0
"""A registry from which nothing came for so long is given up."""
POLICIES: Final = ("/etc/containers/policy.json", "~/.config/containers/policy.json")
_REFERENCE: Final = re.compile(
    r"oci://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?)"
    r"/(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,62})|@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class RegistryError(BuildError):
    """A registry cannot be reached, refuses, or has no such image."""


@dataclass(frozen=True)
class Reference:
    """An image in a registry. tag: "" where a digest (sha256:…, of the artifact) names it."""

    host: str
    name: str
    tag: str = CURRENT
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """`oci://HOST[:PORT]/NAME[:TAG|@sha256:…]`; without a tag it is `current`."""
        match = _REFERENCE.fullmatch(text)
        tag = (match["tag"] or "") if match is not None else ""
        if match is None or len(text) > 500 or (tag and not is_tag(tag)):
            raise RegistryError(
                f"{text[:200]!r} names no image in a registry",
                hint="as oci://registry.example.org/nodes/amd64:current, or with @sha256:DIGEST",
            )
        digest = match["digest"] or ""
        return cls(match["host"], match["name"], "" if digest else tag or CURRENT, digest)

    def __str__(self) -> str:
        end = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{SCHEME}{self.host}/{self.name}{end}"

    @property
    def docker(self) -> str:
        """As skopeo writes it."""
        return f"docker://{str(self).removeprefix(SCHEME)}"


class Registry:
    """Registries, asked by skopeo. plain_http: without TLS; loopback is asked so in any case."""

    def __init__(self, pace: Pace | None = None, *, plain_http: bool = False) -> None:
        self._pace = pace or Pace()
        self._plain = plain_http

    def look(self, reference: Reference) -> str:
        """The digest of the node image (in a store) that the reference names now.

        Raises RegistryError, and ArtifactError where it is something else.
        """
        words = ["inspect", "--raw", *self._options(reference, ""), reference.docker]
        data = self._run(words, f"cannot look at {reference}")
        if reference.digest and reference.digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
            raise RegistryError(f"{reference}: what came has another digest")
        return image_digest(data)

    def push(self, image: Image, store: Store, reference: Reference) -> str:
        """Copy an image into a registry; the artifact's digest (sha256:…) there."""
        if reference.digest:
            raise RegistryError(
                f"{reference}: an image is pushed under a tag", hint="write :TAG, or nothing"
            )
        with store.writing() as directory:
            digest = write_artifact(image, directory / "layout")
            words = ["copy", "--quiet", "--preserve-digests", *self._options(reference, "dest-")]
            words += [f"oci:{directory / 'layout'}", reference.docker]
            self._run(words, f"cannot push to {reference}")
        return digest

    def pull(
        self, store: Store, reference: Reference, digest: str, *, tags: Collection[str] = ()
    ) -> Image:
        """Fetch the image with that digest (see `look`) into a store, verified.

        What has come of it whole when the way breaks off stays for the next try: blobs.
        Raises RegistryError, ArtifactError, StoreError.
        """
        with open_incoming(store, f"oci@{digest}") as directory:
            layout, files = directory / "layout", directory / "image"
            shutil.rmtree(files, ignore_errors=True)
            files.mkdir()
            words = ["copy", "--quiet", "--preserve-digests", *self._options(reference, "src-")]
            words += [reference.docker, f"oci:{layout}"]
            self._run(words, f"cannot pull {reference}", directory)
            manifest = read_artifact(layout, files)
            if manifest.digest != digest:
                shutil.rmtree(layout)
                raise RegistryError(
                    f"{reference} has {manifest.digest[:12]} now, and not {digest[:12]}",
                    hint="it was moved meanwhile: the next look finds it",
                )
            try:
                image = store.publish(manifest.name, files, tags=tags)
            finally:
                shutil.rmtree(directory, ignore_errors=True)
            return image

    # Inside

    def _options(self, reference: Reference, side: str) -> list[str]:
        words: list[str] = []
        if self._plain or reference.host.split(":")[0] in ("localhost", "127.0.0.1"):
            words.append(f"--{side}tls-verify=false")
        folder = os.environ.get("DOCKER_CONFIG")
        if folder and "REGISTRY_AUTH_FILE" not in os.environ:
            file = Path(folder, "config.json")
            if file.is_file():
                words += [f"--{side}authfile" if side else "--authfile", str(file)]
        return words

    def _run(self, words: Sequence[str], what: str, watched: Path | None = None) -> bytes:
        """What skopeo prints. watched: where it writes what it fetches, at the pace."""
        if shutil.which("skopeo") is None:
            raise RegistryError(
                f"{what}: the program skopeo is not here", hint="apt-get install skopeo"
            )
        policy = any(Path(path).expanduser().is_file() for path in POLICIES)
        # setpriv: skopeo ends with this process, even where it is halted and we are killed.
        argv = ["setpriv", "--pdeathsig", "KILL", "--", "skopeo"]
        argv += [*([] if policy else ["--insecure-policy"]), *words]
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise RegistryError(f"{what}: cannot run {argv[0]}: {error.strerror}") from None
        try:
            if watched is not None:
                self._watch(process, watched, what)
            output, errors = process.communicate(timeout=None if watched else SILENT_SECONDS * 60)
        except subprocess.TimeoutExpired:
            raise RegistryError(f"{what}: it takes longer than an hour") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        if process.returncode != 0:
            raise RegistryError(f"{what}: {_last_words(errors)}", hint=_advise(errors))
        return output

    def _watch(self, process: "subprocess.Popen[bytes]", watched: Path, what: str) -> None:
        """Halt skopeo whenever more has come than the pace allows; end it when nothing comes."""
        seen, since = tree_size(watched), time.monotonic()
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
                return
            now = tree_size(watched)
            if now > seen:
                if (wait := self._pace.ahead(now - seen)) > 0:
                    process.send_signal(signal.SIGSTOP)
                    time.sleep(wait)
                    process.send_signal(signal.SIGCONT)
                since = time.monotonic()
            elif time.monotonic() - since > SILENT_SECONDS:
                raise RegistryError(
                    f"{what}: nothing came for {SILENT_SECONDS:.0f} seconds",
                    hint="the next try goes on with the parts that are whole",
                )
            seen = max(seen, now)


def _last_words(errors: bytes) -> str:
    lines = errors.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
    last = re.sub(r'^time="[^"]*" level=\w+ msg=', "", lines[-1]).strip('"')
    return "".join(char if char.isprintable() else "?" for char in last)[:500]


def _advise(errors: bytes) -> str:
    said = errors.lower()
    if b"unauthorized" in said or b"denied" in said or b"authentication" in said:
        return "`docker login HOST` (or `skopeo login HOST`), as the user that bootfarm runs as"
    if b"server gave http response to https client" in said:
        return "the registry has no TLS: --plain-http, or `fetch: {plain_http: true}` in farm.yaml"
    if b"manifest unknown" in said or b"name unknown" in said or b"not found" in said:
        return "is that name and tag right? `skopeo list-tags docker://HOST/NAME` lists the tags"
    return "is the registry up, and is its name right?"
