"""The wrapper around `kubeadm join` with a kubeadm of ours."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.node.apiserver import TOKEN, ApiServer


class Join:
    """Runs the wrapper; `kubeadm` is the real one's part as a shell script."""

    def __init__(self, node: Any, api: ApiServer) -> None:
        self.node = node
        self.api = api
        self.kubeadm('echo "joined"')
        node.stub("systemctl", f'echo "$*" >>{node.root}/systemctl.log; [ "$1" != is-active ]')
        node.stub("uname", "echo Worker-1")
        node.stub("sleep", f"echo $1 >>{node.root}/slept")

    def kubeadm(self, script: str) -> None:
        """The real one's part; the discovery file that it was given is kept as it was."""
        root = self.node.root
        keep = (
            f'echo "$*" >>{root}/kubeadm.log\n'
            'for word in "$@"; do\n'
            '    case $word in */discovery.conf) cp -p "$word" '
            f"{root}/discovery.conf ;; esac\n"
            "done\n"
        )
        self.node.stub("kubeadm", keep + script)

    def line(self, **changes: str) -> list[str]:
        token = changes.get("token", TOKEN)
        ca_hash = changes.get("ca_hash", self.api.ca_hash())
        words = ["join", "--token", token, changes.get("endpoint", self.api.endpoint)]
        return [*words, "--discovery-token-ca-cert-hash", ca_hash]

    def run(self, *args: str) -> Any:
        return self.node.script("bin/kubeadm", *args, check=False, KUBE_TIMEOUT="5")

    def tries(self) -> list[str]:
        """What kubeadm was called with; DISCOVERY stands for the file's place."""
        log = self.node.root / "kubeadm.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [re.sub(r"/\S*/discovery\.conf", "DISCOVERY", line) for line in lines]

    def discovery(self) -> dict[str, Any]:
        """The discovery file of the last try."""
        parsed = yaml.safe_load((self.node.root / "discovery.conf").read_text())
        assert isinstance(parsed, dict)
        return parsed
