"""What the container's start does to the store volume."""

import threading
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from container import door
from container.door import import_baked, make_door
from imagebuild.store.images import Store
from tests.server.farm import publish


def current(store: Path) -> str:
    return Store(store).get("amd64").digest


def test_the_first_start_fills_the_volume(tmp_path: Path) -> None:
    baked = publish(tmp_path / "baked")
    taken = import_baked(tmp_path / "baked", Store(tmp_path / "store"), tmp_path / "state")
    assert [image.digest for image in taken] == [baked.digest]
    assert current(tmp_path / "store") == baked.digest


def test_another_container_brings_another_current_and_keeps_the_old(tmp_path: Path) -> None:
    old = publish(tmp_path / "old")
    new = publish(tmp_path / "new", kernel="6.1.0-2-amd64")
    store, state = Store(tmp_path / "store"), tmp_path / "state"
    import_baked(tmp_path / "old", store, state)
    import_baked(tmp_path / "new", store, state)
    assert store.get("amd64", "current").digest == new.digest
    assert store.get("amd64", "previous").digest == old.digest
    import_baked(tmp_path / "old", store, state)  # a Deployment rolled back
    assert store.get("amd64", "current").digest == old.digest


def test_a_restart_leaves_tags_that_people_have_set(tmp_path: Path) -> None:
    store, state = Store(tmp_path / "store"), tmp_path / "state"
    publish(tmp_path / "old")
    new = publish(tmp_path / "new", kernel="6.1.0-2-amd64")
    import_baked(tmp_path / "old", store, state)
    import_baked(tmp_path / "new", store, state)
    rolled_back = store.rollback("amd64").digest
    assert rolled_back != new.digest
    assert import_baked(tmp_path / "new", store, state) == []
    assert current(tmp_path / "store") == rolled_back


def test_without_state_every_start_sets_current(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    publish(tmp_path / "old")
    new = publish(tmp_path / "new", kernel="6.1.0-2-amd64")
    import_baked(tmp_path / "old", store, None)
    import_baked(tmp_path / "new", store, None)
    store.rollback("amd64")
    import_baked(tmp_path / "new", store, None)
    assert current(tmp_path / "store") == new.digest


def test_a_damaged_memory_is_no_memory(tmp_path: Path) -> None:
    baked = publish(tmp_path / "baked")
    for text in ("{", "[]", ""):
        (tmp_path / door.REMEMBERED).write_text(text)
        import_baked(tmp_path / "baked", Store(tmp_path / "store"), tmp_path)
        assert current(tmp_path / "store") == baked.digest


def run_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    """Run the door with a `serve` that only says that it was called."""
    from server.commands.serve import PROBLEMS, serve_command

    def serve(**words: Any) -> None:
        for problem in click.get_current_context().meta[PROBLEMS]:
            click.echo(f"/healthz is told: {problem}")
        click.echo("serving")

    monkeypatch.setattr(serve_command, "callback", serve)
    monkeypatch.setattr(door, "BAKED", tmp_path / "baked")
    commands: list[click.Command] = [serve_command]
    group = make_door(commands)
    return CliRunner().invoke(group, list(words))


def test_serve_imports_first_by_flag_and_by_farm_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baked = publish(tmp_path / "baked")
    (tmp_path / "farm.yaml").write_text("store: two\nstate: state\n")
    for words, store in (
        (["--store", str(tmp_path / "one")], "one"),
        (["--config", str(tmp_path / "farm.yaml")], "two"),
    ):
        done = run_door(tmp_path, monkeypatch, "serve", *words)
        assert done.exit_code == 0, done.output
        assert done.output.endswith("serving\n")
        assert current(tmp_path / store) == baked.digest
    assert (tmp_path / "state" / door.REMEMBERED).is_file()


def test_a_volume_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "baked", kernel="6.1.0-2-amd64")
    (tmp_path / "file").write_text("not a directory")
    done = run_door(tmp_path, monkeypatch, "serve", "--store", str(tmp_path / "file/store"))
    assert done.exit_code == 1
    assert "cannot be imported into" in done.output
    assert "serving" not in done.output


def test_what_is_in_the_store_is_served_although_the_import_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = publish(tmp_path / "store")
    new = publish(tmp_path / "baked", kernel="6.1.0-2-amd64")
    (new.path / "vmlinuz").write_bytes(b"damaged")
    done = run_door(tmp_path, monkeypatch, "serve", "--store", str(tmp_path / "store"))
    assert done.exit_code == 0, done.output
    assert "cannot be imported" in done.output
    assert done.output.endswith("serving\n")
    assert "/healthz is told: the container's image cannot be imported into" in done.output
    assert current(tmp_path / "store") == old.digest


def test_containers_that_share_a_volume_copy_the_image_once(tmp_path: Path) -> None:
    baked = publish(tmp_path / "baked")
    copied: list[Path] = []

    class Counting(Store):
        def import_image(self, directory: Any, **options: Any) -> Any:
            if not (self.path / "images").exists():
                copied.append(directory)
                time.sleep(0.05)
            return super().import_image(directory, **options)

    def start() -> None:
        import_baked(tmp_path / "baked", Counting(tmp_path / "store"), tmp_path / "state")

    containers = [threading.Thread(target=start) for _ in range(2)]
    for container in containers:
        container.start()
    for container in containers:
        container.join()
    assert copied == [baked.path]
    assert current(tmp_path / "store") == baked.digest


def test_images_of_the_volume_can_be_managed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = publish(tmp_path / "store")
    monkeypatch.setenv("BOOTFARM_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("BOOTFARM_STATE", str(tmp_path))
    for words, says in ((["list"], image.digest[:12]), (["gc"], "freed 0 B")):
        done = CliRunner().invoke(make_door(), ["images", *words])
        assert done.exit_code == 0, done.output
        assert says in done.output
