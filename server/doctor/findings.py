"""Everything that the doctor can find: how bad it is, what it means, what to do about it.

docs/doctor.md has the same table, made by `render_reference`; a test keeps them equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from server.doctor.verdict import Level, Verdict

CHECKS: Final[Mapping[str, str]] = {
    "server": "does the server answer, and is it well",
    "port": "who holds the server's ports (on its own machine)",
    "dhcp": "who answers a booting machine, and with what",
    "menu": "what the server would boot here",
    "ltsconf": "the flat lts.conf",
    "tftp": "each file of the boot tree over TFTP, against the image's manifest",
    "http": "the same over HTTP",
    "nbd": "each export, its size and its bytes",
    "dns": "the farm's zone, where the server answers for one",
    "mtu": "whether packets of full size get through",
    "clock": "this machine's, the server's and the API server's clock",
    "join": "the account that has machines' certificates signed (nothing is signed here)",
    "api": "the API server that nodes are to join",
    "token": "the join token",
    "space": "room on the disks of store and state",
    "store": "the images' bytes against their manifests",
}


@dataclass(frozen=True)
class Finding:
    """What the doctor can find. level: how bad it is.

    meaning and remedy: for docs/doctor.md and for people.
    """

    level: Level
    meaning: str
    remedy: str


_FAIL, _WARN, _SKIP = Level.FAIL, Level.WARN, Level.SKIP

FINDINGS: Final[Mapping[str, Finding]] = {
    "server.down": Finding(
        _FAIL,
        "nothing answers on the HTTP port",
        "start `bootfarm serve`; if it runs, check address and port, and the firewall for TCP",
    ),
    "server.alien": Finding(
        _FAIL,
        "something answers on the HTTP port that is no bootfarm",
        "give the right address and --http-port (or --config), or stop that program",
    ),
    "server.degraded": Finding(
        _WARN,
        "the server says on /healthz that something wants a person",
        "do what the words say; the server's log has the details",
    ),
    "server.no-image": Finding(
        _FAIL,
        "the server has no image with the tag `current`",
        "`bootfarm build RECIPE --store STORE`, or `bootfarm images tag`; check that `serve` has"
        " the same --store",
    ),
    "port.free": Finding(
        _FAIL,
        "nobody holds a port of the server on its own machine",
        "start `bootfarm serve` with that service; give the doctor the farm.yaml that it runs with",
    ),
    "port.foreign": Finding(
        _FAIL,
        "another program holds a port of the server",
        "stop that program, or give bootfarm another port or address in farm.yaml",
    ),
    "port.hidden": Finding(
        _SKIP,
        "this user may not see which process holds a port",
        "run the doctor as root",
    ),
    "port.remote": Finding(
        _SKIP,
        "the server runs on another machine, whose ports cannot be looked at from here",
        "run the doctor there as well",
    ),
    "dhcp.no-rights": Finding(
        _SKIP,
        "playing a DHCP client needs rights that this user does not have",
        "run the doctor as root (CAP_NET_RAW, and CAP_NET_BIND_SERVICE)",
    ),
    "dhcp.no-interface": Finding(
        _SKIP,
        "there is no network interface on which to ask",
        "name the one that is on the machines' network: --interface NIC",
    ),
    "dhcp.silent": Finding(
        _FAIL,
        "no DHCP server answered at all",
        "check that the interface is on the machines' network (VLAN, cable), that a DHCP server"
        " runs there, or that switches relay to it",
    ),
    "dhcp.no-address": Finding(
        _FAIL,
        "DHCP servers answer, but none gives an address",
        "let the site's DHCP server give addresses here (a free range), or use"
        " `bootfarm serve --dhcp full` on a network of its own",
    ),
    "dhcp.two-servers": Finding(
        _WARN,
        "more than one DHCP server gives addresses",
        "stop the one that should not be there, unless the two are set up as a pair",
    ),
    "dhcp.contradiction": Finding(
        _FAIL,
        "DHCP servers that give addresses contradict each other on the network",
        "stop one of them, or give both the same mask and router",
    ),
    "dhcp.proxy-to-all": Finding(
        _WARN,
        "a proxy answers also machines that do not boot from the network",
        "let it answer only PXEClient and HTTPClient (option 60)",
    ),
    "dhcp.no-loader": Finding(
        _FAIL,
        "nobody tells this firmware what to load",
        "`bootfarm serve --dhcp proxy`, or paste what `bootfarm dhcp-config` prints into the"
        " site's DHCP server",
    ),
    "dhcp.no-http-boot": Finding(
        _WARN,
        "nobody tells UEFI HTTP boot what to load",
        "nothing, if no machine boots by HTTP; else `bootfarm serve --dhcp proxy` and an image"
        " with iPXE's loaders",
    ),
    "dhcp.port-4011": Finding(
        _FAIL,
        "a proxy sends this firmware to UDP port 4011, where nobody answers",
        "open UDP 4011 in the server's firewall; check with `bootfarm serve` that it holds it",
    ),
    "dhcp.two-loaders": Finding(
        _WARN,
        "more than one server names the loader, the same one",
        "leave it to one of them: `--dhcp off`, or no filename in the site's DHCP server",
    ),
    "dhcp.loaders-differ": Finding(
        _FAIL,
        "servers name different loaders: which one wins depends on the firmware",
        "take `filename` and `next-server` (options 66, 67) from one of them, or stop it",
    ),
    "dhcp.wrong-loader": Finding(
        _FAIL,
        "the loader is for another kind of firmware",
        "choose the file by option 93 (architecture): `bootfarm dhcp-config` prints how",
    ),
    "dhcp.other-server": Finding(
        _FAIL,
        "the loader comes from another server than the one that is checked",
        "set next-server (option 66) to bootfarm's address; `address` in farm.yaml is what a"
        " proxy says",
    ),
    "dhcp.no-next-server": Finding(
        _WARN,
        "a filename without next-server: firmwares guess differently where to fetch it",
        "set next-server to bootfarm's address",
    ),
    "dhcp.http-class": Finding(
        _FAIL,
        "the answer to UEFI HTTP boot does not say HTTPClient in option 60: firmware drops it",
        "let the DHCP server answer with option 60 = HTTPClient where the request has it",
    ),
    "dhcp.grub-by-proxy": Finding(
        _FAIL,
        "a proxy names GRUB, which then asks for its menu at the server that gave the address",
        "name iPXE's loader by proxy, as `bootfarm serve --dhcp proxy` does, or name GRUB and"
        " next-server in the site's DHCP server",
    ),
    "dhcp.ipxe-loop": Finding(
        _FAIL,
        "iPXE is told to load iPXE again, for ever",
        "where option 77 says iPXE, name /ltsp/<image>/boot.ipxe (its URL)",
    ),
    "dhcp.loader-missing": Finding(
        _FAIL,
        "the file that DHCP names cannot be fetched",
        "name a path of the boot tree: `bootfarm dhcp-config` prints them; is the image's name"
        " right?",
    ),
    "menu.refused": Finding(
        _FAIL,
        "the server cannot tell this machine what to boot",
        "correct IMAGE in lts.conf (`bootfarm lts explain FILE`), or publish that image",
    ),
    "menu.unlisted": Finding(
        _SKIP,
        "farm.yaml says `unlisted: refuse`, and this machine is not in the inventory: what a listed"
        " one would be told cannot be seen from here",
        "run the doctor on a listed machine, or list this one below inventory: for the while",
    ),
    "menu.other-server": Finding(
        _WARN,
        "nodes are sent to another address or port for their root than the one checked",
        "correct `address` or `nbd.port` in farm.yaml, or check that server instead",
    ),
    "ltsconf.missing": Finding(
        _FAIL,
        "the server gives no lts.conf",
        "do what the server's words say; `bootfarm lts check FILE` shows the line",
    ),
    "ltsconf.cut": Finding(
        _FAIL,
        "the flat lts.conf came without its last line: nodes refuse it",
        "look for what cuts it on the way (a proxy, a full disk); try again",
    ),
    "tftp.no-client": Finding(
        _SKIP,
        "the TFTP client that fetches is not here",
        "run the doctor where bootfarm was installed by pip (`make install`), not in its container",
    ),
    "tftp.silent": Finding(
        _FAIL,
        "no answer over TFTP, and the server saw no request",
        "open UDP 69 to the server; check --tftp-port and that `serve` runs tftp",
    ),
    "tftp.answers-lost": Finding(
        _FAIL,
        "the server saw the request, but its answer never came",
        "a firewall drops UDP from ephemeral ports: open them, or set `tftp: {single_port: true}`"
        " in farm.yaml",
    ),
    "tftp.missing": Finding(
        _FAIL,
        "the server refuses a file over TFTP",
        "do what the server's words say; is the image complete (`bootfarm images`)?",
    ),
    "tftp.differs": Finding(
        _FAIL,
        "a file that came over TFTP is not what the image's manifest says",
        "publish the image again; something on the path or on the server's disk changes bytes",
    ),
    "http.missing": Finding(
        _FAIL,
        "the server refuses a file over HTTP, or breaks off",
        "do what the server's words say; is the image complete (`bootfarm images`)?",
    ),
    "http.differs": Finding(
        _FAIL,
        "a file that came over HTTP is not what the image's manifest says",
        "publish the image again; a proxy on the path, or the server's disk, changes bytes",
    ),
    "http.manifest": Finding(
        _FAIL,
        "the image's manifest cannot be fetched, or is not the one that its digest names",
        "publish the image again",
    ),
    "http.no-loader": Finding(
        _WARN,
        "the image has no loader at all for a kind of firmware",
        "nothing, if no machine has it; else build the image again with GRUB's or iPXE's loader",
    ),
    "nbd.down": Finding(
        _FAIL,
        "nothing speaks NBD on the server's NBD port",
        "open TCP 10809 to the server; check --nbd-port and that `serve` runs nbd",
    ),
    "nbd.no-export": Finding(
        _FAIL,
        "the server refuses an export",
        "publish the image again; nodes that boot it find no root",
    ),
    "nbd.size": Finding(
        _FAIL,
        "an export has another size than the manifest says",
        "publish the image again",
    ),
    "nbd.differs": Finding(
        _FAIL,
        "an export's bytes are not the image's",
        "verify the store (`bootfarm doctor` on the server's machine); publish the image again",
    ),
    "nbd.unread": Finding(
        _FAIL,
        "an export opens, but cannot be read to the end",
        "look into the server's log for that export: the image's file cannot be read",
    ),
    "dns.silent": Finding(
        _FAIL,
        "no answer on the server's DNS port",
        "open UDP 53 to the server; check `dns.port` and `dns.listen` in farm.yaml",
    ),
    "dns.wrong": Finding(
        _FAIL,
        "the zone has another address for the server's own name than the one checked",
        "correct `address` or `dns.zone` in farm.yaml; does another name server answer there?",
    ),
    "mtu.path": Finding(
        _FAIL,
        "packets of 1500 bytes from the server do not arrive, smaller ones do",
        "make the MTU the same on the server, the switches and the tunnels between",
    ),
    "mtu.small": Finding(
        _WARN,
        "the path to the server takes less than 1500 bytes",
        "make the MTU of the path 1500, or expect fragments: firmware asks for TFTP blocks of"
        " 1428 to 1468 bytes",
    ),
    "mtu.fragments": Finding(
        _WARN,
        "TFTP blocks larger than the MTU do not arrive: fragments are dropped",
        "set `tftp: {limits: {max_blksize: 1428}}` in farm.yaml, or let fragments pass",
    ),
    "mtu.unknown": Finding(
        _SKIP,
        "without TFTP the path's MTU cannot be tried",
        "mend TFTP first",
    ),
    "clock.server": Finding(
        _WARN,
        "this machine's clock and the server's differ",
        "run a time service (chrony, systemd-timesyncd) on both; nodes set theirs by the server's",
    ),
    "clock.unknown": Finding(
        _SKIP,
        "the server tells no time",
        "mend HTTP first",
    ),
    "clock.api": Finding(
        _WARN,
        "the server's clock, by which nodes set theirs, and the API server's differ",
        "run a time service on both",
    ),
    "clock.join": Finding(
        _FAIL,
        "they differ by more than 5 minutes: a node's certificates are not valid yet, or no more",
        "run a time service on both machines; until then no node joins",
    ),
    "join.off": Finding(
        _FAIL,
        "a `kubeadm join` line has no token, and farm.yaml gives no certificates: nobody joins",
        "`join: {certificates: true}` in farm.yaml (docs/join.md), or a token in the line",
    ),
    "join.account": Finding(
        _FAIL,
        "nothing says which cluster signs certificates, or its kubeconfig cannot be used",
        "`join: {kubeconfig: FILE}` in farm.yaml (docs/join.md makes one); run the doctor as a user"
        " that may read it",
    ),
    "join.down": Finding(
        _FAIL,
        "the cluster does not answer the account that asks for certificates, or does not know it",
        "check the kubeconfig's address and whether its token has expired",
    ),
    "join.rights": Finding(
        _FAIL,
        "the account lacks a right that certificates need",
        "`kubectl apply -k k8s/join`",
    ),
    "join.too-much": Finding(
        _WARN,
        "the account may do what certificates do not need, and what is as good as cluster-admin",
        "give the server an account of its own, with k8s/join and nothing else",
    ),
    "join.address": Finding(
        _FAIL,
        "nothing says where machines reach the API server",
        "`join: {api: HOST:PORT}` in farm.yaml",
    ),
    "api.none": Finding(
        _SKIP,
        "no API server is known: lts.conf has no `kubeadm join` line for this machine",
        "nothing, if nodes do not join; else --api URL, or ask where lts.conf has that line",
    ),
    "api.down": Finding(
        _FAIL,
        "the API server cannot be reached",
        "check address and port of the join line, the API server, and the firewall between",
    ),
    "api.cluster-info": Finding(
        _FAIL,
        "the API server does not give the cluster's facts that `kubeadm join` asks first",
        "`kubeadm init phase bootstrap-token` makes them, and lets anybody read them",
    ),
    "api.ca": Finding(
        _FAIL,
        "the cluster's CA is not the one of the join line",
        "print a new line: `kubeadm token create --print-join-command`; is it the right cluster?",
    ),
    "token.none": Finding(
        _SKIP,
        "no join token is known here",
        "nothing, if nodes join otherwise",
    ),
    "token.refused": Finding(
        _FAIL,
        "the cluster does not know the token: it has expired, was removed, or is another cluster's",
        "`kubeadm token create --print-join-command`, and the line into lts.conf (docs/join.md)",
    ),
    "token.secret": Finding(
        _FAIL,
        "the cluster knows the token's first half, and signs with another second half",
        "copy the line of `kubeadm token create --print-join-command` whole",
    ),
    "token.soon": Finding(
        _WARN,
        "the token expires within 12 hours: nodes that reboot later are refused",
        "`kubeadm token create --ttl 720h --print-join-command`, and the line into lts.conf",
    ),
    "token.expired": Finding(
        _FAIL,
        "the token has expired",
        "`kubeadm token create --print-join-command`, and the line into lts.conf (docs/join.md)",
    ),
    "token.no-kubectl": Finding(
        _SKIP,
        "--kubeconfig was given, but the token's Secret cannot be read with it",
        "install kubectl; use an administrator's kubeconfig",
    ),
    "space.store": Finding(
        _WARN,
        "the store's disk has no room for another image as large as the largest",
        "`bootfarm images gc`, or a larger disk",
    ),
    "space.state": Finding(
        _FAIL,
        "the state's disk is full: timelines, leases and the last good lts.conf are not kept",
        "make room there",
    ),
    "store.unknown": Finding(
        _SKIP,
        "the server's store is not on this machine, or was not named",
        "run the doctor on the server's machine with --config farm.yaml (or --store)",
    ),
    "store.empty": Finding(
        _FAIL,
        "the store has no image that can be read",
        "`bootfarm build RECIPE --store STORE`; check the path",
    ),
    "store.damaged": Finding(
        _FAIL,
        "an image in the store is not what its manifest says",
        "build or import it again; look at the disk",
    ),
}


def found(id_: str, subject: str, words: str) -> Verdict:
    """A verdict with the level and remedy that FINDINGS has for it."""
    finding = FINDINGS[id_]
    return Verdict(id_, finding.level, subject, words, finding.remedy)


def render_reference() -> str:
    """The tables of docs/doctor.md."""
    lines: list[str] = []
    for check, about in CHECKS.items():
        lines += [f"### {check}: {about}", "", "| id | level | what it means | remedy |"]
        lines.append("|---|---|---|---|")
        for id_, finding in FINDINGS.items():
            if id_.partition(".")[0] == check:
                cells = (f"`{id_}`", finding.level.upper(), finding.meaning, finding.remedy)
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)
