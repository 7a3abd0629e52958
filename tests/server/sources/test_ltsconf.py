import base64
import json
import pickle
import threading
from pathlib import Path

import pytest

from server.errors import ServerError
from server.ltsconf import LtsTemplate
from server.ltsconf.files import read_main
from server.ltsconf.scan import Included
from server.sources.ltsconf import LtsConfSource, find_includes
from server.sources.stamp import SETTLE_SECONDS
from tests.server.sources.edited import TEMPLATE, Farm, resolve, values

BAD = b"[default]\nA = good\n\n[empty]\n[pc1]\nB = lost\n"


def test_no_lts_conf_is_an_empty_one(farm: Farm) -> None:
    source = LtsConfSource(None, farm.state)
    source.load_first()
    assert source.poll() is False
    assert values(source) == {}


def test_a_good_edit_counts_at_once(farm: Farm) -> None:
    farm.rename_in(b"[default]\nA = 1\n")
    source = farm.source()
    source.load_first()
    assert source.poll() is False
    farm.rename_in(b"[default]\nA = 2\n")
    assert source.poll() is True
    assert values(source) == {"A": "2"}
    assert source.poll() is False


def test_a_bad_edit_is_refused_with_line_and_reason(farm: Farm) -> None:
    farm.rename_in(b"[default]\nA = 1\n")
    source = farm.source()
    source.load_first()
    farm.rename_in(BAD)
    assert source.poll() is False
    assert values(source) == {"A": "1"}
    assert "lts.conf refused" in source.problem
    assert f"{farm.path}:4:" in source.problem
    assert len(farm.refused) == 1
    assert source.poll() is False
    assert len(farm.refused) == 1, "told once, not every second"
    farm.rename_in(b"[default]\nA = 3\n")
    assert source.poll() is True
    assert source.problem == ""


def test_the_last_good_text_survives_a_restart(farm: Farm) -> None:
    farm.swap({"lts.conf": b"[default]\nA = 1\ninclude more\n", "more": b"[pc1]\nB = 2\n"})
    farm.source().load_first()
    farm.swap({"lts.conf": BAD, "more": b""})
    source = farm.source()
    source.load_first()
    assert values(source) == {"A": "1", "B": "2"}
    assert "lts.conf refused" in source.problem
    farm.path.unlink()
    source = farm.source()
    source.load_first()
    assert values(source)["A"] == "1"


def test_a_text_that_cannot_be_kept_is_told_and_kept_once_there_is_room(farm: Farm) -> None:
    farm.rename_in(b"[default]\nA = 1\n")
    source = farm.source()
    source.load_first()
    assert source.keep_problem == ""
    kept = farm.state / "lts.conf.json"
    kept.unlink()
    kept.mkdir()  # as good as a full disk
    farm.rename_in(b"[default]\nA = 2\n")
    assert source.poll() is True
    assert values(source) == {"A": "2"}
    assert f"cannot be kept in {kept}: Is a directory" in source.keep_problem
    assert source.poll() is False
    assert source.keep_problem
    kept.rmdir()
    assert source.poll() is False
    assert source.keep_problem == ""
    farm.rename_in(BAD)
    again = farm.source()
    again.load_first()
    assert values(again) == {"A": "2"}


def test_a_bad_first_text_is_an_error_with_line_and_remedy(farm: Farm) -> None:
    farm.rename_in(BAD)
    with pytest.raises(ServerError) as caught:
        farm.source().load_first()
    assert f"{farm.path}:4:" in caught.value.format_message()
    assert caught.value.hint
    farm.path.unlink()
    with pytest.raises(ServerError, match="No such file"):
        farm.source().load_first()


@pytest.mark.parametrize(
    "kept",
    [
        "",
        "[]",
        "{}",
        json.dumps({"main": "x", "texts": {"": "!"}}),
        json.dumps({"main": "x", "texts": {"": base64.b64encode(BAD).decode()}}),
    ],
)
def test_a_damaged_last_good_text_is_none(farm: Farm, kept: str) -> None:
    (farm.state / "lts.conf.json").write_text(kept)
    farm.rename_in(BAD)
    with pytest.raises(ServerError):
        farm.source().load_first()


def test_a_file_that_is_being_written_in_place_is_left_alone(farm: Farm) -> None:
    farm.path.write_bytes(b"[default]\nA = 1\n")
    source = farm.source()
    source.load_first()
    with farm.path.open("wb") as stream:
        stream.write(b"[default]\nA = 2")
        stream.flush()
        farm.wall = farm.path.stat().st_mtime + SETTLE_SECONDS / 2
        assert source.poll() is False
        assert values(source) == {"A": "1"}
        stream.write(b"22\n")
    farm.wall = farm.path.stat().st_mtime + 2 * SETTLE_SECONDS
    assert source.poll() is True
    assert values(source) == {"A": "222"}


def test_an_include_is_watched_too_and_never_leaves_the_directory(farm: Farm) -> None:
    (farm.base / "secret").write_bytes(b"[default]\nS = secret\n")
    farm.rename_in(b"[default]\nA = 1\ninclude ../secret\n")
    source = farm.source()
    with pytest.raises(ServerError):
        source.load_first()
    (farm.mount / "secret").write_bytes(b"[default]\nS = mine\n[pc1]\nC = 1\n")
    source = farm.source()
    source.load_first()
    assert values(source) == {"A": "1", "C": "1"}
    (farm.base / "new").write_bytes(b"[default]\nS = mine\n[pc1]\nC = 2\n")
    (farm.base / "new").rename(farm.mount / "secret")
    assert source.poll() is True
    assert values(source) == {"A": "1", "C": "2"}


def test_swapped_as_kubelet_does_a_thousand_times_without_half_a_file(farm: Farm) -> None:
    """Main file and include always come from the same generation."""

    def files(number: int) -> dict[str, bytes]:
        padding = b"# padding\n" * (number % 97)
        return {
            "lts.conf": padding + b"[default]\nMAIN = %d\ninclude more\n" % number,
            "more": padding + b"[other]\nX = 1\n[pc1]\nMORE = %d\n" % number,
        }

    farm.swap(files(0))
    source = farm.source()
    source.load_first()
    done, taken = threading.Event(), threading.Event()

    def swap_on() -> None:
        for number in range(1, 1001):
            taken.clear()
            farm.swap(files(number))
            if number % 100 == 0:  # leave a slow machine the time for one reading
                taken.wait(30)
        done.set()

    thread = threading.Thread(target=swap_on)
    thread.start()
    seen = 0
    while not done.is_set():
        if source.poll():
            seen += 1
            taken.set()
        got = values(source)
        assert got["MAIN"] == got["MORE"]
    thread.join()
    source.poll()
    assert values(source)["MAIN"] == "1000"
    assert seen >= 9
    assert source.problem == ""


@pytest.mark.parametrize("swaps", [1, 3])
def test_a_swap_between_main_file_and_include_is_read_again(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, swaps: int
) -> None:
    farm.swap(_pair(0))
    source = farm.source()
    source.load_first()
    farm.swap(_pair(1))
    left = list(range(2, 2 + swaps))

    def read_slowly(path: Path) -> Included:
        if left:
            farm.swap(_pair(left.pop(0)))
        return read_main(path)

    monkeypatch.setattr("server.sources.ltsconf.read_main", read_slowly)
    assert source.poll() is True
    assert values(source) == {"MAIN": str(1 + swaps), "MORE": str(1 + swaps)}
    assert farm.refused == []


def test_files_that_never_rest_are_left_for_the_next_look(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm.swap(_pair(0))
    source = farm.source()
    source.load_first()
    farm.swap(_pair(1))

    def read_slowly(path: Path) -> Included:
        found = read_main(path)
        farm.swap(_pair(farm.generation))
        return found

    with monkeypatch.context() as patch:
        patch.setattr("server.sources.ltsconf.read_main", read_slowly)
        assert source.poll() is False
        with pytest.raises(ServerError, match="replaced again"):
            LtsConfSource(farm.path, None).load_first()
        restarted = farm.source()
        restarted.load_first()
        assert values(restarted)["MAIN"] == "0"
        assert "replaced again" in restarted.problem
    assert restarted.poll() is True
    assert restarted.problem == ""
    assert values(source) == {"MAIN": "0", "MORE": "0"}
    assert source.problem == ""
    assert source.poll() is True
    assert values(source)["MAIN"] == values(source)["MORE"] == str(farm.generation - 1)


def _pair(number: int) -> dict[str, bytes]:
    return {
        "lts.conf": b"[default]\nMAIN = %d\ninclude more\n" % number,
        "more": b"[pc1]\nMORE = %d\n" % number,
    }


def test_a_template_is_taken_and_its_text_is_kept_without_values(farm: Farm) -> None:
    farm.rename_in(TEMPLATE)
    source = farm.source()
    source.load_first()
    assert resolve(source.current, secrets={"token": "s3cr3t-1"}) == {"A": "pc1", "T": "s3cr3t-1"}
    kept = (farm.state / "lts.conf.json").read_text()
    assert base64.b64decode(json.loads(kept)["texts"][""]) == TEMPLATE
    assert "s3cr3t" not in kept
    farm.rename_in(BAD)
    source = farm.source()
    source.load_first()
    assert isinstance(source.current, LtsTemplate)
    assert resolve(source.current, secrets={"token": "x"})["T"] == "x"


@pytest.mark.parametrize("body", [b"A = {{ node.mac\n", b"{% if x %}\n", b"A={{ 1 | nosuch }}\n"])
def test_a_template_that_is_none_is_refused_as_a_bad_edit(farm: Farm, body: bytes) -> None:
    farm.rename_in(TEMPLATE)
    source = farm.source()
    source.load_first()
    farm.rename_in(b"# jinja2\n[default]\n" + body)
    assert source.poll() is False
    assert f"{farm.path}:" in source.problem
    assert "Jinja2" in farm.refused[0]
    assert source.poll() is False
    assert len(farm.refused) == 1
    assert resolve(source.current, secrets={"token": "x"})["A"] == "pc1"
    farm.rename_in(b"[default]\nA = {{ plain }}\n")
    assert source.poll() is True
    assert values(source) == {"A": "{{ plain }}"}


def test_a_template_has_all_its_includes_after_kubelet_has_replaced_them(farm: Farm) -> None:
    text = (
        b"# jinja2\n[default]\nA = 1\n"
        b"{% if node.hostname == 'pc1' %}\ninclude one\n{% else %}\ninclude two\n{% endif %}\n"
    )
    files = {"lts.conf": text, "two": b"[pc1]\nB = 2\n", "three": b"[pc?]\nC = 3\n"}
    farm.swap({**files, "one": b'[pc1]\nB = 1\ninclude "three"\n'})
    source = farm.source()
    source.load_first()
    template = source.current
    farm.swap({**files, "one": b"[pc1]\nB = 11\n", "three": b""})
    assert resolve(template) == {"A": "1", "B": "1", "C": "3"}
    assert resolve(pickle.loads(pickle.dumps(template))) == {"A": "1", "B": "1", "C": "3"}
    assert source.poll() is True
    assert resolve(source.current) == {"A": "1", "B": "11"}


def test_which_includes_a_text_may_have() -> None:
    text = b'A=1\ninclude one\n\tinclude  "two"  # 2\r\n#include no\nincluded\ninclude \ninclude x'
    assert find_includes(text) == {b"one", b"two", b"x"}
