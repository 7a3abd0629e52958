import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.store.manifest import (
    FileEntry,
    Manifest,
    ManifestError,
    is_digest,
    is_image_name,
    parse_manifest,
)
from imagebuild.store.verity import Verity

WHOLE = Manifest(
    name="amd64",
    distribution="debian",
    release="bookworm",
    architecture="amd64",
    kernel="6.1.0-49-cloud-amd64",
    cmdline=("console=ttyS0",),
    versions={"kubelet": "1.20.2"},
    packages={"adduser": "3.134"},
    lts_defaults={"LTSP_NBD_TO_RAM": "true"},
    files={"boot/grub/i386-pc/core.0": FileEntry(1, "0" * 64)},
    stages={"final": "f" * 64},
)


def test_bytes_are_canonical() -> None:
    data = WHOLE.to_bytes()
    raw = json.loads(data)
    assert data == json.dumps(raw, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    assert raw["format"] == 1
    assert WHOLE.digest == hashlib.sha256(data).hexdigest()
    assert WHOLE.size == 1


def test_digest_does_not_depend_on_the_order_of_mappings() -> None:
    one = Manifest("a", "debian", "sid", "amd64", "", packages={"a": "1", "b": "2"})
    two = Manifest("a", "debian", "sid", "amd64", "", packages={"b": "2", "a": "1"})
    assert one.digest == two.digest


texts = st.text(max_size=20)
mappings = st.dictionaries(texts, texts, max_size=4)


@given(
    st.builds(
        Manifest,
        name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True),
        distribution=texts,
        release=texts,
        architecture=texts,
        kernel=texts,
        cmdline=st.lists(texts, max_size=3).map(tuple),
        versions=mappings,
        packages=mappings,
        lts_defaults=mappings,
        files=st.dictionaries(
            st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,3}", fullmatch=True),
            st.builds(
                FileEntry, st.integers(0, 1 << 50), st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
            ),
            max_size=4,
        ),
        stages=mappings,
        verity=st.none()
        | st.builds(
            Verity,
            st.integers(1, 1 << 40),
            st.integers((1 << 40) + 1, 1 << 41),
            st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
            st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        ),
    )
)
def test_round_trip(manifest: Manifest) -> None:
    again = parse_manifest(manifest.to_bytes())
    assert again == manifest
    assert again.to_bytes() == manifest.to_bytes()


VERITY: dict[str, Any] = vars(Verity(5, 6, "0" * 64, "1" * 64))


def test_an_image_without_verity_has_no_such_key() -> None:
    assert b"verity" not in WHOLE.to_bytes()


def changed(**changes: Any) -> bytes:
    raw = json.loads(WHOLE.to_bytes())
    for key, value in changes.items():
        if value is None:
            del raw[key]
        else:
            raw[key] = value
    return json.dumps(raw).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "expected an object, got list"),
        (changed(format=2), "format 2 is not 1"),
        (changed(name="Amd64"), "name 'Amd64' is not an image name"),
        (changed(name=3), "name is of type int, expected str"),
        (changed(kernel=None), "kernel is missing"),
        (changed(verity=1), "verity is of type int"),
        (changed(verity={**VERITY, "fec": 1}), "expected exactly data_blocks, hash_start, root,"),
        (changed(verity={**VERITY, "data_blocks": 6}), "are no blocks"),
        (changed(verity={**VERITY, "data_blocks": True}), "are no blocks"),
        (changed(verity={**VERITY, "root": "0" * 63}), "verity.root is not 64 hex digits"),
        (changed(verity={**VERITY, "salt": None}), "verity.salt is not 64 hex digits"),
        (changed(extra=1), "unknown key 'extra'"),
        (changed(cmdline=[1]), "cmdline holds something that is not a string"),
        (changed(packages={"a": 1}), "packages holds something that is not a string"),
        (changed(files={"../x": {"size": 1, "sha256": "0" * 64}}), "not a plain relative path"),
        (changed(files={"/x": {"size": 1, "sha256": "0" * 64}}), "not a plain relative path"),
        (changed(files={"a//b": {"size": 1, "sha256": "0" * 64}}), "not a plain relative path"),
        (changed(files={"x": {"size": -1, "sha256": "0" * 64}}), "expected exactly size"),
        (changed(files={"x": {"size": True, "sha256": "0" * 64}}), "expected exactly size"),
        (changed(files={"x": {"size": 1, "sha256": "0" * 63}}), "sha256 is not 64 hex digits"),
        (changed(files={"x": 1}), "not a file entry"),
        (changed(files={"manifest.json": {"size": 1, "sha256": "0" * 64}}), "not a file entry"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_key(data: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_manifest(data)


def test_file_entry_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 1_000_000)
    assert FileEntry.of(path) == FileEntry(
        3_000_000, hashlib.sha256(b"abc" * 1_000_000).hexdigest()
    )


@pytest.mark.parametrize("name", ["amd64", "a", "0", "a.b_c-d", "x" * 63])
def test_image_names(name: str) -> None:
    assert is_image_name(name)


@pytest.mark.parametrize("name", ["", "A", ".a", "-a", "a/b", "x" * 64, "a\n", "ä"])
def test_not_image_names(name: str) -> None:
    assert not is_image_name(name)


def test_digests() -> None:
    assert is_digest("0" * 64)
    assert not is_digest("0" * 63)
    assert not is_digest("A" * 64)
