"""lts.conf: any text is read, or refused with a line; what a node gets can be read back."""

# ruff: noqa: PT017 - what an error must say is a promise, too

from typing import Final

from fuzz.words import Words
from server.ltsconf import LtsConf, LtsConfError, NodeId, parse_flat, render_flat
from server.ltsconf.flat import is_flat_key
from server.ltsconf.scan import Included

NODE: Final = NodeId("pc7", "10.9.0.7", "02:1b:44:11:3a:b7")
_TEXTS: Final = (
    b'[default]\nA=1\nB="two words" # and more\n\n[pc7]\nLIKE = other\n[other]\nC=NONE\n',
    b"[10.9.0.*]\nRCFILE_07=x\nRCFILE_1=y\ninclude more.conf\n",
    b"[02:1b:44:11:3a:b7]\nA=1\nA = \\\n 2\n[default]\nHOSTS_1='x' y\n",
    b"\xef\xbb\xbf[default]\r\nA=\xff\r\n",
    b"[pc7]\nLIKE=pc7\n[x]\nLIKE=y\n[y]\nLIKE=x\n",
)
SEEDS: Final = tuple(bytes((mode,)) + text for text in _TEXTS for mode in (0, 1))


def check(data: bytes) -> None:
    """data: one byte that chooses LTSP 5's ways, then the text."""
    words = Words(data)
    ltsp5 = bool(words.number() & 1)
    text = words.rest()

    def read_include(name: bytes) -> Included | None:
        return Included(name, "more.conf", b"D=4\n") if name == b"more.conf" else None

    try:
        conf = LtsConf.parse(text, read_include, ltsp5=ltsp5)
    except LtsConfError as error:
        assert error.line > 0
        assert error.hint
        return
    for problem in conf.problems:
        assert str(problem)
    try:
        values = conf.resolve(NODE, {"A": "default", "Z": "last"})
    except LtsConfError as error:
        assert str(error)
        return
    assert "NONE" not in values.values() or ltsp5
    flat = render_flat(values)
    assert parse_flat(flat) == {key: value for key, value in values.items() if is_flat_key(key)}
