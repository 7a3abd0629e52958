"""A refused image is named with its reason, and no other takes its place."""

from pathlib import Path

import pytest

from imagebuild.store.images import Store
from server.boot.choice import choose_served
from server.boot.plan import PlanError
from server.ltsconf import LtsConf
from server.site import Site
from tests.server.farm import publish

CONF = LtsConf.parse(b"")
WHY = "image amd64 is not signed; sign it"


def test_a_refused_image_is_told_with_its_reason(tmp_path: Path) -> None:
    publish(tmp_path, kernel="1")
    publish(tmp_path, kernel="2")
    new, old = Store(tmp_path).images()  # `current` first
    site = Site((old,), CONF, refused=((new, WHY),))
    for wanted in ("", "amd64", ":current", f"amd64@{new.digest}"):
        with pytest.raises(PlanError, match="is not signed") as caught:
            choose_served(site, wanted)
        assert caught.value.cause == "no_image"
    assert choose_served(site, f"amd64@{old.digest}")[0] is old


def test_also_where_all_are_refused(tmp_path: Path) -> None:
    site = Site((), CONF, refused=((publish(tmp_path), WHY),))
    with pytest.raises(PlanError, match="is not signed"):
        choose_served(site, "")


def test_the_name_in_the_path_and_a_lack_of_a_default_count_as_if_it_were_served(
    tmp_path: Path,
) -> None:
    site = Site((publish(tmp_path),), CONF, refused=((publish(tmp_path, "storage"), WHY),))
    with pytest.raises(PlanError, match="is not signed"):
        choose_served(site, "", "storage")
    with pytest.raises(PlanError, match="nothing says which image"):
        choose_served(site, "")
    assert choose_served(site, "", "amd64")[0] is site.images[0]


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    site = Site((publish(tmp_path),), CONF, refused=((publish(tmp_path, "storage"), WHY),))
    with pytest.raises(PlanError, match="there is no image 'arm'"):
        choose_served(site, "arm")
