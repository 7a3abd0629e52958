"""The README's picture of the status page, from a server that runs, by a browser.

python -m tests.docs.picture        # as root; writes docs/pictures/page.png

The machines are those of tests/server/web/test_browser.py: their timelines are written into the
state directory before a real server starts, and one boot is reported to it. The page is its own.
"""

import tempfile
from pathlib import Path

from tests.browser import browser
from tests.server.web.test_browser import Farm

PICTURE = Path(__file__).parents[2] / "docs/pictures/page.png"
SIZE = (1120, 760)
"""In pixels: a page of GitHub shows it about as wide."""


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as base, browser() as tab:
        farm = Farm(Path(base))
        try:
            farm.beacon(4, "initramfs", boot="now")
            tab.look_as(*SIZE)
            tab.open(f"{farm.url}/")
            tab.wait_for("document.getElementById('live').textContent == 'live'")
            tab.shoot(PICTURE)
        finally:
            farm.stop()
    print(f"{PICTURE}: {PICTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
