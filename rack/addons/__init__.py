"""What the rack's cluster gets so that pods on several nodes reach each other.

DaemonSet and Deployment as a site applies them; their images come from the rack's
registry, which the nodes know as a mirror of Docker Hub.
"""

from pathlib import Path

import jinja2

from rack.apiclient import API_PORT
from rack.controlplane import DNS_IP
from rack.kubernetes.network import coredns_image, kube_router_image
from rack.network import API_IP

HERE = Path(__file__).parent
ADDONS = ("kube-router", "coredns")


def render_addon(name: str) -> str:
    """The manifests (YAML, several documents) of an addon for the rack's cluster."""
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined)
    return environment.get_template(f"{name}.yaml").render(
        api_host=API_IP,
        api_port=API_PORT,
        dns_ip=DNS_IP,
        coredns_image=f"docker.io/{coredns_image()}",
        kube_router_image=f"docker.io/{kube_router_image()}",
    )
