"""The doctor on certificates: the account is asked for its rights, and nothing is signed."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.doctor.joining import check_join
from server.doctor.target import Survey, Target
from server.doctor.verdict import Level, Verdict
from server.farm.join import Join
from server.join.cluster import CLUSTER_INFO
from server.join.rights import DANGEROUS, NEEDED, REVIEWS, Right
from server.kubernetes.api import ApiError
from tests.server.join.cluster import FakeApi

BARE = {"RCFILE_07_JOIN": "kubeadm join --ignore-preflight-errors Swap"}
TOKEN = {"RCFILE_07_JOIN": "kubeadm join 10.9.0.20:6443 --token abcdef.0123456789abcdef"}


class Reviewed(FakeApi):
    """Tells which of `rights` the account has."""

    rights: set[Right]

    def call(
        self, method: str, path: str, body: Any = None, *rest: Any, anonymous: bool = False
    ) -> tuple[int, dict[str, Any]]:
        if path != REVIEWS:
            return super().call(method, path, body, anonymous=anonymous)
        json.dumps(body)
        if self.settings["down"]:
            raise ApiError("Connection refused")
        if self.statuses.get(("POST", REVIEWS)):
            return self.statuses["POST", REVIEWS]
        asked = Right(**body["spec"]["resourceAttributes"])
        return 201, {"status": {"allowed": asked in self.rights}}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Reviewed:
    api = Reviewed()
    object.__setattr__(api, "rights", set(NEEDED))
    monkeypatch.setattr("server.doctor.joining.open_account", lambda join: api)
    return api


def look(values: dict[str, str], join: Join | None) -> tuple[list[Verdict], Survey]:
    survey = Survey(values=values)
    return list(check_join(Target("10.9.0.1", join=join), survey)), survey


def ids(verdicts: list[Verdict]) -> list[str]:
    return [verdict.id for verdict in verdicts]


def test_all_is_well_and_nothing_was_signed(api: Reviewed) -> None:
    verdicts, survey = look(BARE, Join(True))
    assert ids(verdicts) == ["join.ok"]
    assert survey.api == "https://a:6443"
    assert [path for _, path in api.calls] == [CLUSTER_INFO]
    assert api.csrs == {}
    assert look(BARE, Join(True, api="10.9.0.20:6443"))[1].api == "https://10.9.0.20:6443"


def test_without_certificates() -> None:
    assert ids(look(BARE, Join())[0]) == ["join.off"]
    assert look(TOKEN, Join())[0] == []
    assert look(BARE, None)[0] == [], "without farm.yaml nobody knows"


def test_nothing_says_which_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert ids(look(BARE, Join(True))[0]) == ["join.account"]
    (verdict,) = look(BARE, Join(True, kubeconfig=tmp_path / "none"))[0]
    assert (verdict.id, verdict.level) == ("join.account", Level.FAIL)
    assert str(tmp_path / "none") in verdict.words


@pytest.mark.parametrize("missing", NEEDED, ids=str)
def test_a_right_that_is_missing_is_named(api: Reviewed, missing: Right) -> None:
    api.rights.discard(missing)
    (verdict,) = look(BARE, Join(True))[0]
    assert verdict.id == "join.rights"
    assert verdict.words == f"it may not {missing}"
    assert "kubectl apply -k k8s/join" in verdict.remedy


def test_rights_that_are_as_good_as_cluster_admin(api: Reviewed) -> None:
    api.rights.update(DANGEROUS[:2])
    verdicts = look(BARE, Join(True))[0]
    assert ids(verdicts) == ["join.ok", "join.too-much"]
    assert verdicts[1].level is Level.WARN
    assert verdicts[1].words == (
        "it may create secrets in kube-system, patch secrets in kube-system"
    )


def test_the_cluster_is_away_or_does_not_know_the_account(api: Reviewed) -> None:
    api.settings["down"] = True
    assert ids(look(BARE, Join(True))[0]) == ["join.down"]
    api.settings["down"] = False
    api.statuses["POST", REVIEWS] = (401, {"message": "Unauthorized"})
    (verdict,) = look(BARE, Join(True))[0]
    assert (verdict.id, verdict.words) == (
        "join.down",
        "the account is not known: 401 Unauthorized",
    )


def test_no_address_for_the_machines(api: Reviewed) -> None:
    api.statuses["GET", CLUSTER_INFO] = (403, {})
    assert ids(look(BARE, Join(True))[0]) == ["join.ok", "join.address"]
