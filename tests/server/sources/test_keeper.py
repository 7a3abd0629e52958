"""Images that no node reads any more are removed, and no others."""

from pathlib import Path

import pytest

from imagebuild.store.images import Store
from server.background import Background
from server.sources.keeper import Keeper
from tests.server.farm import publish


class Farm:
    """A store with a current image and an untagged one, its keeper, and a clock."""

    def __init__(self, path: Path, after: float | None = 60.0) -> None:
        self.now = 1000.0
        self.store = Store(path / "store")
        self.state = path / "state"
        self.state.mkdir()
        self.old = publish(self.store.path).digest
        self.new = publish(self.store.path, kernel="6.1.0-2-amd64").digest
        self.store.remove("amd64", "previous")
        self.background = Background()
        self.keeper = self.make_keeper(after)

    def make_keeper(self, after: float | None = 60.0) -> Keeper:
        return Keeper(
            self.store.path,
            self.state,
            collect_after=after,
            wall=lambda: self.now,
            background=self.background,
        )

    def digests(self, keeper: Keeper | None = None) -> set[str]:
        """What there is after a look of the keeper."""
        for _ in range(2):  # the second tells of the first
            (keeper or self.keeper).collect(self.store.images())
            self.background.submit(lambda: None).done.wait()
        return {image.digest for image in self.store.images()}


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path)


def test_an_image_goes_when_its_last_node_has_left_it_for_long_enough(farm: Farm) -> None:
    farm.keeper.note({farm.old})
    farm.now += 10_000
    assert farm.digests() == {farm.old, farm.new}
    farm.now += 10_000
    assert farm.digests() == {farm.old, farm.new}, "a node reads it, however long"
    farm.keeper.note(())
    farm.now += 59
    assert farm.digests() == {farm.old, farm.new}
    farm.now += 1
    assert farm.digests() == {farm.new}
    assert farm.keeper.problem == ""


def test_what_lost_its_tag_has_that_time_too(farm: Farm) -> None:
    farm.now += 500
    assert farm.digests() == {farm.old, farm.new}, "it is seen without a tag for the first time"
    farm.now += 59
    assert farm.digests() == {farm.old, farm.new}
    farm.store.tag("amd64", farm.old, "canary")
    farm.now += 10
    assert farm.digests() == {farm.old, farm.new}
    farm.store.remove("amd64", "canary")
    assert farm.digests() == {farm.old, farm.new}
    farm.now += 60
    assert farm.digests() == {farm.new}


def test_nodes_of_the_server_before_have_their_time_to_come_back(farm: Farm) -> None:
    farm.keeper.note({farm.old})
    farm.keeper._record.close()  # type: ignore[union-attr]
    farm.now += 10_000
    following = farm.make_keeper()
    following.note(())
    farm.digests(following)
    farm.now += 59
    assert farm.digests(following) == {farm.old, farm.new}
    farm.now += 1
    assert farm.digests(following) == {farm.new}


def test_what_nodes_read_of_another_server_is_spared(farm: Farm) -> None:
    other = farm.make_keeper()
    other.note({farm.old})
    farm.digests()
    farm.now += 10_000
    assert farm.digests() == {farm.old, farm.new}
    other.note(())
    farm.now += 60
    assert farm.digests() == {farm.new}


def test_it_is_left_to_images_gc_unless_asked_for(tmp_path: Path) -> None:
    farm = Farm(tmp_path, after=None)
    farm.now += 10_000
    assert farm.digests() == {farm.old, farm.new}


def test_half_an_import_that_was_interrupted_goes(farm: Farm) -> None:
    (farm.store.path / "tmp" / "dead").mkdir(parents=True)
    farm.digests()
    assert list((farm.store.path / "tmp").iterdir()) == []


def test_a_removal_that_fails_is_a_problem(farm: Farm) -> None:
    farm.digests()
    (farm.state / "in-use.d").mkdir()
    (farm.state / "in-use.d/1.json").write_text("{")
    farm.now += 60
    assert farm.digests() == {farm.old, farm.new}
    assert "1.json is no record of images in use" in farm.keeper.problem
    (farm.state / "in-use.d/1.json").unlink()
    assert farm.digests() == {farm.new}
    assert farm.digests() == {farm.new}
    assert farm.keeper.problem == ""
