import json
import threading
from pathlib import Path

import pytest

from imagebuild.wholefile import write_whole


def test_the_new_bytes_take_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_renamed_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a directory"
    (path / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_whole(path, b"x")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "missing" / "file", b"x")


def test_two_writers_never_mix_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_whole(path, b"[]")

    def write(word: str) -> None:
        for _ in range(100):
            write_whole(path, json.dumps([word] * 2000).encode())

    threads = [threading.Thread(target=write, args=(word,)) for word in "ab"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert len(set(json.loads(path.read_bytes()))) <= 1
    for thread in threads:
        thread.join()
    assert list(tmp_path.iterdir()) == [path]
