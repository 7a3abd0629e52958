"""Signed images for tests: real keys, real signatures."""

from pathlib import Path

from imagebuild.signing.cli import render_signer
from imagebuild.signing.keygen import make_key, read_public


def make_signer(directory: Path, name: str = "ci") -> tuple[Path, Path]:
    """A private key, and a file of signers that names it."""
    key = directory / f"{name}.key"
    make_key(key, name)
    signers = directory / f"{name}.signers"
    signers.write_text(render_signer(read_public(key)) + "\n")
    return key, signers
