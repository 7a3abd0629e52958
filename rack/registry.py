"""A container registry in the rack: Debian's docker-registry, filled by skopeo.

The nodes reach it as a mirror (`REGISTRY_MIRRORS` in lts.conf), as at a site without
a way to the internet.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from rack.cache import need_tools
from rack.namespace import Namespace
from rack.network import SERVER_IP
from rack.process import Process, wait_for

PORT = 5000
"""docker-registry's default."""
ADDRESS = f"{SERVER_IP}:{PORT}"


def render_config(directory: Path) -> str:
    """docker-registry's configuration: its files below `directory`, without TLS."""
    config = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": ADDRESS},
    }
    return yaml.safe_dump(config, sort_keys=False)


def push_argv(archive: Path, name: str) -> list[str]:
    """skopeo's command that puts a docker-archive into the registry as `name`."""
    words = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
    return [*words, f"docker-archive:{archive}", f"docker://{ADDRESS}/{name}"]


class Registry:
    """The registry in a rack's namespace; the namespace's end ends it."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self._namespace = namespace
        self._directory = directory
        self._process: Process | None = None

    @property
    def log(self) -> Path:
        """Where the registry logs."""
        return self._directory / "registry.log"

    def start(self) -> None:
        """Start it and wait until it answers."""
        need_tools("docker-registry", "skopeo")
        shutil.rmtree(self._directory / "data", ignore_errors=True)
        self._directory.mkdir(parents=True, exist_ok=True)
        config = self._directory / "config.yml"
        config.write_text(render_config(self._directory))
        argv = ["docker-registry", "serve", str(config)]
        self._process = self._namespace.start("docker-registry", argv, self.log)
        wait_for(self._answers, 30, "an answer of the registry", processes=(self._process,))

    def push(self, images: Mapping[str, Path]) -> None:
        """Put docker-archives into it: name with tag (`coredns/coredns:1.14.6`) -> archive."""
        for name, archive in images.items():
            self._namespace.run(push_argv(archive, name), timeout=300)

    def _answers(self) -> bool:
        try:
            self._namespace.connect(SERVER_IP, PORT).close()
        except OSError:
            return False
        return True
