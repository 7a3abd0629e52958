"""An image's signatures in words, and what follows from them where keys are given."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagebuild.errors import BuildError
from imagebuild.store.images import Image, Store
from imagebuild.store.signatures import format_time
from imagebuild.store.signed import read_signatures
from imagebuild.store.trust import Trust, TrustError, Verdict, load_trust


def open_trust(signers: Path | None, revoked: Path | None) -> Trust | None:
    """What --require-signed and --revoked give; None where no signature is asked for."""
    if signers is None:
        if revoked is not None:
            raise BuildError(
                "--revoked counts with --require-signed only", hint="give --require-signed KEYS too"
            )
        return None
    return load_trust(signers, revoked)


def describe_signing(image: Image, trust: Trust | None) -> dict[str, Any]:
    """Its signatures, and why it would not be served: None where nobody asks, "" where it is."""
    found, broken = read_signatures(image.path)
    verdict = _weigh(image, trust)
    return {
        "signatures": [
            {"key": signed.key.fingerprint, "signed": format_time(signed.statement.signed)}
            for signed in found
        ],
        "broken_signatures": [f"{one.path}: {one.reason}" for one in broken],
        "refused": None if verdict is None else verdict.reason,
    }


def list_signing(image: Image, trust: Trust | None) -> list[tuple[str, str]]:
    """The same as facts, a name and a value each."""
    found, broken = read_signatures(image.path)
    facts = [
        ("signed", f"{format_time(signed.statement.signed)} by {signed.key.fingerprint}")
        for signed in found
    ]
    facts += [("signed", f"not well: {one.path} {one.reason}") for one in broken]
    facts = facts or [("signed", "no: `bootfarm sign` signs it")]
    verdict = _weigh(image, trust)
    if verdict is not None:
        names = ", ".join(key.comment or key.fingerprint for key in verdict.signers)
        facts.append(("trusted", f"no: {verdict.reason}" if verdict.reason else f"by {names}"))
    return facts


def list_refusals(images: Sequence[Image], trust: Trust | None) -> list[str]:
    """Why images would not be served, a line each; none where nobody asks."""
    verdicts = [_weigh(image, trust) for image in images]
    return [verdict.reason for verdict in verdicts if verdict is not None and verdict.reason]


def check_source(directory: Path, trust: Trust) -> None:
    """TrustError where the image in a folder `…/NAME/DIGEST` elsewhere may not be imported."""
    path = directory.resolve()
    store = Store(path.parent.parent.parent)
    if path.parent.parent.name != "images":
        raise TrustError(
            f"{directory} is no image of a store: its signatures lie nowhere",
            hint="give .../images/NAME/DIGEST, with .../images/NAME/signatures beside it",
        )
    verdict = trust.judge(store.get(path.parent.name, path.name))
    if verdict.reason:
        raise TrustError(verdict.reason, hint="nothing was imported")


def _weigh(image: Image, trust: Trust | None) -> Verdict | None:
    return None if trust is None else trust.judge(image)
