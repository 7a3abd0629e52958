"""farm.yaml's `images`: a real server follows tags in Debian's docker-registry."""

import json
import os
import signal
from pathlib import Path

import pytest

from imagebuild.store.images import Store
from imagebuild.store.incoming import Pace
from imagebuild.store.registry import Reference, Registry
from tests.dockerregistry import run_registry
from tests.server.farm import FILES, GOOD, publish
from tests.server.test_serve import Server, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_a_tag_in_a_registry_is_followed_until_a_person_moves_it_here(tmp_path: Path) -> None:
    ci, directory = Store(tmp_path / "ci"), tmp_path / "server"
    directory.mkdir()
    (directory / "lts.conf").write_text(GOOD)
    with run_registry(tmp_path / "registry") as address:
        text = f"oci://{address}/nodes/amd64:stable"
        reference = Reference.parse(text)
        one = publish(ci.path, kernel="1", tags=("stable",))
        Registry().push(one, ci, reference)
        keys = {"images": [text], "fetch": {"registry_every": 5}}
        (directory / "farm.yaml").write_text(json.dumps(keys))
        words = ["--config", str(directory / "farm.yaml"), "--workers", "0"]
        server = Server(directory, words)
        server.start()
        try:
            store = Store(directory / "store")

            def leads_to(digest: str) -> bool:
                moves = store.all_moves()
                return ("amd64", "stable") in moves and moves["amd64", "stable"].digest == digest

            assert eventually(lambda: leads_to(one.digest))
            store.verify(store.get("amd64", "stable"))
            two = publish(ci.path, kernel="2", tags=("stable",))
            Registry().push(two, ci, reference)
            assert eventually(lambda: leads_to(two.digest))
            # Moved here by hand: told, and left so.
            store.tag("amd64", one.digest, "stable")
            said = f"amd64:stable is {one.digest[:12]} here, and {two.digest[:12]} in {text}"
            assert eventually(lambda: said in " ".join(server.json("/healthz")["problems"]))
            assert leads_to(one.digest)
            # It moves there: followed again.
            three = publish(ci.path, kernel="3", tags=("stable",))
            Registry().push(three, ci, reference)
            assert eventually(lambda: leads_to(three.digest))
        finally:
            server.stop(signal.SIGKILL)


def test_skopeo_is_halted_while_it_is_ahead_of_the_pace(tmp_path: Path) -> None:
    waits: list[float] = []

    class Told(Pace):
        def ahead(self, count: int) -> float:
            waits.append(super().ahead(count))
            return waits[-1]

    ci = Store(tmp_path / "ci")
    files = {**FILES, "rootfs.squashfs": b"hsqs" + os.urandom(60 << 20)}
    image = publish(ci.path, files=files)
    with run_registry(tmp_path / "registry") as address:
        reference = Reference.parse(f"oci://{address}/nodes/amd64")
        Registry().push(image, ci, reference)
        there = Store(tmp_path / "there")
        found = Registry(Told(30 << 20)).pull(there, reference, image.digest, tags=("current",))
    assert found.digest == image.digest
    assert any(wait > 0 for wait in waits)
