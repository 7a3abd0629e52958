from collections import Counter
from pathlib import Path

from imagebuild.store.images import Store
from server.boot.menus import render_grub_cfg, render_ipxe, render_ipxe_held
from server.boot.plan import BootPlan, Farm
from server.boot.servers import order_servers, write_servers
from server.boot.settlement import plan_node
from server.farm.config import Menu
from server.farm.peers import OtherServer, Server
from server.ltsconf import LtsConf, NodeId
from server.site import Site
from tests.server.boot.test_menus import check_grub_script
from tests.server.farm import publish

DIGEST = "a" * 64
ONE, TWO, THREE = (Server(f"10.9.0.{number}", 8080, 10809) for number in (1, 2, 3))
MACS = [f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}" for number in range(900)]


def other(server: Server, *, here: bool = True, digest: str = DIGEST) -> OtherServer:
    return OtherServer(server, here, frozenset({digest}))


def test_each_server_makes_the_same_order_and_machines_spread() -> None:
    views = (
        (ONE, [other(TWO), other(THREE)]),
        (THREE, [other(ONE), other(TWO), other(THREE)]),
    )
    first, second = ([order_servers(mac, *view, DIGEST) for mac in MACS] for view in views)
    assert first == second
    assert all(count > 240 for count in Counter(order[0] for order in first).values())


def test_when_one_goes_only_its_machines_move() -> None:
    for mac in MACS:
        three = order_servers(mac, ONE, [other(TWO), other(THREE)], DIGEST)
        two = order_servers(mac, ONE, [other(TWO)], DIGEST)
        assert two == tuple(server for server in three if server != THREE)


def test_who_is_away_comes_last_and_who_has_not_the_image_does_not_come() -> None:
    for mac in MACS[:50]:
        away = order_servers(mac, ONE, [other(TWO, here=False), other(THREE)], DIGEST)
        assert away[-1] == TWO
        assert TWO not in order_servers(mac, ONE, [other(TWO, digest="b" * 64)], DIGEST)


def test_ports_are_told_where_they_differ() -> None:
    odd, both = Server("10.9.0.4", 8081, 10809), Server("10.9.0.5", 8080, 10810)
    assert write_servers([ONE, TWO, odd, both]) == "10.9.0.2,10.9.0.4:8081,10.9.0.5:8080:10810"


def make_plan(tmp_path: Path, *others: Server) -> BootPlan:
    image = publish(tmp_path)
    site = Site(tuple(Store(tmp_path).images()), LtsConf.parse(b""))
    known = tuple(other(server, digest=image.digest) for server in others)
    node = NodeId(hostname="node-1", ip="10.9.0.11", mac=MACS[1])
    return plan_node(site, node, Farm(address="10.9.0.1", others=known))


def test_menus_and_command_line_go_through_all_servers(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "store", ONE, TWO, THREE)
    first, *rest = (server.address for server in plan.servers)
    assert {first, *rest} == {"10.9.0.1", "10.9.0.2", "10.9.0.3"}
    assert plan.cmdline[1].startswith(f"nbdroot={first}:/opt/ltsp/amd64@")
    assert f"bootfarm.servers={','.join(rest)}" in plan.cmdline
    path = f"/ltsp/amd64/@{plan.image.digest}"
    grub = render_grub_cfg(plan, Menu())
    check_grub_script(grub, tmp_path)
    places = [grub.index(f"(tftp,{address}){path}/vmlinuz") for address in (first, *rest)]
    assert places == sorted(places)
    script = "/ltsp/amd64/boot.ipxe"
    ipxe = render_ipxe(plan, Menu(), "http://10.9.0.1:8080", script)
    kernels = [line for line in ipxe.splitlines() if line.startswith("kernel ")]
    assert [line.split()[1] for line in kernels] == [
        f"http://{address}:8080{path}/vmlinuz" for address in (first, *rest)
    ]
    assert [line.rpartition("goto ")[2] for line in kernels] == ["boot2", "boot3", "retry"]
    for text in (ipxe, render_ipxe_held(plan, "http://10.9.0.1:8080", script)):
        chains = [line for line in text.splitlines() if line.startswith("chain ")]
        assert len(chains) == 3
        assert chains[0].startswith(f"chain --replace http://10.9.0.1:8080{script}")
        assert [line.endswith("|| goto retry") for line in chains] == [False, False, True]
        labels = {line[1:] for line in text.splitlines() if line.startswith(":")}
        goals = {
            line.rpartition("goto ")[2].strip(" |") for line in text.splitlines() if "goto" in line
        }
        assert goals - {"${chosen}"} <= labels


def test_without_others_nothing_is_told_of_them(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    assert plan.servers == ()
    assert not any(word.startswith("bootfarm.servers") for word in plan.cmdline)
