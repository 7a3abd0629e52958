"""Machines that the inventory does not name, where farm.yaml does not just boot them."""

from tests.server.diagnosis.story import DIGEST, MAC, Story

PATH = "/ltsp/amd64/boot.ipxe"


def held() -> Story:
    words = "not in the inventory: its boot menu waits for somebody at the machine"
    return (
        Story()
        .to_loader()
        .see(*("plan", "menu"), status="start", path=PATH, message=words, cause="held")
    )


def test_held_at_the_menu_until_a_kernel_is_asked_for() -> None:
    story = held()
    found = story.finding()
    assert found is not None
    assert (found.rule, found.severity, found.phase) == ("held-at-menu", "stalled", "menu")
    assert found.headline.startswith(f"{MAC} is not in the inventory")
    assert any(f"- {{mac: {MAC}, hostname" in line for line in found.check)
    assert story.wait(10_000).rule() == "held-at-menu"
    assert story.tftp(f"/ltsp/amd64/@{DIGEST}/vmlinuz").rule() is None


def test_no_longer_held_once_it_is_listed() -> None:
    story = held().see("plan", "menu", status="ok", path=PATH, digest=DIGEST)
    assert story.rule() is None


def test_refused_although_another_server_gave_a_loader() -> None:
    words = f"{MAC} is not in the inventory, and farm.yaml lets only listed machines boot; add it"
    detail = {"status": "error", "path": PATH, "message": words, "cause": "not_listed"}
    story = Story().to_loader().see("plan", "menu", **detail)
    found = story.finding()
    assert found is not None
    assert (found.rule, found.severity) == ("not-listed-menu", "error")
    assert "only listed machines boot" in found.headline


def test_another_error_of_the_menu_is_not_about_the_inventory() -> None:
    story = Story().to_loader().see("plan", "menu", status="error", path=PATH, message="x")
    assert story.rule() == "menu-refused"
