"""The status page in Chromium: live, searched, dark and light, on a phone. Writes screenshots.

They go to build/screenshots/, for people to look at.
"""

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from server.events import Event
from server.nodes.timelines import Nodes
from tests.browser import Browser, browser
from tests.server.farm import publish

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
SHOTS = Path("build/screenshots")
SIZES = {"phone": (390, 844), "desktop": (1280, 800)}
SERVE = (sys.executable, "-c", "from bootfarm import main; main()", "serve")
TOKEN = "abcdef.0123456789abcdef"
JOIN = f"kubeadm join 10.9.0.1:6443 --token {TOKEN} --discovery-token-ca-cert-hash sha256:00ff"
LTS_CONF = f"""[default]
TIMESERVER = 10.9.0.1
KEEP_SYSTEM_SERVICES = "ssh docker"
ROOT_PASSWORD = correct-horse
RCFILE_01 = "systemctl start docker"
[node-*]
RCFILE_07_JOIN_K8S = "{JOIN}"
[node-3]
TIMEZONE = Europe/Berlin
"""
COUNT = 12
PANIC = (
    "[   61.001200] EXT4-fs (sda1): mounted filesystem",
    "[   61.220411] BUG: unable to handle page fault for address: ffffb0d2c0a41000",
    "[   61.220933] CPU: 3 PID: 811 Comm: kubelet Not tainted 6.1.0-49-amd64",
    "[   61.221377] Call Trace:",
    "[   61.221391]  do_user_addr_fault+0x1dd/0x6b0",
    "[   61.229004] Kernel panic - not syncing: Fatal exception in interrupt",
)


def mac_of(number: int) -> str:
    return f"52:54:00:00:00:{number:02x}"


def ip_of(number: int) -> str:
    return f"127.0.1.{number}"


class Farm:
    """A server whose nodes are at loopback addresses."""

    def __init__(self, base: Path, config: str = "", more: int = 0) -> None:
        """more: machines of the inventory that were never seen."""
        self.base = base
        self.image = publish(base / "store", lts_defaults={"LTSP_NBD_TO_RAM": "true"})
        (base / "lts.conf").write_text(LTS_CONF)
        lines = [
            f"- {{mac: '{mac_of(n)}', ip: {ip_of(n)}, hostname: node-{n}, serial: 7CX{n:04d},"
            f" labels: {{rack: r1, row: {1 + n % 2 if n < COUNT else 3}}}}}"
            for n in range(1, COUNT + more)
        ]
        listed = "inventory:\n  " + "\n  ".join(lines)
        logs = "logs: {syslog: 0, netconsole: 0}"
        (base / "farm.yaml").write_text(f"{listed}\n{logs}\n{config}\n")
        self._seed(base / "state" / "nodes")
        log = (base / "log").open("w")
        argv = [
            *(*SERVE, "--config", str(base / "farm.yaml"), "--store", str(base / "store")),
            *("--lts-conf", str(base / "lts.conf"), "--state", str(base / "state")),
            *("--services", "http", "--listen", "0.0.0.0", "--http-port", "0"),
        ]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "ready" in line, (base / "log").read_text()
        self.port, self.netconsole = (
            int(line.partition(f"{name} ")[2].replace(";", ",").split(",")[0])
            for name in ("http", "netconsole")
        )
        self.url = f"http://127.0.0.1:{self.port}"

    def _seed(self, directory: Path) -> None:
        """Boots as servers before this one have seen them."""
        now = time.time()

        def identify(ip: str) -> tuple[str, str]:
            number = int(ip.rpartition(".")[2])
            return mac_of(number), f"node-{number}"

        nodes = Nodes(identify)
        path = f"/ltsp/amd64/@{self.image.digest}"

        def see(number: int, ago: float, phase: str, **detail: str | int | float) -> None:
            source = "tftp" if "path" in detail else "beacon"
            what = "transfer" if "path" in detail else phase
            if "path" in detail:
                began = Event(
                    now - ago - 2,
                    ip_of(number),
                    source,
                    what,
                    {"status": "start", "path": detail["path"]},
                )
                nodes.record(began)
            nodes.record(Event(now - ago, ip_of(number), source, what, {"status": "ok"} | detail))

        for number in range(1, COUNT):
            for boot, base in ((0, 90_000), (1, 700)):
                start = base + 40 * number
                core = "/ltsp/amd64/grub/x86_64-efi/core.efi"
                see(number, start, "loader", path=core, bytes=250_000, seconds=0.4)
                see(number, start - 2, "menu", path="/ltsp/amd64/grub/grub.cfg", bytes=800)
                if number == 5 and boot:
                    continue
                see(
                    number,
                    start - 4,
                    "kernel",
                    path=f"{path}/vmlinuz",
                    bytes=8_100_000,
                    seconds=1.8,
                )
                see(
                    number, start - 7, "initrd", path=f"{path}/initrd.img",
                    bytes=14_200_000, seconds=2.6, retries=number % 3,
                )  # fmt: skip
                begin = {"boot": f"boot-{number}-{boot}"}
                see(number, start - 12, "initramfs", **begin)
                see(number, start - 13, "network", **begin)
                see(number, start - 14, "ltsconf", **begin)
                see(number, start - 16, "root", **begin)
                if number == 7 and boot:
                    continue
                see(number, start - 21, "systemd", **begin)
                see(number, start - 27, "rcfile", detail="RCFILE_01: exit 0", **begin)
                see(number, start - 28, "join", status="start", **begin)
                if number == 3 and boot:
                    words = "kubeadm: the bootstrap token abcdef expired 3 h ago"
                    see(number, start - 40, "join", status="error", detail=words, **begin)
                    continue
                see(number, start - 58, "join", **begin)
                see(number, start - 66, "ready", **begin)
                if number == 9 and boot:
                    see(number, 70, "shutdown", **begin)
        nodes.save(directory)

    def beacon(self, number: int, phase: str, **fields: str) -> None:
        """What a node tells, from its own address."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=20, source_address=(ip_of(number), 0)
        )
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/beacon", urlencode({"phase": phase, **fields}), kind)
        answer = connection.getresponse()
        assert answer.status == 204, answer.read()
        connection.close()

    def say(self, number: int, *lines: str) -> None:
        """What a node's kernel sends by netconsole."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((ip_of(number), 0))
            for line in lines:
                sock.sendto(f"{line}\n".encode(), ("127.0.0.1", self.netconsole))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    farm = Farm(tmp_path_factory.mktemp("page"))
    yield farm
    farm.stop()


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as tab:
        yield tab


@pytest.fixture(autouse=True)
def no_complaints(tab: Browser) -> Iterator[None]:
    """A page that writes to the console has a fault."""
    tab.messages.clear()
    tab.look_as(*SIZES["desktop"])
    yield
    tab.allow_scripts(True)
    assert tab.messages == []


def text_of(tab: Browser, selector: str) -> str:
    return str(tab.run(f"document.querySelector({selector!r}).innerText"))


def row_of(number: int) -> str:
    return f"document.getElementById('n-{mac_of(number)}')"


def test_rows_of_the_list(farm: Farm, tab: Browser) -> None:
    tab.open(f"{farm.url}/")
    tab.wait_for("document.getElementById('live').textContent == 'live'")
    assert tab.run("document.querySelectorAll('#rows > tr').length") == COUNT - 1
    row = tab.run(f"{row_of(3)}.innerText")
    for words in ("node-3", mac_of(3), ip_of(3), "7CX0003", farm.image.digest[:12], "needs a look"):
        assert words in row
    assert "expired 3 h ago" in row
    assert tab.run(f"{row_of(3)}.querySelectorAll('.bar .error').length") == 1
    assert tab.run(f"{row_of(3)}.querySelectorAll('.bar i').length") == 14


def test_it_is_live_without_being_loaded_again(farm: Farm, tab: Browser) -> None:
    tab.open(f"{farm.url}/")
    tab.wait_for("document.getElementById('live').textContent == 'live'")
    tab.run("window.mark = 'the same page'; document.querySelector('#rows a').focus()")
    focused = tab.run("document.activeElement.getAttribute('href')")
    farm.beacon(4, "initramfs", boot="now")
    tab.wait_for(f"{row_of(4)}.innerText.includes('booting')")
    farm.beacon(4, "join", status="error", boot="now", detail=f"join --token {TOKEN} was refused")
    tab.wait_for(f"{row_of(4)}.innerText.includes('needs a look')")
    assert tab.run("document.querySelector('#rows tr').id") == f"n-{mac_of(3)}", "in its place"
    tab.wait_for("document.getElementById('causes').innerText.includes('node-4')")
    assert "join" in tab.run(f"{row_of(4)}.innerText")
    assert tab.run("window.mark") == "the same page"
    assert tab.run("document.activeElement.getAttribute('href')") == focused
    assert TOKEN not in tab.run("document.documentElement.outerHTML")
    farm.beacon(4, "join", boot="now")
    farm.beacon(4, "ready", boot="now")
    tab.wait_for(f"{row_of(4)}.innerText.includes('ready')")


def test_ages_go_on_by_themselves(farm: Farm, tab: Browser) -> None:
    farm.beacon(6, "ready")
    tab.open(f"{farm.url}/?q=node-6")
    tab.wait_for(f"['2 s', '3 s'].includes({row_of(6)}.querySelector('time').textContent)")


def test_search_while_typing_and_the_address_of_it(farm: Farm, tab: Browser) -> None:
    tab.open(f"{farm.url}/")
    tab.run("document.getElementById('q').focus()")
    tab.type("7cx0003")
    tab.wait_for("document.querySelectorAll('#rows > tr').length == 1")
    assert "node-3" in text_of(tab, "#rows")
    assert tab.run("location.search") == "?q=7cx0003"
    assert tab.run("document.activeElement.id") == "q"
    tab.open(f"{farm.url}/?q=52-54-00-00-00-0b")
    assert "node-11" in text_of(tab, "#rows")


def test_filters_are_chosen_without_a_button(farm: Farm, tab: Browser) -> None:
    tab.open(f"{farm.url}/")
    tab.wait_for("document.getElementById('live').textContent == 'live'")
    choose = """(() => {
      const one = document.querySelector('select[name="label.row"]');
      one.focus(); one.value = '2';
      one.dispatchEvent(new Event('change', {bubbles: true}));
    })()"""
    tab.run(choose)
    tab.wait_for("document.querySelectorAll('#rows > tr').length == 6")
    assert tab.run("location.search") == "?label.row=2"
    tab.run("document.querySelector('.states .look').click()")
    tab.wait_for(
        "location.search.includes('state=look') && document.getElementById('rows') !== null"
    )
    assert "label.row=2" in tab.run("location.search")


def test_one_cause_leads_to_its_machines(farm: Farm, tab: Browser) -> None:
    tab.open(f"{farm.url}/")
    words = text_of(tab, "#causes")
    assert "expired … ago" in words
    assert "node-3" in words
    tab.run(
        "[...document.querySelectorAll('#causes a')]"
        ".find((one) => one.innerText.includes('expired')).click()"
    )
    tab.wait_for("location.search.includes('cause=') && document.getElementById('rows') !== null")
    assert f"n-{mac_of(3)}" in tab.run(
        "[...document.querySelectorAll('#rows > tr')].map(r => r.id)"
    )


def test_keys_and_copies(farm: Farm, tab: Browser) -> None:
    tab.open(f"{farm.url}/")
    tab.wait_for("document.documentElement.classList.contains('js')")
    tab.run("document.body.focus()")
    for key, name in (("j", "node-3"), ("j", "node-5"), ("k", "node-3")):
        tab.run(
            f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', "
            f"{{key: '{key}', bubbles: true}}))"
        )
        assert tab.run("document.activeElement.innerText") == name
    tab.run("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '/', bubbles: true}))")
    assert tab.run("document.activeElement.id") == "q"
    tab.run("document.querySelector('#rows .copy').click()")
    tab.wait_for("['copied', 'no'].includes(document.querySelector('#rows .copy').textContent)")


def test_a_machine_is_forgotten(farm: Farm, tab: Browser) -> None:
    farm.beacon(12, "initramfs", boot="x")
    tab.open(f"{farm.url}/nodes/{ip_of(12)}")
    tab.wait_for("document.documentElement.classList.contains('js')")
    tab.run("window.confirm = () => true; document.querySelector('[data-forget]').click()")
    tab.wait_for("location.pathname == '/' && document.getElementById('rows') !== null")
    assert ip_of(12) not in text_of(tab, "#rows")


@pytest.mark.parametrize("size", list(SIZES))
def test_a_rack_of_forty_on_one_screen(tab: Browser, tmp_path: Path, size: str) -> None:
    rack = Farm(tmp_path, more=29)
    try:
        width, height = SIZES[size]
        tab.look_as(width, height, phone=size == "phone")
        tab.open(f"{rack.url}/?view=dense&label.rack=r1")
        tab.wait_for("document.getElementById('live').textContent == 'live'")
        assert tab.run("document.querySelectorAll('#rows > li').length") == 40
        low = (
            "Math.max(...[...document.querySelectorAll('#rows > li')]"
            ".map((one) => one.getBoundingClientRect().bottom))"
        )
        assert tab.run(low) <= height
        assert tab.run(f"document.documentElement.scrollWidth <= {width}"), tab.run(OUTSIDE)
        assert tab.run(CONTRAST) == []
        tab.shoot(SHOTS / f"dense-{size}.png")
    finally:
        rack.stop()
        tab.open("about:blank")
        tab.messages.clear()


def test_it_works_without_scripts(farm: Farm, tab: Browser) -> None:
    tab.allow_scripts(False)
    tab.open(f"{farm.url}/?q=node-3")
    assert "expired 3 h ago" in text_of(tab, "#rows")
    assert text_of(tab, "#live").startswith("as of ")
    assert tab.run("document.querySelector('noscript meta').httpEquiv") == "refresh"
    assert tab.run("document.getElementById('find').method") == "get"


def test_by_keyboard(farm: Farm, tab: Browser) -> None:
    tab.open(f"{farm.url}/")
    seen = []
    for _ in range(30):
        tab.press("Tab", 9)
        seen.append(
            tab.run("(document.activeElement.getAttribute('href') || document.activeElement.id)")
        )
        assert tab.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert seen[:3] == ["#main", "/", "q"]
    assert "/?state=look" in seen
    assert any(str(one).startswith("/nodes/") for one in seen)
    tab.press("Enter", 13)


def test_node_page(farm: Farm, tab: Browser) -> None:
    tab.open(f"{farm.url}/nodes/{mac_of(3)}")
    tab.wait_for("document.getElementById('live').textContent == 'live'")
    page = text_of(tab, "main")
    for words in ("node-3", "expired 3 h ago", "fetches the initramfs", "13.5 MiB", "5.2 MiB/s"):
        assert words in page
    values = text_of(tab, "#values")
    for words in ("Europe/Berlin", "[node-3], the section of node-3", "lts.conf:", "(secret)"):
        assert words in values
    html = tab.run("document.documentElement.outerHTML")
    for secret in (TOKEN, "correct-horse"):
        assert secret not in html
    tab.run("document.getElementById('events-all').open = true; window.mark = 1")
    farm.beacon(3, "rcfile", detail="RCFILE_99: a last word")
    tab.wait_for("document.getElementById('timeline').innerText.includes('RCFILE_99: a last word')")
    assert tab.run("document.getElementById('events-all').open && window.mark == 1")
    assert "RCFILE_99: a last word" in text_of(tab, "#events-list")


def test_a_panic_is_on_the_nodes_page_after_its_reset(farm: Farm, tab: Browser) -> None:
    tab.open(f"{farm.url}/nodes/{mac_of(8)}")
    tab.wait_for("document.getElementById('live').textContent == 'live'")
    assert "Nothing was heard" in text_of(tab, "#log")
    farm.say(8, *PANIC)
    tab.wait_for("document.getElementById('log').innerText.includes('Kernel panic')")
    assert tab.run("document.querySelectorAll('#log .bad').length") == 3
    farm.beacon(8, "initramfs", boot="after-the-reset")
    farm.say(8, "[    0.000000] Linux version 6.1.0-49-amd64")
    tab.wait_for("document.getElementById('log').innerText.includes('Linux version')")
    log = text_of(tab, "#log")
    assert log.index("This boot") < log.index("Linux version") < log.index("The boot before")
    assert log.index("The boot before") < log.index("Kernel panic")


def test_the_token_is_asked_for_once(tab: Browser, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("the-token-of-this-farm\n")
    farm = Farm(tmp_path, "token_file: token")
    try:
        for dark in (False, True):
            tab.look_as(*SIZES["phone"], phone=True, dark=dark)
            tab.open(f"{farm.url}/?q=node-3")
            assert tab.run("document.querySelectorAll('#rows').length") == 0
            assert tab.run(CONTRAST) == []
            tab.shoot(SHOTS / f"token-phone-{'dark' if dark else 'light'}.png")
        focused = "document.activeElement.id == 'token'"
        tab.wait_for(focused)
        tab.type("a-wrong-token")
        shown = "[document.getElementById('token').type, document.getElementById('show').innerText]"
        assert tab.run(shown) == ["password", "Show"]
        tab.run("document.getElementById('show').click()")
        assert tab.run(shown) == ["text", "Hide"]
        assert tab.run(focused), "one goes on typing"
        assert tab.run(CONTRAST) == []
        sizes = "[...document.querySelectorAll('.login input:not([type=hidden]):not([hidden]),"
        sizes += ".login button')].map((one) => one.getBoundingClientRect())"
        assert tab.run(f"{sizes}.every((one) => one.height >= 44 && one.right <= innerWidth)")
        tab.run("document.querySelector('.login .go').click()")
        tab.wait_for("document.body.innerText.includes('That is not the token.')")
        tab.wait_for(focused)
        assert tab.run(shown) == ["password", "Show"]
        assert tab.run(CONTRAST) == []
        tab.type("the-token-of-this-farm")
        tab.run("document.querySelector('.login .go').click()")
        tab.wait_for("document.getElementById('rows') !== null")
        assert tab.run("location.search") == "?q=node-3", "what was asked for is not forgotten"
        tab.open(f"{farm.url}/")
        tab.wait_for("document.getElementById('rows') !== null")
        tab.wait_for("document.getElementById('live').textContent == 'live'")
        assert tab.run("document.cookie") == "", "no script can read it"
        farm.beacon(2, "initramfs", boot="now")
        tab.wait_for("document.body.innerText.includes('booting')")
        tab.open(f"{farm.url}/")
        tab.run("[...document.querySelectorAll('footer a')].at(-1).click()")
        tab.wait_for("document.getElementById('token') !== null")
    finally:
        farm.stop()
    # The browser itself notes each answer with 401.
    assert {message.split(" ", 1)[0] for message in tab.messages} <= {"error:"}
    assert all("401" in message for message in tab.messages)
    tab.messages.clear()


def test_a_server_that_goes_is_told_of(farm: Farm, tab: Browser, tmp_path: Path) -> None:
    other = Farm(tmp_path)
    tab.open(f"{other.url}/")
    tab.wait_for("document.getElementById('live').textContent == 'live'")
    began = time.monotonic()
    other.stop()
    assert time.monotonic() - began < 20
    tab.wait_for("document.getElementById('live').textContent.startsWith('no connection')")
    assert tab.run("document.querySelectorAll('#rows > tr').length") == COUNT - 1
    tab.open("about:blank")
    tab.messages.clear()  # that it could not be reached


CONTRAST = """
(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const part = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color.length == 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const one = node.parentElement;
    if (!node.data.trim() || ["STYLE", "SCRIPT", "NOSCRIPT"].includes(one.tagName)) continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(`${node.data.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return bad;
})()
"""
SMALL = """
[...document.querySelectorAll('main a, button, #q')].filter((one) => one.getClientRects().length
  && one.getBoundingClientRect().height < 24).map((one) => one.outerHTML)
"""
OUTSIDE = """
[...document.querySelectorAll('body *')].filter((one) => !one.closest('.scroll')
  && one.getClientRects().length && getComputedStyle(one).clipPath == 'none'
  && one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((one) => one.outerHTML.slice(0, 80))
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize("kind", ["nodes", "node", "panic", "nobody"])
def test_looks(farm: Farm, tab: Browser, kind: str, size: str, dark: bool) -> None:
    width, height = SIZES[size]
    tab.look_as(width, height, dark=dark, phone=size == "phone")
    path = {
        "nodes": "/",
        "node": f"/nodes/{mac_of(3)}",
        "panic": f"/nodes/{mac_of(8)}",
        "nobody": "/?q=nobody",
    }[kind]
    if kind == "panic":
        farm.say(8, *PANIC)
    tab.open(farm.url + path)
    tab.wait_for("document.getElementById('live').textContent == 'live'")
    paper = tab.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(16, 20, 24)" if dark else "rgb(246, 247, 248)")
    assert tab.run(f"document.documentElement.scrollWidth <= {width}"), tab.run(OUTSIDE)
    assert tab.run(OUTSIDE) == []
    assert tab.run(CONTRAST) == []
    if size == "phone":
        assert tab.run(SMALL) == [], "too small for a thumb (WCAG 2.2, 2.5.8)"
    for landmark in ("header", "main", "footer", "h1"):
        assert tab.run(f"document.querySelectorAll('{landmark}').length") == 1
    assert tab.run("[...document.querySelectorAll('thead th')].every((one) => one.scope == 'col')")
    shade = "dark" if dark else "light"
    tab.shoot(SHOTS / f"{kind}-{size}-{shade}.png")
    if kind in ("node", "panic"):
        tab.shoot(SHOTS / f"{kind}-{size}-{shade}-whole.png", whole=True)
