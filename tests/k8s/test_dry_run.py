"""k8s/ before the rack's real API server: admitted by a server-side dry run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rack.errors import RackError
from rack.rack import Rack
from tests.kustomize import render

K8S = Path(__file__).parents[2] / "k8s"

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    """A rack with a control plane and the namespace, which a dry run does not make."""
    with Rack(tmp_path_factory.mktemp("rack")) as rack:
        rack.start_control_plane()
        rack.kubectl("create", "-f", str(K8S / "base/namespace.yaml"))
        yield rack


@pytest.mark.parametrize("overlay", ["base", "overlays/daemonset", "overlays/two-containers"])
def test_admitted(cluster: Rack, overlay: str) -> None:
    text = render(K8S / overlay)
    output = cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)
    kinds = [document["kind"].lower() for document in yaml.safe_load_all(text)]
    lines = output.strip().splitlines()
    assert len(lines) == len(kinds)
    assert all(line.endswith("(server dry run)") for line in lines), output


def test_the_dry_run_can_refuse(cluster: Rack) -> None:
    text = render(K8S / "base").replace("protocol: UDP", "protocol: UPD")
    with pytest.raises(RackError, match="UPD"):
        cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)
