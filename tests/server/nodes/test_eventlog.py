from server.nodes.eventlog import EventLog


def test_a_ring_of_the_newest() -> None:
    log = EventLog(3)
    assert (len(log), list(log), log.last) == (0, [], None)
    for number in range(5):
        log.append({"time": number + 0.5, "detail": {"text": "ä\ud800", "flag": True}})
    assert [entry["time"] for entry in log] == [2.5, 3.5, 4.5]
    assert [entry["time"] for entry in reversed(log)] == [4.5, 3.5, 2.5]
    assert (log[0]["time"], log[-1]["time"], len(log)) == (2.5, 4.5, 3)
    assert log[0]["detail"] == {"text": "ä\ud800", "flag": True}


def test_only_the_last_may_be_changed() -> None:
    log = EventLog(2, [{"n": 1}, {"n": 2}])
    assert log.last is not None
    log.last["count"] = 7
    log[0]["count"] = 8
    assert list(log) == [{"n": 1}, {"n": 2, "count": 7}]
    log.replace_last({"n": 3})
    log.append({"n": 4})
    assert list(log) == [{"n": 3}, {"n": 4}]


def test_a_log_of_one() -> None:
    log = EventLog(1, [{"n": 1}, {"n": 2}])
    assert list(log) == [{"n": 2}]
