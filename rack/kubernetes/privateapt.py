"""Debian's packages and source packages, fetched without touching the machine's apt."""

from pathlib import Path

from rack.cache import run
from rack.errors import RackError

SUITE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEFAULT_MIRROR = "http://deb.debian.org/debian"


def debian_mirror() -> str:
    """The mirror that this machine uses for the suite, else Debian's own."""
    try:
        listing = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)"])
    except RackError:
        return DEFAULT_MIRROR
    for line in listing.splitlines():
        uri, _, codename = line.partition(" ")
        if codename.strip() == SUITE:
            return uri.rstrip("/")
    return DEFAULT_MIRROR


class PrivateApt:
    """apt with sources, lists and cache of its own, all below one directory."""

    def __init__(self, directory: Path, mirror: str) -> None:
        self.directory = directory
        for name in ("lists/partial", "cache/archives/partial", "etc"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        sources = directory / "etc" / "sources.list"
        signed = f"[signed-by={KEYRING}] {mirror} {SUITE} main\n"
        sources.write_text(f"deb {signed}deb-src {signed}")
        # Fetch as root: the sandbox user may not enter a private directory.
        self.options = [
            f"-oDir::Etc::sourcelist={sources}",
            "-oDir::Etc::sourceparts=-",
            f"-oDir::State::lists={directory / 'lists'}",
            f"-oDir::Cache={directory / 'cache'}",
            "-oAPT::Sandbox::User=root",
            "-oAcquire::Languages=none",
        ]

    def update(self) -> None:
        """Fetch the package lists; RackError with apt's words when it cannot."""
        run(["apt-get", *self.options, "--error-on=any", "update"], timeout=300)

    def fetch_source(self, package: str, version: str, into: Path) -> Path:
        """Download and verify a source package; the path of its .dsc."""
        into.mkdir(parents=True, exist_ok=True)
        run(
            ["apt-get", *self.options, "--download-only", "source", f"{package}={version}"],
            cwd=into,
            timeout=600,
        )
        found = sorted(into.glob("*.dsc"))
        if len(found) != 1:
            raise RackError(f"apt-get fetched {len(found)} .dsc files of {package} to {into}")
        return found[0]

    def fetch_package(self, package: str, into: Path) -> Path:
        """Download a binary package; the path of its .deb. Nothing is installed."""
        into.mkdir(parents=True, exist_ok=True)
        run(["apt-get", *self.options, "download", package], cwd=into, timeout=300)
        found = sorted(into.glob(f"{package}_*.deb"))
        if len(found) != 1:
            raise RackError(f"apt-get fetched {len(found)} .deb files of {package} to {into}")
        return found[0]
