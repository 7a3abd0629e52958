"""`bootfarm rack smoke`: does an image boot? With exit code, JUnit XML and console log."""

import contextlib
import shutil
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from imagebuild.docker.cli import need_sdk
from imagebuild.options import Renamed, examples
from imagebuild.store.images import CURRENT, Store
from rack.errors import RackError
from rack.machine import Firmware, NodeSpec
from rack.progress import Progress, printed_steps
from rack.rack import Rack
from server.quantities import Seconds

LTS_CONF = '[default]\nIMAGE = "{image}"\nKEEP_SYSTEM_SERVICES = "ssh"\n'
NAME = "smoke"


@dataclass(frozen=True)
class Result:
    """One firmware's boot: the seconds until the machine said it is up, or what went wrong."""

    firmware: str
    seconds: float
    failure: str = ""


def smoke_test(
    store: Path,
    image: str,
    firmwares: Sequence[Firmware],
    output: Path,
    progress: Progress,
    *,
    timeout: float,
) -> list[Result]:
    """Boot `image` (NAME, NAME:TAG or NAME@DIGEST) of the store with each firmware in turn.

    Consoles go to `output/console-<firmware>.log`, the server's log to `output/server.log`.
    """
    results: list[Result] = []
    output.mkdir(parents=True, exist_ok=True)
    name, separator, reference = image.partition("@" if "@" in image else ":")
    Store(store).get(name, reference if separator else CURRENT)  # before a rack is put up
    with tempfile.TemporaryDirectory(prefix="bootfarm-smoke-") as scratch:
        with Rack(Path(scratch), progress=progress, image_name=name) as rack:
            rack.serve(store, LTS_CONF.format(image=image))
            for firmware in firmwares:
                progress(f"{image}: booting by {firmware}")
                results.append(_boot(rack, firmware, output, timeout))
        log = Path(scratch) / "server" / "server.log"
        if log.is_file():
            shutil.copyfile(log, output / "server.log")
    return results


def _boot(rack: Rack, firmware: Firmware, output: Path, timeout: float) -> Result:
    node = rack.add_node(NodeSpec(f"{NAME}-{firmware}", firmware=firmware))
    began = time.monotonic()
    try:
        node.power_on()
        rack.wait_up(node, timeout)
        failure = find_failure(rack.timeline(node))
    except RackError as error:
        failure = error.format_message()
    finally:
        seconds = time.monotonic() - began
        if node.files.console_log.is_file():
            shutil.copyfile(node.files.console_log, output / f"console-{firmware}.log")
        node.power_cut()
    return Result(firmware, seconds, failure)


def find_failure(timeline: Mapping[str, Any]) -> str:
    """What a timeline says against a node that is up; "" when nothing."""
    phases: Mapping[str, Any] = (timeline.get("boot") or {}).get("phases") or {}
    missing = [phase for phase in ("menu", "kernel", "ltsconf", "root") if phase not in phases]
    if missing:
        return f"the server has not seen: {', '.join(missing)}"
    for phase, seen in phases.items():
        if seen["status"] == "error":
            return f"{phase}: {seen.get('detail') or 'failed'}"
    return str(timeline.get("error") or "")


def render_junit(image: str, results: Sequence[Result]) -> bytes:
    """JUnit XML, a test case for each firmware."""
    suite = ElementTree.Element(
        "testsuite",
        name=f"bootfarm rack smoke {image}",
        tests=str(len(results)),
        failures=str(sum(1 for result in results if result.failure)),
        errors="0",
        time=f"{sum(result.seconds for result in results):.1f}",
    )
    for result in results:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=image,
            name=f"boots by {result.firmware}",
            time=f"{result.seconds:.1f}",
        )
        if result.failure:
            lines = [_printable(line) for line in result.failure.splitlines()]
            failure = ElementTree.SubElement(case, "failure", message=lines[0])
            failure.text = "\n".join(lines)
    text: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text


def _printable(text: str) -> str:
    """The text without characters that XML cannot hold, as a console's escape sequences."""
    return "".join(
        char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


@click.command(
    "smoke",
    epilog=examples(
        "bootfarm rack smoke registry.example/farm:1",
        "bootfarm rack smoke amd64:canary --store store --firmware uefi --results smoke",
    ),
)
@click.argument("image")
@click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The store: IMAGE is NAME, NAME:TAG or NAME@DIGEST of it, and no container image.",
)
@click.option(
    "--firmware",
    "firmwares",
    multiple=True,
    type=click.Choice(["bios", "uefi"]),
    help="The firmware: may be repeated.  [default: both]",
)
@click.option(
    "output",
    "--results",
    cls=Renamed,
    older=("--output",),
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("smoke"),
    show_default=True,
    help="Where junit.xml, console-*.log and server.log go.",
)
@click.option(
    "--timeout",
    type=Seconds(min=1),
    default=600.0,
    show_default=True,
    help="How long a boot may take: seconds.",
)
@click.option(
    "--engine", default="", metavar="URL", help="The Docker engine.  [default: DOCKER_HOST]"
)
def smoke_command(
    image: str,
    store: Path | None,
    firmwares: tuple[Firmware, ...],
    output: Path,
    timeout: float,
    engine: str,
) -> None:
    """Boot IMAGE in a virtual rack before it is pushed.

    IMAGE is a container image of `bootfarm container build` that the Docker engine has, or
    with --store an image of a store. A bare machine boots it by each firmware, over DHCP,
    TFTP and NBD, until it reports that its system runs. Exit code 1 when one does not, or
    when it reported an error on the way; consoles are kept as evidence. Needs root.
    """
    with printed_steps() as progress, contextlib.ExitStack() as stack:
        name = image
        if store is None:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="bootfarm-smoke-"))
            progress(f"taking the node image out of {image}")
            store = Path(scratch)
            name = extract_image(image, engine, store)
        results = smoke_test(
            store, name, firmwares or ("bios", "uefi"), output, progress, timeout=timeout
        )
    (output / "junit.xml").write_bytes(render_junit(image, results))
    for result in results:
        said = f"FAILED\n{result.failure}" if result.failure else "up"
        click.echo(f"{image} by {result.firmware}: {said} after {result.seconds:.0f} s")
    click.echo(f"junit.xml and consoles are in {output}")
    if any(result.failure for result in results):
        raise RackError(
            f"{image} does not boot", hint=f"{output}/console-*.log tell what the machine said"
        )


def extract_image(reference: str, engine: str, store: Path) -> str:
    """Put the node image of a container image into `store`; its NAME@DIGEST."""
    need_sdk()
    from imagebuild.docker.engine import Engine, parse_reference

    name = reference if reference.startswith("sha256:") else str(parse_reference(reference))
    (image,) = Engine(engine).extract(name, Store(store), (CURRENT,))[:1]
    return f"{image.name}@{image.digest}"
