"""Certificates before an API server in memory: once a boot, whoever asks, however often."""

import base64
import threading
import time
from collections.abc import Callable

import pytest
from cryptography import x509

from server.farm.join import Join
from server.join import cluster as module
from server.join.cluster import CLUSTER_INFO, CSRS, EXPIRATION, LEASES, SIGNER, Cluster
from server.join.issuer import Certificate, Issuer, Order, Outcome
from server.join.policy import Refusal, name_csr
from server.join.request import JoinRequest, hash_key
from tests.server.join.cluster import MAC, NOW, FakeApi, make_request

IP = "10.9.0.11"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def make_issuer(
    api: FakeApi, clock: Clock | None = None, wall: Callable[[], float] = lambda: NOW, **keys: int
) -> Issuer:
    clock = clock or Clock()
    cluster = Cluster(api, clock=clock, pause=clock.pause)
    return Issuer(cluster, Join(True, **keys), wall=wall, clock=clock)  # type: ignore[arg-type]


def order(request: JoinRequest | None = None) -> Order:
    return Order(IP, MAC, request or make_request())


def issued(outcome: Outcome) -> Certificate:
    assert isinstance(outcome, Certificate), outcome
    return outcome


def refused(outcome: Outcome) -> str:
    assert isinstance(outcome, Refusal), outcome
    return outcome.cause


def test_a_certificate_of_the_cluster() -> None:
    api = FakeApi()
    asked = make_request()
    found = issued(make_issuer(api).issue(order(asked)))
    certificate = x509.load_pem_x509_certificate(found.pem.encode())
    assert hash_key(certificate.public_key()) == asked.key  # type: ignore[arg-type]
    assert found.is_new
    assert (found.node, found.api) == ("node-1", "https://a:6443")
    assert found.authority == api.read_credentials().authority
    assert found.until == NOW + 600
    (csr,) = api.csrs.values()
    spec = csr["spec"]
    assert base64.b64decode(spec["request"]).decode() == asked.csr
    assert (spec["signerName"], spec["expirationSeconds"]) == (SIGNER, EXPIRATION)
    assert spec["usages"] == ["digital signature", "key encipherment", "client auth"]
    name = name_csr(MAC, asked)
    assert csr["metadata"]["name"] == name
    # What k8s/join allows, and nothing else.
    assert api.calls == [
        ("GET", f"{CSRS}/{name}"),
        ("GET", f"{LEASES}/node-1"),
        ("POST", CSRS),
        ("PUT", f"{CSRS}/{name}/approval"),
        ("GET", f"{CSRS}/{name}"),
        ("GET", CLUSTER_INFO),
    ]


def test_the_same_again_is_the_same_also_from_another_server() -> None:
    api = FakeApi()
    asked = order()
    first = issued(make_issuer(api).issue(asked))
    api.renew("node-1", age=1.0)  # its kubelet has started meanwhile
    again = issued(make_issuer(api).issue(asked))
    assert again.pem == first.pem
    assert not again.is_new
    assert len(api.csrs) == 1


def test_another_key_of_the_same_boot_gets_none() -> None:
    api = FakeApi()
    issuer = make_issuer(api)
    issued(issuer.issue(order()))
    assert refused(issuer.issue(order())) == "join_twice"
    assert refused(make_issuer(api).issue(order())) == "join_twice"
    assert len(api.csrs) == 1
    issued(issuer.issue(order(make_request(boot="the-next-boot"))))


def test_as_many_keys_as_the_farm_gives_a_boot() -> None:
    api = FakeApi()
    issuer = make_issuer(api, per_boot=2)
    first, second = order(), order()
    pems = [issued(issuer.issue(one)).pem for one in (first, second)]
    assert refused(issuer.issue(order())) == "join_twice"
    assert [issued(issuer.issue(one)).pem for one in (first, second)] == pems


def test_a_living_kubelet_of_that_name() -> None:
    api = FakeApi()
    api.renew("node-1", age=11.0)
    issuer = make_issuer(api)
    assert refused(issuer.issue(order())) == "join_alive"
    assert api.csrs == {}
    # Of another name, or let go by the node itself: it may.
    api.renew("node-2", age=1.0)
    api.renew("node-1", age=NOW)
    issued(issuer.issue(order()))


def watch(issuer: Issuer, clock: Clock, one: Order, looks: int = 3, pause: float = 5.0) -> None:
    """So many looks at a lease that nobody renews; the next one finds it dead, or not."""
    for _ in range(looks):
        assert refused(issuer.issue(one)) == "join_watched"
        clock.now += pause


@pytest.mark.parametrize("age", [40.0, 89.0, 7200.0])
def test_an_old_lease_is_watched_before_it_counts_as_dead(age: float) -> None:
    """The clocks of node and server decide nothing: a starved kubelet renews late."""
    api, clock = FakeApi(), Clock()
    api.renew("node-1", age=age)
    issuer, asked = make_issuer(api, clock), order()
    outcome = issuer.issue(asked)
    assert isinstance(outcome, Refusal)
    assert (outcome.cause, outcome.wait) == ("join_watched", 5)
    assert "unless it renews within the next 15 s" in outcome.words
    clock.now += 5.0
    watch(issuer, clock, asked, 2)
    assert api.csrs == {}
    issued(issuer.issue(asked))


def test_a_lease_that_has_not_expired_is_watched_until_it_has() -> None:
    """A node that reboots by itself within 40 s, or one whose kubelet is late by so much."""
    api, clock = FakeApi(), Clock()
    api.renew("node-1", age=20.0)
    issuer, asked = make_issuer(api, clock, wall=lambda: NOW - 100.0 + clock.now), order()
    watch(issuer, clock, asked, 4)
    issued(issuer.issue(asked))
    # By the watch alone, where the node's clock hurries on with the server's.
    api.renew("node-2", age=20.0)
    asked = order(make_request("node-2"))
    issuer = make_issuer(api, clock)
    watch(issuer, clock, asked, 8)
    issued(issuer.issue(asked))


def test_a_kubelet_that_renews_late_is_never_taken_for_dead() -> None:
    """As the rack saw it: each renewal is already old when somebody on the node asks."""
    api, clock = FakeApi(), Clock()
    issuer, asked = make_issuer(api, clock), order()
    for number in range(20):
        api.renew("node-1", age=16.0 + number, version=str(number))
        watch(issuer, clock, asked, 3)
    assert api.csrs == {}


def test_a_clock_that_is_set_back_or_ahead_makes_nobody_dead() -> None:
    api, clock, wall = FakeApi(), Clock(), [NOW]
    issuer, asked = make_issuer(api, clock, wall=lambda: wall[0]), order()
    api.renew("node-1", age=1.0)
    assert refused(issuer.issue(asked)) == "join_alive"
    wall[0] += 86_400.0  # the server's
    assert refused(issuer.issue(asked)) == "join_watched"
    api.renew("node-1", age=86_400.0, version="2")  # the node's
    assert refused(issuer.issue(asked)) == "join_watched"


def test_two_looks_far_apart_are_no_watch() -> None:
    """The API server may have been away between them, and no kubelet could renew."""
    api, clock = FakeApi(), Clock()
    api.renew("node-1", age=89.0)
    issuer, asked = make_issuer(api, clock), order()
    watch(issuer, clock, asked, 3, pause=3600.0)
    issued(issuer.issue(asked))


def test_a_look_without_an_answer_ends_the_watch() -> None:
    api, clock = FakeApi(), Clock()
    api.renew("node-1", age=89.0)
    issuer, asked = make_issuer(api, clock), order()
    watch(issuer, clock, asked)
    api.statuses["GET", LEASES] = (503, {})
    assert refused(issuer.issue(asked)) == "join_api"
    api.statuses.clear()
    watch(issuer, clock, asked)
    issued(issuer.issue(asked))


def test_a_slow_answer_counts_by_when_it_was_asked_for() -> None:
    """What the API server read at once may come late to a server that is starved itself."""
    api, clock = FakeApi(), Clock()
    api.renew("node-1", age=89.0)
    issuer, asked = make_issuer(api, clock), order()

    def be_slow(method: str, path: str) -> None:
        if path.startswith(LEASES):
            clock.now += 60.0

    object.__setattr__(api, "before", be_slow)
    watch(issuer, clock, asked, 20, pause=0.0)
    assert api.csrs == {}


def test_each_server_watches_for_itself_and_anew_after_a_restart() -> None:
    api, clock = FakeApi(), Clock()
    api.renew("node-1", age=89.0)
    first, second, asked = make_issuer(api, clock), make_issuer(api, clock), order()
    watch(first, clock, asked)
    watch(second, clock, asked)
    pem = issued(first.issue(asked)).pem
    assert issued(second.issue(asked)).pem == pem, "which the cluster has by now"


def test_as_many_leases_are_watched_as_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.join.issuer.LEASES", 2)
    api, clock = FakeApi(), Clock()
    issuer = make_issuer(api, clock)
    orders = [order(make_request(f"node-{number}")) for number in range(3)]
    for number in range(3):
        api.renew(f"node-{number}", age=89.0)
    watch(issuer, clock, orders[0])
    watch(issuer, clock, orders[1], 1)
    watch(issuer, clock, orders[2], 1)
    watch(issuer, clock, orders[0])  # it was forgotten, which costs a wait
    issued(issuer.issue(orders[0]))


def test_a_lease_from_the_future_holds_for_as_long_as_it_is_renewed() -> None:
    api, clock = FakeApi(), Clock()
    issuer = make_issuer(api, clock)
    for version in ("1", "2"):
        api.renew("node-1", age=-3600.0, version=version)
        for _ in range(8):
            assert refused(issuer.issue(order())) == "join_alive"
            clock.now += 5.0
    issued(issuer.issue(order()))


def test_a_certificate_that_ends_is_followed_by_one_for_the_same_key_only() -> None:
    api = FakeApi()
    now = [NOW]
    issuer = make_issuer(api, wall=lambda: now[0])
    asked = order()
    first = issued(issuer.issue(asked))
    now[0] = NOW + 470.0
    assert issued(issuer.issue(asked)).pem == first.pem
    now[0] = api.settings["now"] = NOW + 490.0
    second = issued(issuer.issue(asked))
    assert second.pem != first.pem
    assert second.until == NOW + 1090.0
    assert refused(issuer.issue(order())) == "join_twice"
    # The cluster removes old requests: it begins anew.
    del api.csrs[name_csr(MAC, asked.request)]
    third = issued(issuer.issue(asked))
    assert third.is_new


@pytest.mark.parametrize("same_key", [True, False])
def test_races_of_two_servers_never_give_two(same_key: bool) -> None:
    """40 times; both have seen that there is none before either makes one."""
    for number in range(40):
        api = FakeApi()
        both = threading.Barrier(2, timeout=20)

        def meet(method: str, path: str, both: threading.Barrier = both) -> None:
            if method == "POST":
                both.wait()

        object.__setattr__(api, "before", meet)
        boot = f"boot-number-{number}"
        asked = [order(make_request(boot=boot))]
        asked.append(asked[0] if same_key else order(make_request(boot=boot)))
        outcomes: dict[int, Outcome] = {}

        def ask(
            which: int, one: Order, api: FakeApi = api, outcomes: dict[int, Outcome] = outcomes
        ) -> None:
            outcomes[which] = make_issuer(api).issue(one)

        threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(asked)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        given = {one.pem for one in outcomes.values() if isinstance(one, Certificate)}
        assert len(outcomes) == 2
        assert len(given) == 1
        assert len(api.csrs) == 1
        causes = [one.cause for one in outcomes.values() if isinstance(one, Refusal)]
        assert causes == ([] if same_key else ["join_twice"])


def test_somebody_else_approves_meanwhile() -> None:
    api = FakeApi()
    clashes = [2]

    def change(method: str, path: str) -> None:
        if method == "PUT" and clashes[0]:
            clashes[0] -= 1
            (csr,) = api.csrs.values()
            csr["metadata"]["resourceVersion"] += "0"

    object.__setattr__(api, "before", change)
    issued(make_issuer(api).issue(order()))
    clashes[0] = 99
    outcome = make_issuer(api).issue(order(make_request(boot="the-next-boot")))
    assert refused(outcome) == "join_api"


def test_a_foreign_object_of_that_name() -> None:
    """Who may make requests may take the name of one: that machine gets none, nor does he."""
    api = FakeApi()
    asked = make_request()
    name = name_csr(MAC, asked)
    spec = {"request": base64.b64encode(make_request().csr.encode()).decode()}
    for signer in (SIGNER, "kubernetes.io/kube-apiserver-client", None):
        api.csrs[name] = {"metadata": {"name": name}, "spec": {**spec, "signerName": signer}}
        assert refused(make_issuer(api).issue(order(asked))) == "join_twice"
        assert "status" not in api.csrs[name]


@pytest.mark.parametrize(
    ("begin", "answer", "words"),
    [
        (("GET", CSRS), (403, {"message": "forbidden"}), "403 forbidden (is k8s/join applied?)"),
        (("POST", CSRS), (403, {"message": "no"}), "refuses a request: 403 no (is k8s/join"),
        (("POST", CSRS), (500, {"message": "etcd is unwell"}), "500 etcd is unwell"),
        (("PUT", CSRS), (403, {"message": "cannot approve"}), "refuses an approval: 403 cannot"),
        (("GET", LEASES), (403, {}), "refuses a lease: 403 (is k8s/join applied?)"),
        (("GET", CLUSTER_INFO), (403, {}), "names no API server (HTTP 403): set `join: {api:"),
        (("GET", CLUSTER_INFO), (200, {"data": {"kubeconfig": "{"}}), "names no API server"),
        (("GET", CLUSTER_INFO), (200, {"data": {}}), "names no API server"),
    ],
)
def test_what_the_cluster_refuses(
    begin: tuple[str, str], answer: tuple[int, dict[str, object]], words: str
) -> None:
    api = FakeApi()
    api.statuses[begin] = answer
    outcome = make_issuer(api).issue(order())
    assert refused(outcome) == "join_api"
    assert words in outcome.words  # type: ignore[union-attr]


def test_the_cluster_does_not_answer_or_sign() -> None:
    api = FakeApi()
    api.settings["down"] = True
    outcome = make_issuer(api).issue(order())
    assert refused(outcome) == "join_api"
    assert "does not answer" in outcome.words  # type: ignore[union-attr]
    api.settings.update(down=False, signs=False)
    clock = Clock()
    outcome = make_issuer(api, clock).issue(order())
    assert refused(outcome) == "join_api"
    assert "not signed within 10 s" in outcome.words  # type: ignore[union-attr]
    assert clock.now < 100 + 2 * module.SIGN_SECONDS


def test_an_administrator_denies_it() -> None:
    api = FakeApi()
    asked = make_request()
    name = name_csr(MAC, asked)
    issued(make_issuer(api).issue(order(asked)))
    api.csrs[name]["status"] = {"conditions": [{"type": "Denied", "message": "not this one"}]}
    outcome = make_issuer(api).issue(order(asked))
    assert refused(outcome) == "join_api"
    assert "not this one" in outcome.words  # type: ignore[union-attr]


def test_no_more_than_so_many_a_minute() -> None:
    api = FakeApi()
    clock = Clock()
    issuer = make_issuer(api, clock, per_minute=3)
    boots = [order(make_request(boot=f"boot-number-{number}")) for number in range(5)]
    assert [isinstance(issuer.issue(one), Certificate) for one in boots] == [True] * 3 + [False] * 2
    assert refused(issuer.issue(boots[3])) == "join_limit"
    issued(issuer.issue(boots[0]))  # which it has already
    clock.now += 20.0
    issued(issuer.issue(boots[3]))


def test_the_farms_own_address_of_the_api_server() -> None:
    api = FakeApi()
    clock = Clock()
    settings = Join(True, api="api.example.org:6443")
    issuer = Issuer(Cluster(api), settings, wall=lambda: NOW, clock=clock)
    assert issued(issuer.issue(order())).api == "https://api.example.org:6443"
    assert ("GET", CLUSTER_INFO) not in api.calls


def wait_outcome(issuer: Issuer, one: Order) -> Outcome:
    end = time.monotonic() + 20
    while (outcome := issuer.ask(one)) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return outcome


def test_asking_never_waits_and_each_outcome_is_told_once() -> None:
    api = FakeApi()
    gate = threading.Event()
    object.__setattr__(api, "before", lambda method, path: gate.wait(20))
    told: list[tuple[Order, Outcome]] = []
    issuer = Issuer(
        Cluster(api), Join(True), done=lambda one, what: told.append((one, what)), wall=lambda: NOW
    )
    asked = order()
    assert [issuer.ask(asked) for _ in range(5)] == [None] * 5
    gate.set()
    first = issued(wait_outcome(issuer, asked))
    assert wait_outcome(issuer, asked) == first
    assert refused(wait_outcome(issuer, order())) == "join_twice"
    assert [type(what).__name__ for _, what in told] == ["Certificate", "Refusal"]


def test_a_refusal_is_looked_at_anew() -> None:
    api = FakeApi()
    api.renew("node-1", age=1.0)
    issuer = Issuer(Cluster(api), Join(True), wall=lambda: NOW)
    asked = order()
    assert refused(wait_outcome(issuer, asked)) == "join_alive"
    api.renew("node-1", age=NOW)
    issued(wait_outcome(issuer, asked))


def test_a_crowd_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.join.issuer.WAITING", 3)
    api = FakeApi()
    gate = threading.Event()
    object.__setattr__(api, "before", lambda method, path: gate.wait(20))
    issuer = Issuer(Cluster(api), Join(True), wall=lambda: NOW)
    boots = [order(make_request(boot=f"boot-number-{number}")) for number in range(4)]
    assert [issuer.ask(one) for one in boots[:3]] == [None] * 3
    assert refused(issuer.ask(boots[3]) or pytest.fail("no outcome")) == "join_limit"
    gate.set()
    for one in boots:
        issued(wait_outcome(issuer, one))
