import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.events import Event
from server.ltsconf import LtsConf, LtsTemplate
from server.observe.secrecy import MASK, Secrecy, is_secret_name

SECRETS = {
    "token": "hunter2-and-more",
    "short": "abc",
    "nested": {"key": "-----BEGIN X-----\nline-of-a-key\n"},
}


def mask(text: str) -> str:
    return Secrecy(lambda: SECRETS).mask(text)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("kubeadm join a:6443 --token abcdef.0123456789abcdef", "kubeadm join a:6443 --token §"),
        ("kubeadm join --token=x --v=5", "kubeadm join --token=§ --v=5"),
        (
            "--discovery-token-ca-cert-hash sha256:00ff --certificate-key 12ab",
            "--discovery-token-ca-cert-hash sha256:00ff --certificate-key §",
        ),
        ('--token "two words" x', "--token § x"),
        ("the token abcdef.0123456789abcdef is expired", "the token § is expired"),
        ("PASSWORD=hunter2", "PASSWORD=§"),
        ('{"password": "a b", "user": "c"}', '{"password": §, "user": "c"}'),
        ("Authorization: Bearer abcdefgh.ijkl", "Authorization: Bearer §"),
        ("https://me:pass@host/x", "https://me:§@host/x"),
        ("root:$6$salt$abcdefghijkl:1", "root:§:1"),
        ("x eyJhbGciOiJSUzI1NiJ9.eyJzdWIi.sig y", "x § y"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nafter",
            "-----BEGIN RSA PRIVATE KEY-----§-----END RSA PRIVATE KEY-----\nafter",
        ),
        ("-----BEGIN PRIVATE KEY-----\nMIIE", "-----BEGIN PRIVATE KEY-----§"),
        ("says hunter2-and-more twice: hunter2-and-more", "says § twice: §"),
        ("abc", "§"),
        ("the abc of it", "the abc of it"),
        ("has line-of-a-key inside", "has § inside"),
    ],
)
def test_what_is_masked(text: str, masked: str) -> None:
    assert mask(text) == masked.replace("§", MASK)


@pytest.mark.parametrize(
    "text",
    [
        "/ltsp/amd64/grub/x86_64-efi/core.efi",
        "RCFILE_07: exit 1",
        "RCFILE_06_OLD_TOKEN: exit 1: no route",
        "kubeadm join: the API server 10.9.0.1:6443 is unreachable",
        "amd64@0123456789ab",
        "tokens are short-lived",
        "password",
        "",
    ],
)
def test_what_is_left_as_it_is(text: str) -> None:
    assert mask(text) == text


@given(st.text())
def test_masking_twice_changes_nothing_more(text: str) -> None:
    once = mask(text + " --token x")
    assert mask(once) == once


@pytest.mark.parametrize(
    "piece", ["-a", "a-", "--a-", "token ", "a.", "a://", "-----BEGIN PRIVATE KEY-----", "eyJa"]
)
def test_no_text_takes_long(piece: str) -> None:
    text = piece * 20_000  # quadratic work on it would take minutes
    assert len(mask(text)) <= len(text)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("JOIN_TOKEN", True),
        ("ROOT_PASSWORD", True),
        ("root_passwd_1", True),
        ("SSH_KEY", True),
        ("API_KEY_2", True),
        ("WIFI_PSK", True),
        ("XKBMODEL", False),
        ("KEEP_SYSTEM_SERVICES", False),
        ("RCFILE_01", False),
        ("PASSAGE", False),
        ("TIMESERVER", False),
    ],
)
def test_names_of_secrets(name: str, secret: bool) -> None:
    assert is_secret_name(name) == secret
    assert Secrecy().mask_value(name, "value") == (MASK if secret else "value")


def test_of_an_event_only_free_texts_are_masked() -> None:
    secrecy = Secrecy(lambda: {"a": "amd64-secret"})
    path = "/ltsp/amd64-secret/vmlinuz"
    event = Event(1.0, "10.9.0.1", "http", "transfer", {"path": path, "bytes": 5})
    assert secrecy.mask_event(event) is event
    told = Event(1.0, "10.9.0.1", "beacon", "join", {"detail": "--token amd64", "status": "error"})
    assert secrecy.mask_event(told).detail == {"detail": f"--token {MASK}", "status": "error"}
    assert told.detail["detail"] == "--token amd64"


def test_what_others_said_of_a_join_is_masked_as_the_words_are() -> None:
    secrecy = Secrecy(lambda: {"join": "abcdef.0123456789abcdef"})
    said = {"said": "unknown flag: --x --token y", "bootstrap": "abcdef.0123456789abcdef"}
    told = Event(1.0, "10.9.0.1", "beacon", "join", {**said, "status": "error"})
    assert secrecy.mask_event(told).detail == {
        "said": f"unknown flag: --x --token {MASK}",
        "bootstrap": MASK,
        "status": "error",
    }
    known = Event(1.0, "10.9.0.1", "beacon", "join", {"bootstrap": "abcdef"})
    assert secrecy.mask_event(known) is known, "the public half"


def test_new_secrets_count_at_once() -> None:
    present: list[dict[str, str]] = [{}]
    secrecy = Secrecy(lambda: present[0])
    assert secrecy.mask("a new-secret") == "a new-secret"
    present[0] = {"x": "new-secret\n"}
    assert secrecy.mask("a new-secret") == f"a {MASK}"


CONF = b"""[default]
ROOT_PASSWORD = "correct horse"
RCFILE_01 = "tool --api-key 'k-0815-long' --verbose"
TIMEZONE = Europe/Berlin
[x]
WIFI_PSK = battery-staple
"""


@pytest.mark.parametrize("head", [b"", b"# jinja2\nLOGIN_TOKEN = {{ secrets.a }}\n"])
def test_what_stands_in_lts_conf_is_known_everywhere(head: bytes) -> None:
    text = head + CONF
    conf = LtsTemplate.parse(text) if head else LtsConf.parse(text)
    secrecy = Secrecy(dict, lambda: conf)
    words = "said correct horse, k-0815-long and battery-staple at Europe/Berlin {{ secrets.a }}"
    masked = "said §, § and § at Europe/Berlin {{ secrets.a }}".replace("§", MASK)
    assert secrecy.mask(words) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("x eyJhbGciOiJ.abc.def y", "x (secret) y"),
        ("auth-eyJhbGciOiJIUzI1NiJ9.abc", "auth-(secret)"),
        ("-eyJ-eyJ-eyJhbGciOiJIUzI1NiJ9.abc", "-(secret)"),
        ("-eyJ-eyJ-eyJ-eyJ-", "-eyJ-eyJ-eyJ-eyJ-"),
        ("my_eyJhbGciOiJIUz.x", "my_eyJhbGciOiJIUz.x"),
    ],
)
def test_json_web_tokens(text: str, masked: str) -> None:
    assert Secrecy().mask(text) == masked
