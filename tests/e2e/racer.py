"""A machine that asks two servers at once, for the test of joins.

`python -m tests.e2e.racer NODE COUNT URL URL` prints a JSON object a race: what both answered.
"""

import json
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Any

from tests.server.join.cluster import make_csr


def ask(url: str, boot: str, csr: str) -> tuple[int, dict[str, str]]:
    """The answer to one request, once there is one."""
    body = urllib.parse.urlencode({"boot": boot, "csr": csr}).encode()
    while True:
        try:
            with urllib.request.urlopen(url, body, timeout=30) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        # 202: under way; 429: this address has asked often enough for now.
        if status not in (202, 429):
            return status, dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        time.sleep(0.5)


def race(node: str, urls: list[str], *, same: bool) -> dict[str, Any]:
    """Two requests of one boot at the same moment, a server each; for one key or for two."""
    boot = str(uuid.uuid4())
    first = make_csr(node)
    csrs = [first, first if same else make_csr(node)]
    outcomes: dict[int, tuple[int, dict[str, str]]] = {}
    start = threading.Barrier(2)

    def run(which: int) -> None:
        start.wait()
        outcomes[which] = ask(urls[which], boot, csrs[which])

    threads = [threading.Thread(target=run, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "same": same,
        "statuses": [outcomes[which][0] for which in (0, 1)],
        "causes": [outcomes[which][1].get("cause", "") for which in (0, 1)],
        "certificates": sorted(
            {o["certificate"] for _, o in outcomes.values() if "certificate" in o}
        ),
    }


def main() -> None:
    node, count, *urls = sys.argv[1:]
    for number in range(int(count)):
        print(json.dumps(race(node, urls, same=bool(number % 2))), flush=True)


if __name__ == "__main__":
    main()
