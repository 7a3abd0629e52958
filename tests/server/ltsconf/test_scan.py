"""What can only be understood from the original's scanner (scan.py)."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.ltsconf import LtsConf, LtsConfError, NodeId, scan
from server.ltsconf.files import read_nothing
from server.ltsconf.grammar import parse_document
from server.ltsconf.scan import READ_SIZE, Included

NODE = NodeId("pc7", None, None)
CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "corpus" / "cases-public.json").read_text()
)


def reader(files: dict[str, bytes]) -> object:
    def read_include(path: bytes) -> Included | None:
        name = path.decode()
        return Included(name, name, files[name]) if name in files else None

    return read_include


def resolve(text: bytes, **files: bytes) -> dict[str, str]:
    return LtsConf.parse(text, reader(files), ltsp5=True).resolve(NODE)  # type: ignore[arg-type]


def codes(text: bytes, **files: bytes) -> list[str]:
    main = Included("main", "lts.conf", text)
    return [p.code for p in parse_document(main, reader(files)).problems]  # type: ignore[arg-type]


def test_a_nul_byte_cuts_a_bare_text() -> None:
    assert resolve(b"[default]\nA\0B = x\0y\nC = \0z\n") == {"A": "x", "C": ""}
    assert "nul-byte" in codes(b"[default]\nA=x\0y\n")


def test_a_nul_byte_cuts_a_quoted_text_and_one_byte_more() -> None:
    assert resolve(b'[default]\nA="ab\0cd"\nB="b\0"\n') == {"A": "a", "B": ""}


def test_a_nul_byte_right_behind_a_quote_crashes() -> None:
    with pytest.raises(LtsConfError, match="NUL"):
        resolve(b'[default]\nA="\0b"\n')


def test_bom_before_the_first_header() -> None:
    with pytest.raises(LtsConfError, match="byte order mark") as caught:
        LtsConf.parse(b"\xef\xbb\xbf[default]\nA=1\n")
    assert "BOM" in caught.value.hint
    assert resolve(b"\xef\xbb\xbf[default]\nA=1\n") == {}


def test_an_include_without_a_path_is_the_text_before_it_once_more() -> None:
    assert resolve(b"[default]\nA=b\ninclude \n= x\n") == {"A": "b", "B": "x"}


def test_an_include_without_a_path_and_nothing_before_it_crashes() -> None:
    with pytest.raises(LtsConfError, match="without a path"):
        resolve(b"[\ninclude \n]\nA=1\n")


def test_a_comment_without_newline_swallows_the_first_line_of_the_include() -> None:
    text = b"include one\n[default]\nA=1\n# end"
    assert resolve(text, one=b" [pc7]\nB=2\n[pc7]\nC=3\n") == {
        "A": "1",
        "B": "2",
        "C": "3",
    }


def test_an_include_in_the_first_8_kib_of_a_longer_file_cuts_it() -> None:
    filler = b"".join(b"K%04d=%04d\n" % (n, n) for n in range(2000))
    text = b"include one\n[default]\n" + filler
    assert len(text) > READ_SIZE
    values = resolve(text, one=b"\n[pc7]\nLAST=1\n")
    whole = READ_SIZE - len(b"include one\n[default]\n")
    assert f"K{whole // 11 - 1:04d}" in values
    assert f"K{whole // 11 + 1:04d}" not in values
    assert "include-cuts-file" in codes(text, one=b"[pc7]\nLAST=1\n")
    with pytest.raises(LtsConfError, match="loses the rest"):
        LtsConf.parse(text, reader({"one": b"[pc7]\nLAST=1\n"}))  # type: ignore[arg-type]


def test_an_include_at_the_end_of_a_long_file_cuts_nothing() -> None:
    filler = b"".join(b"K%04d=%04d\n" % (n, n) for n in range(2000))
    values = resolve(b"[default]\n" + filler + b"include one\n", one=b"[pc7]\nLAST=1\n")
    assert len(values) == 2001


def test_at_most_ten_files() -> None:
    files = {f"f{n}": f"include f{n + 1}\n[pc7]\nA{n}={n}\n".encode() for n in range(1, 15)}
    files["f15"] = b""
    text = b"include f1\n[default]\nA=1\n[pc7]\nB=1\n"
    assert resolve(text, **files) == {"A": "1", "B": "1"}
    likes = b"".join(b"LIKE=s%d\n" % n for n in range(1, 15))
    files = {f"f{n}": f"include f{n + 1}\n[s{n}]\nA{n}={n}\n".encode() for n in range(1, 15)}
    assert sorted(resolve(b"include f1\n[pc7]\n" + likes, **files)) == [
        f"A{n}" for n in range(1, 10)
    ]
    assert "include-too-many" in codes(b"include f1\n[pc7]\n" + likes, **files)


def test_of_two_includes_the_first_is_told_to_be_lost() -> None:
    text = b"include one\ninclude two\n[default]\nA=1\n"
    assert codes(text, one=b"[x]\nB=1\n", two=b"[y]\nC=1\n") == ["include-not-read"]


def test_an_include_in_a_last_line_without_newline_is_told_to_be_lost() -> None:
    assert codes(b"[default]\nA=1\ninclude one", one=b"[x]\nB=1\n") == ["include-not-read"]


@pytest.mark.parametrize(
    "line", [b"include one # why\n", b'include "one" \n', b"  include\t one\n"]
)
def test_forms_of_an_include_line(line: bytes) -> None:
    assert resolve(line + b"[pc7]\nLIKE=one\n", one=b"[one]\nA=1\n") == {"A": "1"}


def test_places_are_those_of_the_file_that_holds_them() -> None:
    text = b"include one\n[default]\nA=1\n"
    document = parse_document(
        Included("main", "lts.conf", text),
        reader({"one": b"# one\n[pc7]\nB = x=y\n"}),  # type: ignore[arg-type]
    )
    problem = document.problems[-1]
    assert (problem.path, problem.line, problem.column) == ("one", 3, 6)
    assert problem.excerpt == "B = x=y"


def test_columns_count_characters() -> None:
    document = parse_document(
        Included("main", "x", "[default]\nÄÖ = ü=y\n".encode()), lambda path: None
    )
    assert (document.problems[0].line, document.problems[0].column) == (2, 7)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["slug"])
def test_read_byte_by_byte_it_is_the_same(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    main = Included("main", "lts.conf", case["conf"].encode("utf-8", "surrogateescape"))
    whole = parse_document(main, read_nothing)
    monkeypatch.setattr(scan, "READ_SIZE", 1)
    bytewise = parse_document(main, read_nothing)
    assert bytewise.problems == whole.problems
    assert [(s.name, s.entries) for s in bytewise.sections] == [
        (s.name, s.entries) for s in whole.sections
    ]
