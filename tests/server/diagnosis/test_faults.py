"""The six faults that are also made by real boots (tests/e2e): their rules hold, and only then."""

import pytest

from server.diagnosis import FarmFacts
from tests.server.diagnosis.story import BIOS, FARM, START, UEFI, Story

TOO_LARGE = {
    "root": "live NBD (LTSP_NBD_TO_RAM: the image does not fit into free memory)",
    "cause": "too_large",
    **{"ram_image": "1894", "ram_system": "256", "ram_free": "1741", "ram_total": "2048"},
}


def test_bios_loader_on_a_uefi_machine_by_option_93() -> None:
    story = Story().dhcp(architecture=7, firmware="UEFI x64").tftp(BIOS).tftp(BIOS)
    found = story.finding()
    assert found is not None
    assert (found.rule, found.severity) == ("wrong-loader", "error")
    assert found.headline == (
        "It fetched core.0 but is a UEFI machine: option 93 (the client's architecture) was ignored"
        " by the site's DHCP."
    )
    assert "twice" in found.seen
    assert any("dhcp-config" in line for line in found.check)


def test_uefi_loader_on_a_bios_machine() -> None:
    found = Story().dhcp().tftp(UEFI).finding()
    assert found is not None
    assert found.rule == "wrong-loader"
    assert "fetched core.efi but is a BIOS machine" in found.headline


def test_bios_loader_on_a_uefi_machine_that_no_dhcp_of_ours_has_seen() -> None:
    story = Story(FarmFacts()).tftp(BIOS, options="tsize=0 blksize=1468 windowsize=4")
    assert story.rule() == "wrong-loader"
    story = Story(FarmFacts()).tftp(BIOS, options="tsize=0 blksize=1456")
    assert story.rule() is None
    assert story.wait(61).rule() == "loader-silent"


@pytest.mark.parametrize(("architecture", "path"), [(0, BIOS), (7, UEFI), (9, UEFI), (16, UEFI)])
def test_the_right_loader_is_none_of_the_wrong_ones(architecture: int, path: str) -> None:
    assert Story().dhcp(architecture=architecture).tftp(path).rule() is None


def test_tftp_that_nobody_acknowledges() -> None:
    story = Story().dhcp(architecture=7)
    for _ in range(4):
        story.tftp(UEFI, status="start", bytes=0).unanswered(UEFI)
    found = story.finding()
    assert found is not None
    assert found.rule == "tftp-no-ack"
    assert found.phase == "loader"
    assert found.headline == (
        "It asked for core.efi four times and never acknowledged our OACK: a firewall between you"
        " and the node drops UDP from ephemeral ports."
    )
    assert "single_port: true" in found.check[0]


def test_tftp_that_nobody_acknowledges_while_it_asks_again() -> None:
    story = Story().dhcp().unanswered(BIOS).tftp(BIOS, status="start", bytes=0)
    assert story.rule() == "tftp-no-ack"
    story.tftp(BIOS)
    assert story.rule() is None


def test_a_size_probe_that_is_left_alone_is_no_firewall() -> None:
    story = Story().dhcp().tftp(BIOS).unanswered(BIOS)
    story.menu()
    assert story.rule() is None


def test_without_options_it_is_the_first_block_and_single_port_has_other_words() -> None:
    story = Story(FarmFacts(single_port=True)).unanswered(BIOS, oack=False)
    found = story.finding()
    assert found is not None
    assert "never acknowledged our first block: answers from UDP 69 do not reach" in found.headline


def test_a_firewall_on_the_server_itself() -> None:
    said = "cannot send: Operation not permitted"
    found = Story().unanswered(BIOS, message=said, cause="network", errno="EPERM").finding()
    assert found is not None
    assert found.rule == "tftp-no-ack"
    assert "a firewall on the server itself drops UDP from ephemeral ports" in found.headline


def test_an_image_too_large_for_the_memory_is_told_even_when_all_is_up() -> None:
    story = Story().to_ready(**TOO_LARGE)
    found = story.finding()
    assert found is not None
    assert (found.rule, found.severity, found.phase) == ("image-too-large", "note", "root")
    assert found.headline == (
        "The image needs 2.1 GiB, the machine has 1.7 GiB free of 2 GiB: it falls back to live"
        " NBD and needs the server all the time."
    )
    assert Story().to_ready(root="RAM").rule() is None


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("nbd_refused", "refuses connections"),
        ("nbd_no_answer", "does not answer (a firewall drops it)"),
    ],
)
def test_nbd_port_closed(cause: str, words: str) -> None:
    said = "no root: nbdroot: no export /opt/ltsp/amd64@aa from 10.9.0.1 port 10809"
    story = Story().to_ltsconf().beacon("root", said, status="error", cause=cause)
    found = story.finding()
    assert found is not None
    assert found.rule == "nbd-unreachable"
    assert "NBD port 10809 of 10.9.0.1" in found.headline
    assert words in found.headline
    story.attach().beacon("root", "live NBD")
    assert story.rule() is None


def test_another_trouble_with_the_root_is_not_the_port() -> None:
    said = "no root: nbdroot: the server has no export /opt/ltsp/amd64@aa"
    assert (
        Story().to_ltsconf().beacon("root", said, "error", cause="no_export").rule()
        == "nbd-no-export"
    )
    said = "cannot make a loop device of the image in memory"
    assert (
        Story().to_ltsconf().beacon("root", said, "error", cause="no_loop").rule() == "root-failed"
    )


def test_token_expired() -> None:
    story = Story().to_join().failed_join("join_token", bootstrap="abcdef")
    found = story.finding()
    assert found is not None
    assert found.rule == "token-expired"
    assert found.headline == "kubeadm join: token expired or never made."
    assert "kubeadm token create" in found.check[0]
    story.beacon("rcfile", "RCFILE_07_JOIN: exit 1: kubeadm join: token refused", "error")
    assert story.rule() == "token-expired"


def test_token_expired_says_when_that_is_known() -> None:
    farm = FarmFacts(tokens={"abcdef": START - 3 * 3600})
    found = Story(farm).to_join().failed_join("join_token", bootstrap="abcdef").finding()
    assert found is not None
    assert found.headline == "kubeadm join: token expired 3 h ago."
    farm = FarmFacts(tokens={"abcdef": START + 3 * 3600})
    found = Story(farm).to_join().failed_join("join_token", bootstrap="abcdef").finding()
    assert found is not None
    assert "ends only in 3 h" in found.headline


def test_a_token_that_worked_once_says_when() -> None:
    story = Story().to_join().beacon("join", "try 1: joined", bootstrap="abcdef").wait(10_800)
    story.to_loader().see("beacon", "join", status="start", boot="two", detail="try 1")
    refused = {"status": "error", "boot": "two", "detail": "try 1: x", "cause": "join_token"}
    story.see("beacon", "join", **refused, bootstrap="abcdef")
    found = story.finding()
    assert found is not None
    assert found.rule == "token-expired"
    assert found.headline == (
        "kubeadm join: token expired or deleted; with it this machine joined 3 h ago."
    )
    story.see("beacon", "join", **refused, bootstrap="fedcba")
    found = story.finding()
    assert found is not None
    assert found.headline == "kubeadm join: token expired or never made."


def test_api_server_unreachable_also_while_the_next_try_runs() -> None:
    said = "curl: (7) Failed to connect to 10.9.0.20 port 6443 after 0 ms: Connection refused"
    story = Story().to_join().failed_join("join_away", said)
    found = story.finding()
    assert found is not None
    assert found.rule == "api-unreachable"
    assert found.headline == (
        "kubeadm join: the API server at 10.9.0.20 port 6443 does not answer this machine."
    )
    assert found.seen.endswith("Connection refused (once)")
    assert story.beacon("join", "try 2", "start").rule() == "api-unreachable"
    story.beacon("join", "try 2: joined as node-1")
    assert story.rule() is None


def test_the_farm_of_these_stories_is_beside_another_dhcp_server() -> None:
    assert FARM.dhcp == "proxy"
