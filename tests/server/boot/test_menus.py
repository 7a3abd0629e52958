import os
import re
import subprocess
from pathlib import Path

import pytest

from imagebuild.store.images import Store
from imagebuild.store.verity import Verity
from server.boot.menus import (
    render_grub_cfg,
    render_grub_error,
    render_grub_held,
    render_ipxe,
    render_ipxe_error,
    render_ipxe_held,
)
from server.boot.plan import BootPlan, Farm, PlanError
from server.boot.settlement import plan_node
from server.boot.templates import QuotingError, quote_grub, quote_ipxe, quote_ipxe_text
from server.farm.config import Menu
from server.ltsconf import LtsConf, NodeId
from server.site import Site
from tests.server.farm import publish

GOLDENS = Path(__file__).parent / "goldens"
NODE = NodeId(hostname="node-1", ip="10.9.0.11", mac="52:54:00:00:00:01")
NASTY = 'quiet dyndbg="file nbd.c +p" x=$y`id`;{a}[b]#c %(d)s'
ERROR = PlanError("IMAGE 'a$b': there is no image 'a\"b'", hint="it's one of: ${amd64} || reboot")


@pytest.fixture
def plan(tmp_path: Path) -> BootPlan:
    publish(tmp_path)
    conf = LtsConf.parse(b'[default]\nKERNEL_CMDLINE = "' + NASTY.encode() + b'"\n')
    site = Site(tuple(Store(tmp_path).images()), conf)
    return plan_node(site, NODE, Farm(address="10.9.0.1"))


def compare(name: str, text: str) -> None:
    golden = GOLDENS / name
    if os.environ.get("BOOTFARM_GOLDENS"):
        golden.write_text(text)
    assert text == golden.read_text()


def check_grub_script(text: str, tmp_path: Path) -> None:
    file = tmp_path / "grub.cfg"
    file.write_text(text)
    done = subprocess.run(["grub-script-check", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + text


def test_grub_cfg(plan: BootPlan, tmp_path: Path) -> None:
    text = render_grub_cfg(plan, Menu())
    check_grub_script(text, tmp_path)
    compare("grub.cfg", text)


def test_a_checked_root_has_its_whole_table_in_both_menus(tmp_path: Path) -> None:
    """Behind whatever lts.conf says: of several words the node takes the last."""
    verity = Verity(60941, 60942, "a1" * 32, "b2" * 32)
    publish(tmp_path / "store", verity=verity)
    conf = LtsConf.parse(b'[default]\nKERNEL_CMDLINE = "quiet"\n')
    site = Site(tuple(Store(tmp_path / "store").images()), conf)
    plan = plan_node(site, NODE, Farm(address="10.9.0.1"))
    word = f"bootfarm.verity=1,4096,4096,60941,60942,sha256,{verity.root},{verity.salt}"
    assert plan.cmdline[-2:] == ("quiet", word)
    text = render_grub_cfg(plan, Menu())
    check_grub_script(text, tmp_path)
    assert f" 'quiet' '{word}' \"BOOTIF=" in text
    assert f" quiet {word} BOOTIF=" in render_ipxe(
        plan, Menu(), "http://10.9.0.1:8080", "/ltsp/amd64/boot.ipxe"
    )


def test_grub_cfg_without_serial_line(plan: BootPlan, tmp_path: Path) -> None:
    text = render_grub_cfg(plan, Menu(timeout=0, serial_unit=None))
    check_grub_script(text, tmp_path)
    assert "serial" not in text.replace("console=ttyS0", "").replace("serial line, whichever", "")
    assert "set timeout=0\n" in text


def test_grub_error(tmp_path: Path) -> None:
    text = render_grub_error(NODE, ERROR, Menu())
    check_grub_script(text, tmp_path)
    compare("grub-error.cfg", text)
    assert "sleep --interruptible 30" in text


def test_grub_held(plan: BootPlan, tmp_path: Path) -> None:
    text = render_grub_held(plan, Menu())
    check_grub_script(text, tmp_path)
    compare("grub-held.cfg", text)
    first = text.partition("menuentry")[2].partition("menuentry")[0]
    assert "linux" not in first, "nothing boots by itself"


def test_ipxe_held(plan: BootPlan) -> None:
    text = render_ipxe_held(plan, "http://10.9.0.1:8080", "/ltsp/amd64/boot.ipxe")
    compare("boot-held.ipxe", text)
    assert "--default again" in text


def test_ipxe(plan: BootPlan) -> None:
    text = render_ipxe(plan, Menu(), "http://10.9.0.1:8080", "/ltsp/amd64/boot.ipxe")
    compare("boot.ipxe", text)
    assert "choose" not in text, "it boots at once"


def test_ipxe_with_a_menu_that_waits(plan: BootPlan) -> None:
    text = render_ipxe(plan, Menu(timeout=5), "http://10.9.0.1:8080", "/ltsp/amd64/boot.ipxe")
    compare("boot-menu.ipxe", text)
    items = re.findall(r"^item --key \w (\S+) ", text, re.M)
    labels = re.findall(r"^:(\S+)$", text, re.M)
    assert "choose --timeout 5000 --default default chosen" in text
    assert set(items) == {"default", "again", "restart"} <= set(labels)


def test_ipxe_error() -> None:
    text = render_ipxe_error(NODE, ERROR, "http://10.9.0.1:8080", "/ltsp/amd64/boot.ipxe")
    compare("boot-error.ipxe", text)
    assert "${amd64}" not in text


@pytest.mark.parametrize("word", ["", "a b", "it's", "$x", '"', "\\", "a'b'c", "é"])
def test_a_grub_word_is_one_word_whatever_it_holds(word: str) -> None:
    # dash reads '…' as GRUB does.
    argv = ["dash", "-c", f"printf %s {quote_grub(word)}"]
    assert subprocess.run(argv, capture_output=True, text=True).stdout == word


def test_control_characters_never_reach_a_script() -> None:
    assert quote_grub("a\nb\x1b") == "'a?b?'"
    assert quote_ipxe("a\tb") == "a?b"


def test_ipxe_has_no_quoting() -> None:
    ends = ("||", "&&", ";", "#nosmt", "mitigations=auto #nosmt", 'x="a || b"', "a ; b")
    for word in ("${net0/mac}", *ends):
        with pytest.raises(QuotingError):
            quote_ipxe(word)
    assert quote_ipxe("a=$b") == "a=$b"
    assert quote_ipxe("a=b#c;d||e") == "a=b#c;d||e"
    assert quote_ipxe_text("${x} || y") == "$ {x} '||' y"
    assert quote_ipxe_text("a ; b #c") == "a ';' b '#c'"
