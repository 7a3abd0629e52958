"""farm.yaml as JSON Schema, for editors: what its reader asks for, and what each key means."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from server.farm.config import parse_config
from server.yamlfile import Faults

ABOUT: Final[Mapping[str, str]] = {
    "store": "The store that `bootfarm build` publishes to.",
    "lts_conf": "The lts.conf; without it nodes get the image's defaults.",
    "state": "Where timelines and the last good lts.conf are kept.",
    "services": "Which to run.",
    "listen": "The address to listen on; 0.0.0.0: all.",
    "address": "The address that nodes are told; else the one that routes to each.",
    "workers": "Processes for TFTP and NBD; 0: one process for everything.",
    "tftp": "TFTP.",
    "tftp.port": "Its UDP port.",
    "tftp.single_port": "Answer from that port only, for firewalls that drop others.",
    "tftp.limits": "What TFTP's clients may cost.",
    "nbd": "NBD.",
    "nbd.port": "Its TCP port.",
    "nbd.limits": "What NBD's clients may cost.",
    "http": "HTTP: boot tree, status page, API.",
    "http.port": "Its TCP port.",
    "http.names": "Further names of the server that the page and the API are asked by.",
    "http.limits": "What HTTP's clients may cost.",
    "default_image": "The image where neither IMAGE nor DHCP's filename names one; or one each.",
    "cmdline": "Kernel arguments for every node, after the image's own.",
    "on_error": "What a node does when its boot fails.",
    "menu": "The boot menu.",
    "menu.timeout": "Seconds that it waits for a key; 0 boots at once.",
    "menu.serial": "GRUB's serial line: unit,speed; or none.",
    "inventory": "The machines, or the path of a file that holds such a list.",
    "inventory[].mac": "The machine's MAC.",
    "inventory[].ip": "Its address.",
    "inventory[].hostname": "Its name, without a domain.",
    "inventory[].serial": "Its serial number: node.serial in a template.",
    "inventory[].uuid": "Its UUID: node.uuid in a template.",
    "inventory[].labels": "Where it stands, what it is for: node.labels.<name> in a template.",
    "inventory[].bmc": "The web address of its management controller: node.bmc in a template.",
    "address_map": "Address to MAC of nodes behind a router.",
    "hosts_file": "Where names of other machines are looked up; or none.",
    "facts": "farm.<name> in a template of lts.conf.",
    "secrets": "A directory whose file `token` is secrets.token in a template.",
    "dhcp": "Answer DHCP: beside another server (proxy), or alone (full).",
    "dhcp_range": "A-B: the addresses that `dhcp: full` gives.",
    "dhcp_limits": "What DHCP's clients may cost.",
    "loader": "What firmware is given by `dhcp: full`: iPXE, or GRUB.",
    "unlisted": "What machines get that the inventory does not name.",
    "configmap": "In Kubernetes: the ConfigMap on which a refused lts.conf is an Event.",
    "collect_after": "Seconds; then an image without a tag goes that no node reads.",
    "exports": "Further read-only NBD exports: name to file.",
    "boot_tree": "A folder as the tree of TFTP and HTTP, before the images'.",
    "dns": "The zone that is answered for.",
    "dns.zone": "Its name.",
    "dns.port": "Its port, UDP and TCP.",
    "dns.listen": "Its own address, where it is not `listen`.",
    "dns.server": "The server's own name in the zone.",
    "dns.names": "Names of what is no node, to addresses.",
    "dns.networks": "Networks whose reverse names are ours, besides those that farm.yaml names.",
    "dns.ttl": "Seconds that answers may be kept.",
    "dns.limits": "What DNS's clients may cost.",
    "join": "Certificates for machines that join Kubernetes without a token.",
    "join.certificates": "Whether machines get any.",
    "join.machines": "Which: those of the inventory, or any whose MAC is known.",
    "join.api": "host:port of the API server as machines reach it; else as cluster-info says.",
    "join.kubeconfig": "Who asks the cluster; else the account of the server's own pod.",
    "join.lease_seconds": "For so many seconds a kubelet's lease is watched, and must not be"
    " renewed, before its machine may join anew.",
    "join.per_boot": "Keys of one boot that get a certificate.",
    "join.per_minute": "Certificates in all.",
    "peers": "The farm's servers, whose images and tags are followed; this one may be among them.",
    "images": "Images in registries, oci://HOST/NAME:TAG, that are fetched and followed.",
    "fetch": "How images are fetched.",
    "fetch.mbit": "Megabits a second that fetching takes at most; 0: no bound.",
    "fetch.every": "Seconds between two looks at the peers.",
    "fetch.registry_every": "Seconds between two looks at the registries.",
    "fetch.plain_http": "The registries have no TLS.",
    "rollout": "Rollouts: a new image reaches machines in waves (a preview).",
    "rollout.enabled": "Whether this server may roll images out.",
    "rollout.cluster": "Whether Nodes are cordoned, drained and told to reboot.",
    "rollout.kubeconfig": "Who asks the cluster; else the account of the server's own pod.",
    "rollout.namespace": "Where state and lease are; else the pod's own, or bootfarm.",
    "logs": "Kernel logs and syslog of nodes, over UDP.",
    "logs.syslog": "Port; on: the usual one; or off.",
    "logs.netconsole": "Port; on: the usual one; or off.",
    "logs.bytes": "Bytes kept of each node.",
    "logs.nodes": "Nodes of which lines are kept.",
    "token_file": "Who has its token may see the page and the API; without it everybody.",
    "require_signed": "Public keys: an image that none of them signed is not served.",
    "revoked": "Keys and images that are not trusted any more: `bootfarm keys revoke` writes it.",
    "record_boot": "A directory for recordings of what boots fetch and read.",
    "nodes": "Timelines.",
    "nodes.limit": "How many nodes have one.",
    "nodes.events": "Events kept of each.",
}
"""What each key means; `[]` stands for any entry of a list."""


def describe(limits: Mapping[str, object]) -> dict[str, Any]:
    """JSON Schema of farm.yaml (draft 2020-12).

    limits: of each key path as `nbd.limits`, the dataclass with its defaults.
    """
    asked: dict[str, Any] = {}
    parse_config({}, "", Path("/"), faults=Faults(), asked=asked)
    schema = _finish({"type": "object", "properties": asked}, "", limits)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "bootfarm farm.yaml",
        "description": "How the server runs: docs/farm.yaml.md.",
        **schema,
        # A file that holds nothing is good.
        "type": ["object", "null"],
    }


def _finish(asked: Mapping[str, Any], path: str, limits: Mapping[str, object]) -> dict[str, Any]:
    """What a key was asked for, as a schema of its own; null stands for a key that is not there."""
    found = {key: value for key, value in asked.items() if key not in ("needed", "properties")}
    needed: list[str] = []
    if path in limits:
        found["additionalProperties"] = False
        found["properties"] = _describe_limits(limits[path])
    elif "properties" in asked:
        needed = [name for name, below in asked["properties"].items() if below.get("needed")]
        found["additionalProperties"] = False
        found["properties"] = {
            name: _finish(below, f"{path}.{name}" if path else name, limits)
            for name, below in asked["properties"].items()
        }
    for word in ("anyOf", "items"):
        below = found.get(word)
        if isinstance(below, list):
            found[word] = [_finish(one, path, limits) for one in below]
        elif isinstance(below, Mapping):
            found[word] = _finish(below, f"{path}[]", limits)
    if needed:
        found["required"] = needed
    if path and not path.endswith("]"):
        _allow_null(found, asked.get("needed", False))
        if about := ABOUT.get(path):
            found["description"] = about
    return found


def _allow_null(found: dict[str, Any], needed: bool) -> None:
    if needed:
        return
    if "enum" in found:
        found["enum"] = [*found["enum"], None]
    if "type" in found:
        types = found["type"]
        found["type"] = [*(types if isinstance(types, list) else [types]), "null"]


def _describe_limits(defaults: Any) -> dict[str, Any]:
    return {
        field.name: {
            "type": "integer" if isinstance(getattr(defaults, field.name), int) else "number",
            "minimum": 0,
            "default": getattr(defaults, field.name),
        }
        for field in dataclasses.fields(defaults)
    }
