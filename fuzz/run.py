"""One core under atheris (libFuzzer): `python -m fuzz.run CORE [libFuzzer's arguments]`.

Needs what fuzz/requirements.txt names; fuzz/campaign.py installs and calls it.
"""

import importlib
import sys

import atheris


def main() -> None:
    """Fuzz the core that the command line names; libFuzzer ends the process."""
    core, arguments = sys.argv[1], sys.argv[2:]
    with atheris.instrument_imports(
        include=["server", "h11", "dnslib"], enable_loader_override=False
    ):
        module = importlib.import_module(f"fuzz.{core}")
    atheris.Setup([sys.argv[0], *arguments], module.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
