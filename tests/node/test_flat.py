"""The flat text is read as data: quotes, backslashes and $(…) in a value stay what they are."""

from __future__ import annotations

from typing import Any

import pytest

from server.ltsconf.flat import render_flat

NASTY = {
    "PREINIT_01": "sed -i 's|^ExecStart=.*|ExecStart=/usr/bin/dockerd -H fd://|' /etc/x",
    "RCFILE_01": 'echo "$(touch /tmp/never)" `id` $HOME ; #"',
    "RCFILE_02": "back\\slash \\n tab\tend ",
    "RCFILE_03": ' "starts and ends quoted" ',
    "RCFILE_04": "KEY=\"value\" = 'x'",
    "RCFILE_05": "",
    "RCFILE_06": "-n",
    "RCFILE_07": "žluťoučký",
    "X_1": "* ? [a-z]",
}


@pytest.mark.parametrize("key", sorted(NASTY))
def test_value_as_written_by_the_server(node: Any, key: str) -> None:
    node.write("run/bootfarm/lts.conf", render_flat(NASTY))
    script = node.lib("lib/flat") + 'flat_get "$BOOTFARM_ROOT/run/bootfarm/lts.conf" "$1"'
    assert node.run(script, key).stdout == NASTY[key] + "\n"


def test_each_in_order_with_values_as_arguments(node: Any) -> None:
    node.write("run/bootfarm/lts.conf", render_flat({**NASTY, "RCFILE_10": "ten", "RCFILE_9": "n"}))
    script = (
        node.lib("lib/flat")
        + 'show() { cat; printf "%s|%s|" "$1" "$2"; }\n'
        + 'flat_each "$BOOTFARM_ROOT/run/bootfarm/lts.conf" RCFILE_ show'
    )
    fields = node.run(script).stdout.split("|")[:-1]
    keys, values = fields[0::2], fields[1::2]
    assert keys == [f"RCFILE_0{n}" for n in range(1, 8)] + ["RCFILE_9", "RCFILE_10"]
    assert values[:7] == [NASTY[key] for key in keys[:7]]


def test_missing_key_fails(node: Any) -> None:
    node.flat(A="1")
    script = node.lib("lib/flat") + 'flat_get "$BOOTFARM_ROOT/run/bootfarm/lts.conf" B'
    assert node.run(script, check=False).returncode == 1


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ('# bootfarm lts.conf\nA="1"\n# end\n', True),
        ("# bootfarm lts.conf\n# end\n", True),
        ('# bootfarm lts.conf\nA="1"\n# en', False),
        ('# bootfarm lts.conf\nA="1', False),
        ('A="1"\n# end\n', False),
        ("[default]\nA = 1\n# end\n", False),
        ("", False),
    ],
)
def test_cut_or_foreign_text_is_refused(node: Any, text: str, whole: bool) -> None:
    node.write("text", text)
    script = node.lib("lib/flat") + 'flat_is_whole "$BOOTFARM_ROOT/text"'
    assert (node.run(script, check=False).returncode == 0) is whole


@pytest.mark.parametrize("word", ["true", "True", "yes", "Y", "on", "1", "t"])
def test_true_words(node: Any, word: str) -> None:
    node.flat(K=word)
    script = node.lib("lib/flat") + 'F=$BOOTFARM_ROOT/run/bootfarm/lts.conf\nflat_is_true "$F" K'
    assert node.run(script, check=False).returncode == 0
    assert node.run(script.replace("is_true", "is_false"), check=False).returncode == 1


@pytest.mark.parametrize("word", ["false", "No", "off", "0", "", "maybe"])
def test_words_that_are_not_true(node: Any, word: str) -> None:
    node.flat(K=word)
    script = node.lib("lib/flat") + 'flat_is_true "$BOOTFARM_ROOT/run/bootfarm/lts.conf" K'
    assert node.run(script, check=False).returncode == 1


def test_cmdline_value_is_the_last_and_is_data(node: Any) -> None:
    node.write("proc/cmdline", "a=1 root=x a=$(id)* b ltsp.x=y\n")
    script = node.lib("lib/cmdline")
    assert node.run(script + "cmdline_value a").stdout == "$(id)*\n"
    assert node.run(script + "cmdline_value b", check=False).returncode == 1
