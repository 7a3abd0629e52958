"""A signed apt repository on disk, made with apt-ftparchive and gpg."""

import tempfile
from pathlib import Path

from rack.cache import run

SUITE = "stable"
COMPONENT = "main"
IDENTITY = "bootfarm rack (throw-away key) <bootfarm@example.org>"


def sources_line(repository: Path) -> str:
    """The line for sources.list that uses the repository at this path."""
    key = repository / "key.gpg"
    return f"deb [signed-by={key}] file:{repository} {SUITE} {COMPONENT}"


def publish(repository: Path, epoch_date: str) -> None:
    """Index and sign `repository`, whose .deb files lie below pool/.

    Writes dists/stable/{Release,InRelease,Release.gpg,main/binary-amd64/…} and
    key.gpg (for `signed-by`). The key is made for this call and its secret half
    is gone when the call returns. `epoch_date` is the Date: field (RFC 5322).
    """
    suite = repository / "dists" / SUITE
    binary = suite / COMPONENT / "binary-amd64"
    binary.mkdir(parents=True, exist_ok=True)
    packages = run(["apt-ftparchive", "--arch", "amd64", "packages", "pool"], cwd=repository)
    (binary / "Packages").write_text(packages)
    run(["gzip", "--keep", "--no-name", "--force", binary / "Packages"])
    fields = {
        "Origin": "bootfarm",
        "Label": "bootfarm rack",
        "Suite": SUITE,
        "Codename": SUITE,
        "Date": epoch_date,
        "Architectures": "amd64",
        "Components": COMPONENT,
        "Description": "Kubernetes for the virtual rack",
    }
    options = [f"-oAPT::FTPArchive::Release::{name}={text}" for name, text in fields.items()]
    release = run(["apt-ftparchive", *options, "release", suite])
    (suite / "Release").write_text(release)
    _sign(repository, suite)


def _sign(repository: Path, suite: Path) -> None:
    # gpg's agent puts its socket into its home: the path must be short.
    with tempfile.TemporaryDirectory(prefix="bootfarm-gpg-") as home:
        gpg = ["gpg", "--homedir", home, "--batch", "--yes", "--quiet"]
        try:
            new_key = ["--quick-generate-key", IDENTITY, "rsa3072", "sign", "never"]
            run([*gpg, "--passphrase", "", *new_key])
            run([*gpg, "--output", repository / "key.gpg", "--export"])
            release = suite / "Release"
            run([*gpg, "--clear-sign", "--output", suite / "InRelease", release])
            run([*gpg, "--armor", "--detach-sign", "--output", suite / "Release.gpg", release])
        finally:
            run(["gpgconf", "--homedir", home, "--kill", "all"])
