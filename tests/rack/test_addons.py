import re
from pathlib import Path

import yaml

from rack.addons import ADDONS, render_addon
from rack.controlplane import DNS_IP
from rack.kubernetes.network import NetworkImages
from rack.registry import push_argv, render_config


def test_addons_ask_for_the_images_that_the_registry_gets(tmp_path: Path) -> None:
    images = {f"docker.io/{name}" for name in NetworkImages(tmp_path).archives}
    asked = {
        name for addon in ADDONS for name in re.findall(r'image: "?([^"\s]+)', render_addon(addon))
    }
    assert asked == images


def test_the_clusters_dns_is_where_kubelet_says() -> None:
    documents = list(yaml.safe_load_all(render_addon("coredns")))
    (service,) = [one for one in documents if one["kind"] == "Service"]
    assert service["spec"]["clusterIP"] == DNS_IP == "10.96.0.10"


def test_registry_keeps_its_files_in_its_directory(tmp_path: Path) -> None:
    config = yaml.safe_load(render_config(tmp_path))
    assert config["storage"]["filesystem"]["rootdirectory"] == str(tmp_path / "data")
    assert config["http"]["addr"] == "10.9.0.1:5000"
    assert push_argv(tmp_path / "x.tar", "a/b:1")[-2:] == [
        f"docker-archive:{tmp_path}/x.tar",
        "docker://10.9.0.1:5000/a/b:1",
    ]
