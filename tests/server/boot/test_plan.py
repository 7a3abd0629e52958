from collections.abc import Sequence

import pytest

from imagebuild.store.images import Image, Store
from server.boot.plan import Farm, PlanError, choose_image, plan_boot, split_cmdline
from server.boot.settlement import settle
from server.ltsconf import LtsConf, NodeId, parse_flat
from server.ltsconf.cmdline import CMDLINE_MAX
from server.site import Site
from tests.server.farm import publish

FARM = Farm(address="10.9.0.1")
NODE = NodeId(hostname="node-1", ip="10.9.0.11", mac="52:54:00:00:00:01")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Image]:
    store = tmp_path_factory.mktemp("store")
    publish(store, "amd64", kernel="1")
    publish(store, "amd64", kernel="2", lts_defaults={"LTSP_NBD_TO_RAM": "true", "A": "image"})
    publish(store, "amd64", kernel="3", tags=["canary"])
    publish(store, "storage", kernel="9")
    return Store(store).images()


def pick(images: Sequence[Image], kernel: str) -> Image:
    return next(image for image in images if image.manifest.kernel == kernel)


@pytest.mark.parametrize(
    ("wanted", "name", "kernel", "reference"),
    [
        ("amd64", None, "2", "amd64:current"),
        ("amd64:current", None, "2", "amd64:current"),
        ("amd64:previous", None, "1", "amd64:previous"),
        ("amd64:canary", None, "3", "amd64:canary"),
        ("storage", None, "9", "storage:current"),
        ("storage", "amd64", "9", "storage:current"),
        ("", "storage", "9", "storage:current"),
        ("", "no-such", "2", "amd64:current"),
        (":canary", "amd64", "3", "amd64:canary"),
        (" amd64 : canary ", None, "3", "amd64:canary"),
    ],
)
def test_image_of(
    images: Sequence[Image], wanted: str, name: str | None, kernel: str, reference: str
) -> None:
    image, words = choose_image(wanted, images, "amd64", name)
    assert (image.manifest.kernel, words) == (kernel, reference)


def test_image_by_digest(images: Sequence[Image]) -> None:
    one = pick(images, "1")
    for digest in (one.digest, one.digest[:12]):
        assert choose_image(f"amd64@{digest}", images, None)[0] == one
    with pytest.raises(PlanError, match="no image with that digest") as caught:
        choose_image(f"amd64@{one.digest[:8]}", images, None)
    assert one.digest[:12] in caught.value.hint


@pytest.mark.parametrize(
    ("wanted", "message", "hint"),
    [
        ("amd46", "there is no image 'amd46'", "did you mean 'amd64'? the store has: amd64, st"),
        ("amd64:canarie", "no tag 'canarie'", "did you mean 'canary'? it has: canary, current, p"),
        ("", "nothing says which image", "IMAGE in lts.conf"),
        ("storage:canary", "image storage has no tag", "it has: current"),
    ],
)
def test_an_image_that_is_not_there(
    images: Sequence[Image], wanted: str, message: str, hint: str
) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        choose_image(wanted, images, None)
    assert hint in caught.value.hint


def test_the_only_image_needs_no_name(images: Sequence[Image]) -> None:
    storage = [pick(images, "9")]
    assert choose_image("", storage, None, "amd64")[0] == storage[0]
    with pytest.raises(PlanError, match="holds no image"):
        choose_image("", [], None)


def test_plan(images: Sequence[Image]) -> None:
    conf = LtsConf.parse(
        b'[default]\nA = none\nKERNEL_CMDLINE = "quiet"\nRCFILE_01 = "true"\n'
        b"[52:54:00:00:00:01]\nIMAGE = amd64:current\n"
    )
    settled = settle(Site(tuple(images), conf), NODE)
    plan = plan_boot(NODE, settled, FARM)
    image = pick(images, "2")
    assert plan.image == image
    assert plan.reference == "amd64:current"
    assert plan.export == f"/opt/ltsp/amd64@{image.digest}"
    assert plan.cmdline == (
        "root=/dev/nbd0",
        f"nbdroot=10.9.0.1:{plan.export}",
        "init=/sbin/init-ltsp",
        "bootfarm.http=8080",
        "console=tty1",
        "console=ttyS0,115200",
        "quiet",
    )
    assert parse_flat(plan.flat) == {
        "IMAGE": "amd64:current",
        "KERNEL_CMDLINE": "quiet",
        "LTSP_NBD_TO_RAM": "true",
        "RCFILE_01": "true",
    }
    # Pure: the same question has the same answer.
    assert plan_boot(NODE, settled, FARM) == plan


def test_plan_says_what_differs_from_the_defaults(images: Sequence[Image]) -> None:
    farm = Farm(
        address="10.9.0.1",
        http_port=80,
        nbd_port=10810,
        cmdline=("net.ifnames=0",),
        on_error="reboot",
    )
    conf = LtsConf.parse(b"[default]\nIMAGE=amd64\n")
    words = plan_boot(NODE, settle(Site(tuple(images), conf), NODE), farm).cmdline
    assert "nbdport=10810" in words
    assert "bootfarm.http=80" in words
    assert "bootfarm.on_error=reboot" in words
    assert words[-1] == "net.ifnames=0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("  quiet\tsplash ", ("quiet", "splash")),
        ('dyndbg="file nbd.c +p" x', ("dyndbg=file nbd.c +p", "x")),
        ('"a b=c d"', ("a b=c d",)),
        ('a="" b', ("a=", "b")),
        ("x=$HOME;`id`", ("x=$HOME;`id`",)),
    ],
)
def test_split_cmdline_as_the_kernel_does(text: str, words: tuple[str, ...]) -> None:
    assert split_cmdline(text) == words


@pytest.mark.parametrize("value", ['a="b', "a\x01b", "it's", "a\\b", "x" * CMDLINE_MAX])
def test_a_cmdline_that_would_not_arrive_is_refused(images: Sequence[Image], value: str) -> None:
    conf = LtsConf.parse(f'[default]\nIMAGE=amd64\nKERNEL_CMDLINE = "{value}"\n'.encode())
    settled = settle(Site(tuple(images), conf), NODE)
    with pytest.raises(PlanError) as caught:
        plan_boot(NODE, settled, FARM)
    assert caught.value.hint


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Image]:
    store = tmp_path_factory.mktemp("mixed")
    publish(store, "amd64", kernel="1")
    publish(store, "arm64", kernel="2", architecture="arm64")
    return Store(store).images()


BOTH = {"amd64": "amd64", "arm64": "arm64"}


@pytest.mark.parametrize(
    ("wanted", "default", "name", "architecture", "found"),
    [
        ("", BOTH, None, "arm64", "arm64"),
        ("", BOTH, None, "amd64", "amd64"),
        ("", BOTH, None, "", "amd64"),
        ("", None, None, "arm64", "arm64"),
        ("", None, None, "amd64", "amd64"),
        # Whose loader it runs tells what it is.
        ("", BOTH, "arm64", "", "arm64"),
        ("", None, "arm64", "", "arm64"),
        # DHCP names one image for all machines.
        ("", BOTH, "amd64", "arm64", "arm64"),
        ("arm64", None, None, "", "arm64"),
        (":current", BOTH, None, "arm64", "arm64"),
    ],
)
def test_an_image_for_each_architecture(
    mixed: Sequence[Image],
    wanted: str,
    default: dict[str, str] | None,
    name: str | None,
    architecture: str,
    found: str,
) -> None:
    assert choose_image(wanted, mixed, default, name, architecture)[0].name == found


@pytest.mark.parametrize(
    ("wanted", "default", "name", "architecture"),
    [
        ("amd64", BOTH, None, "arm64"),
        ("amd64", BOTH, "arm64", ""),
        ("amd64:current", None, "arm64", "arm64"),
        ("", "amd64", None, "arm64"),
        ("", None, "amd64", "arm64"),
    ],
)
def test_a_machine_gets_no_image_of_another_architecture(
    mixed: Sequence[Image],
    wanted: str,
    default: str | dict[str, str] | None,
    name: str | None,
    architecture: str,
) -> None:
    with pytest.raises(PlanError) as caught:
        choose_image(wanted, mixed, default, name, architecture)
    words = "image amd64:current is for amd64 machines, and this machine is arm64"
    assert (caught.value.message, caught.value.cause) == (words, "architecture")
    assert "the store has for arm64: arm64" in caught.value.hint
