"""ltsp.conf becomes lts.conf: each documented parameter, and what machines get in both."""

import subprocess
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.ltsconf.conf import LtsConf, NodeId, encode
from server.ltsconf.ltsp23.convert import Imported, import_text
from server.ltsconf.ltsp23.evaluate import evaluate
from server.ltsconf.ltsp23.note import CHECK, LEFT
from server.ltsconf.ltsp23.read import read_sections
from server.ltsconf.ltsp23.table import Left, map_parameter

MAC = "52:54:00:00:00:01"
# Of ltsp.conf(5), LTSP 23, and the parameters that its scripts name as theirs (`@LTSP.CONF:`).
CARRIED = {
    'CRONTAB_x="30 15   * * *   root    poweroff"': {"CRONTAB_X": "30 15 * * * poweroff"},
    'CRONTAB_x="@daily root date"': {"CRONTAB_X": "@daily date"},
    'DNS_SERVER="8.8.8.8 208.67.222.222"': {"DNS_SERVER": "8.8.8.8 208.67.222.222"},
    'FSTAB_x="nas:/home /home nfs defaults,nolock 0 0"': {
        "FSTAB_X": "nas:/home /home nfs defaults,nolock 0 0"
    },
    "HOSTNAME=pc01": {"HOSTNAME": "pc01"},
    'HOSTNAME="ltsp%{IP}"': {"HOSTNAME_BASE": "ltsp", "HOSTNAME_EXTRA": "ip"},
    "HOSTNAME=pc-%{MAC}": {"HOSTNAME_BASE": "pc-", "HOSTNAME_EXTRA": "mac"},
    'HOSTS_x="192.168.67.10 nfs-server"': {"HOSTS_X": "192.168.67.10 nfs-server"},
    "IMAGE_TO_RAM=1": {"LTSP_NBD_TO_RAM": "true"},
    "IMAGE_TO_RAM=0": {"LTSP_NBD_TO_RAM": "false"},
    'KEEP_SYSTEM_SERVICES="anydesk ssh"': {"KEEP_SYSTEM_SERVICES": "anydesk ssh"},
    'DISABLE_SYSTEM_SERVICES="anydesk"': {"RM_SYSTEM_SERVICES": "anydesk"},
    'MASK_SYSTEM_SERVICES="apt-daily rsyslog"': {"RM_SYSTEM_SERVICES": "apt-daily rsyslog"},
    'DISABLE_SYSTEM_SERVICES="a b"\nMASK_SYSTEM_SERVICES="b c"': {"RM_SYSTEM_SERVICES": "a b c"},
    'POST_INIT_LN="ln -sf /a /b"': {"PREINIT_LN": "ln -sf /a /b"},
    "SEARCH_DOMAIN=ioa.sch.gr": {"SEARCH_DOMAIN": "ioa.sch.gr"},
    "DEFAULT_IMAGE=x86_64": {"IMAGE": "x86_64"},
    'KERNEL_PARAMETERS="nomodeset noapic"': {"KERNEL_CMDLINE": "nomodeset noapic"},
    # The shell's ways to write a value.
    """HOSTS_x='1.2.3.4 "a"  b'""": {"HOSTS_X": '1.2.3.4 "a"  b'},
    "HOSTS_x=1.2.3.4\\ a # b": {"HOSTS_X": "1.2.3.4 a"},
    "HOSTS_1=1.2.3.4 HOSTS_2=x": {"HOSTS_1": "1.2.3.4", "HOSTS_2": "x"},
    "  HOSTS_x=1": {"HOSTS_X": "1"},
    "HOSTS_x = 1": {"HOSTS_X": "1"},
    "HOSTS_x=1\nHOSTS_x=2": {"HOSTS_X": "2"},
}
LEFT_OUT = (
    *("ADD_IMAGE_EXCLUDES", "OMIT_IMAGE_EXCLUDES", "AUTOLOGIN", "RELOGIN", "GDM3_CONF"),
    *("LIGHTDM_CONF", "SDDM_CONF", "SLICK_CONF", "CUPS_SERVER", "DEBUG_LOG", "DEBUG_SHELL"),
    *("MENU_TIMEOUT", "DISABLE_SESSION_SERVICES", "KEEP_SESSION_SERVICES", "LTSP_DEBUG"),
    *("MASK_SESSION_SERVICES", "LOCAL_SWAP", "MULTISEAT", "UDEV_SEAT_1_SOUND", "NAT", "IMAGE"),
    *("OMIT_FUNCTIONS", "PASSWORDS_x", "POST_LOGIN_x", "PRE_INIT_x", "PWMERGE_SUR", "PWMERGE_SGR"),
    *("PWMERGE_DGR", "PWMERGE_DUR", "REMOTEAPPS", "RPI_IMAGE", "SERVER", "X_DRIVER", "X_MODES"),
    *("X_HORIZSYNC", "X_MODELINE", "X_PREFERREDMODE", "X_VERTREFRESH", "X_VIRTUAL", "LTSPDM_USERS"),
    *("BASE_DIR", "TFTP_DIR", "HOME_DIR", "IGNORE_EPOPTES", "PAM_AUTH_TYPE", "SSH_SERVER"),
    *("SSH_OPTIONS", "IPXE_X86_32_IMG"),
)


def give(text: str, node: NodeId = NodeId(mac=MAC)) -> Mapping[str, str]:  # noqa: B008
    return LtsConf.parse(import_text(text).text.encode()).resolve(node)


def notes_of(found: Imported, kind: str) -> list[tuple[int, str]]:
    return [(note.line, note.name) for note in found.notes if note.kind == kind]


@pytest.mark.parametrize("line", CARRIED)
def test_what_maps(line: str) -> None:
    found = import_text(f"[{MAC}]\n{line}\n")
    assert notes_of(found, LEFT) == []
    assert found.carried == line.count("\n") + 1
    assert dict(LtsConf.parse(found.text.encode()).resolve(NodeId(mac=MAC))) == CARRIED[line]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_does_not_map_is_told_with_reason_and_remedy(name: str) -> None:
    outcome = map_parameter(name, "1")
    assert isinstance(outcome, Left)
    assert "no such parameter" not in outcome.why
    assert outcome.hint
    found = import_text(f"[{MAC}]\n\n{name}=1\n")
    assert notes_of(found, LEFT) == [(3, name)]
    assert found.carried == 0
    LtsConf.parse(found.text.encode())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("NO_SUCH_THING=1", "ltsp.conf(5) has no such parameter"),
        ("hostname=pc01", "ltsp.conf(5) has no such parameter"),
        ('DNS_SERVER="$SERVER"', "the shell computes a part of it ($SERVER)"),
        ("HOSTNAME=%{IP}", "computed on the machine"),
        ('HOSTNAME="pc%{HOSTNAME#x}"', "computed on the machine"),
        ('HOSTS_x="a\nb"', "several lines"),
        ('CRONTAB_x="0 4 * * * joe date"', "it runs as joe"),
        ('CRONTAB_x="PATH=/bin"', "no line of /etc/cron.d"),
        ('POST_INIT_x="section_root_hash"', "calls the section section_root_hash"),
        ("DEFAULT_IMAGE=Debian_12", "no name that an image of bootfarm can have"),
        ("sed -i s/a/b/ /etc/x", "a command of the shell"),
        ("export DNS_SERVER=1", "a command of the shell"),
        ("DNS_SERVER=1; HOSTNAME=x", "a command of the shell"),
        ("DNS_SERVER='1", "a command of the shell"),
        ("INCLUDE=nothing", "there is no section [nothing]"),
    ],
)
def test_lines_that_cannot_be(line: str, says: str) -> None:
    found = import_text(f"[{MAC}]\n{line}\n")
    (note,) = [note for note in found.notes if note.kind == LEFT]
    assert note.line == 2
    assert says in note.why
    assert note.hint
    assert dict(LtsConf.parse(found.text.encode()).resolve(NodeId(mac=MAC))) == {}


def test_everybodys_sections_are_the_default() -> None:
    text = (
        "DNS_SERVER=unnamed\nHOSTS_1=u\n[common]\nDNS_SERVER=common\n[clients]\nDNS_SERVER=clients\n"
        "INCLUDE=group\n[group]\nSEARCH_DOMAIN=g\nINCLUDE=more\n[more]\nHOSTS_2=m\nINCLUDE=group\n"
    )
    assert give(text) == {
        "DNS_SERVER": "common",
        "HOSTS_1": "u",
        "SEARCH_DOMAIN": "g",
        "HOSTS_2": "m",
    }
    assert import_text(text).notes == ()


def test_what_the_menu_gets_by_mac_or_from_the_server() -> None:
    text = (
        "[server]\nDEFAULT_IMAGE=a\nHOSTNAME=x\n[clients]\nKERNEL_PARAMETERS=never\n"
        f"[{MAC}]\nKERNEL_PARAMETERS=quiet\n[pc*]\nDEFAULT_IMAGE=b\n"
    )
    assert give(text) == {"IMAGE": "a", "KERNEL_CMDLINE": "quiet"}
    assert give(text, NodeId(hostname="pc1")) == {"IMAGE": "a"}
    found = import_text(text)
    assert notes_of(found, LEFT) == [
        (3, "HOSTNAME"),
        (5, "KERNEL_PARAMETERS"),
        (9, "DEFAULT_IMAGE"),
    ]


def test_one_section_for_several_patterns() -> None:
    text = "[b8:27:eb:*|pc0?]\nHOSTS_1=x\n"
    for node in (NodeId(mac="b8:27:eb:01:02:03"), NodeId(hostname="pc07")):
        assert give(text, node) == {"HOSTS_1": "x"}
    assert give(text, NodeId(hostname="pc007")) == {}


def test_includes_come_in_ltsps_order() -> None:
    text = f"[{MAC}]\nHOSTS_1=own\nINCLUDE=a\nINCLUDE=B\nHOSTS_2=own\n[a]\nHOSTS_2=a\nHOSTS_3=a\n"
    text += "[b]\nHOSTS_1=b\nHOSTS_3=b\n"
    assert give(text) == {"HOSTS_1": "b", "HOSTS_2": "own", "HOSTS_3": "b"}
    (note,) = import_text(text).notes
    assert (note.line, note.kind) == (2, LEFT)
    assert "the INCLUDE of line 4 sets it again" in note.why


def test_a_section_by_name_and_one_by_mac_of_the_same_machine() -> None:
    text = f"[{MAC}]\nHOSTNAME=pc01\nHOSTS_1=mac\nHOSTS_2=mac\n[pc01]\nHOSTS_2=name\n"
    found = import_text(text)
    node = NodeId("pc01", None, MAC)
    assert give(text, node) == {"HOSTNAME": "pc01", "HOSTS_1": "mac", "HOSTS_2": "name"}
    (note,) = found.notes
    assert note.kind == CHECK
    assert "the server knows its name" in note.why


def test_a_value_that_changes_on_the_way_is_told() -> None:
    """In LTSP 23 of all sections that match an id the first counts, and here both."""
    text = "[pc*]\nHOSTS_1=glob\n[pc01]\nHOSTS_1=one\n"
    (note,) = import_text(text).notes
    assert (note.line, note.kind) == (3, CHECK)
    assert 'pc01 has HOSTS_1 "glob" in LTSP 23, and "one" here' in note.why
    assert note.hint == "write HOSTS_1 into [pc01]"


def test_an_order_that_changes_on_the_way_is_told() -> None:
    assert import_text(f"[{MAC}]\nPOST_INIT_01=a\nPOST_INIT_02_x=b\n").notes == ()
    text = f"[{MAC}]\nPOST_INIT_10=a\nPOST_INIT_9=b\n"
    (note,) = import_text(text).notes
    assert "PREINIT_* come in another order: PREINIT_9, PREINIT_10" in note.why


@pytest.mark.parametrize(
    ("text", "kept", "left"),
    [
        ("[a]\nHOSTS_1=1\n[a]\nHOSTS_1=2\n", {"HOSTS_1": "2"}, ["[a]"]),
        ("[clients]\nHOSTS_1=1\n[clients]\nHOSTS_2=2\n", {"HOSTS_2": "2"}, ["[clients]"]),
        ("[init/a]\nHOSTS_1=1\n[]\nHOSTS_1=1\n", {}, ["[init/a]", "[]"]),
        ("[default]\nHOSTS_1=1\n", {}, []),
        ("[default]\nHOSTS_1=1\n[a]\nINCLUDE=default\n", {"HOSTS_1": "1"}, []),
        ("[A] # x\nHOSTS_1=1\n", {"HOSTS_1": "1"}, []),
        ("[a]\nINCLUDE=b\n[b]\n# nothing\nINCLUDE=a\n", {}, []),
        ("[a]\nHOSTS_1=1\nINCLUDE=a\nINCLUDE=clients\n[clients]\n", {"HOSTS_1": "1"}, []),
    ],
)
def test_strange_sections(text: str, kept: dict[str, str], left: list[str]) -> None:
    assert give(text, NodeId(hostname="a")) == kept
    assert [name for _, name in notes_of(import_text(text), LEFT)] == left


def run_ltsp(text: str, node: NodeId) -> dict[str, str]:
    """What the shell makes of it: sections as functions, called in LTSP's order."""
    lines = ["section_0() {\n:"]
    cases = ["unnamed) section_0 ;;"]
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("["):
            name = f"section_{number}"
            lines.append(f'}}\n{name}() {{\ntest "${name}" = 1 && return 0 || {name}=1')
            cases.append(f"{line.strip('[]').lower()}) {name} ;;")
        elif line.startswith("INCLUDE="):
            lines.append(f'call "{line.removeprefix("INCLUDE=")}"')
        else:
            lines.append(line)
    ids = " ".join(f'"{one}"' for one in (node.mac, node.ip, node.hostname) if one)
    script = "\n".join(lines) + "\n}\ncall() {\nfor word; do case $word in\n"
    script += "\n".join(cases) + f"\nesac; done\n}}\ncall unnamed clients common {ids}\n"
    script += 'for key in HOSTS_1 HOSTS_2 HOSTS_3; do eval "value=\\${$key-unset}"\n'
    script += "printf '%s=%s\\n' $key \"$value\"; done\n"
    done = subprocess.run(["sh"], input=script.encode(), capture_output=True, check=True)
    pairs = [line.split("=", 1) for line in done.stdout.decode().splitlines()]
    return {key: value for key, value in pairs if value != "unset"}


NAMES = ["clients", "common", MAC, "52:54:*", "10.9.0.11", "10.9.*", "pc01", "pc*|x", "a", "b"]
FILES = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.lists(
            st.sampled_from(["HOSTS_1", "HOSTS_2", "HOSTS_3", "INCLUDE=a", "INCLUDE=b"]), max_size=4
        ),
    ),
    max_size=6,
    unique_by=lambda one: one[0],
)


@settings(max_examples=150, deadline=None)
@given(FILES)
def test_machines_get_what_ltsp_gives_them_or_it_is_told(
    file: list[tuple[str, list[str]]],
) -> None:
    text = ""
    for name, lines in file:
        text += f"[{name}]\n"
        for line in lines:
            text += f"{line}\n" if "=" in line else f"{line}=line_{text.count(chr(10))}\n"
    found = import_text(text)
    conf = LtsConf.parse(found.text.encode())
    told = {note.name for note in found.notes if note.kind == CHECK}
    sections = read_sections(text)
    for node, name in (
        (NodeId(mac=MAC), f"[{MAC}]"),
        (NodeId(ip="10.9.0.11"), "[10.9.0.11]"),
        (NodeId(hostname="pc01"), "[pc01]"),
    ):
        theirs = run_ltsp(text, node)
        assert {key: one.value for key, one in evaluate(sections, node).items()} == theirs
        if f"{name}\n" in text and name not in told:
            assert dict(conf.resolve(node)) == theirs


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="[]=ab|*/#'\"\\$% \n\r\t\x85\udc80\x00INCLUDE_x1:.", max_size=60))
def test_any_text_becomes_an_lts_conf(text: str) -> None:
    LtsConf.parse(encode(import_text(text).text))
