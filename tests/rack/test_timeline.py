from typing import Any

from rack.timeline import describe_timeline, is_up, render_rows, rows_of


def phase(first: float, last: float | None = None, **more: Any) -> dict[str, Any]:
    end = first if last is None else last
    return {"first": first, "last": end, "status": "ok", "bytes": 0, "detail": "", **more}


TIMELINE = {
    "error": "rcfile: RCFILE_03: exit 1",
    "boot": {
        "started": 1002.0,
        "phases": {
            "loader": phase(1002.0, 1003.0, bytes=120_000),
            "initrd": phase(1005.5, bytes=14_000_000),
            "rcfile": phase(1030.0, status="error", detail="RCFILE_03: exit 1"),
        },
    },
}


def test_rows_count_from_the_power_on() -> None:
    rows = rows_of(TIMELINE, 1000.0)
    assert [(row.phase, row.at) for row in rows] == [
        ("loader", 2.0),
        ("initrd", 5.5),
        ("rcfile", 30.0),
    ]


def test_a_boot_before_the_power_on_is_not_this_one() -> None:
    assert rows_of(TIMELINE, 5000.0) == []
    assert rows_of({}, 0.0) == []


def boot(**phases: dict[str, Any]) -> dict[str, Any]:
    return {"boot": {"started": 1.0, "phases": phases}}


def test_a_machine_is_up_when_its_system_runs_and_its_lines_have_ended() -> None:
    systemd = phase(1020.0)
    done = phase(1030.0, cause="all_lines")
    assert is_up(boot(systemd=systemd, rcfile=done), 1000.0)
    assert is_up(boot(systemd=systemd, rcfile=phase(1030.0, status="error")), 1000.0)
    # A unit that nothing waits for may still be starting, and is told.
    waits = phase(1020.0, 1040.0, status="start", detail="waiting for cri-docker.service (10 s)")
    assert is_up(boot(systemd=waits, rcfile=done), 1000.0)
    # One line has ended, others follow; and nothing of the boot before counts.
    assert not is_up(boot(systemd=systemd, rcfile=phase(1030.0)), 1000.0)
    assert not is_up(boot(systemd=systemd, rcfile=done), 2000.0)
    assert not is_up(boot(systemd=systemd), 1000.0)
    assert not is_up({}, 0.0)


def test_table_shows_time_size_and_detail() -> None:
    lines = render_rows(rows_of(TIMELINE, 1000.0)).splitlines()
    assert lines[1].split() == ["loader", "2.0s", "3.5s", "ok", "120", "kB"]
    assert lines[3].split() == ["rcfile", "30.0s", "0.0s", "error", "RCFILE_03:", "exit", "1"]


def test_description_names_error_and_phases() -> None:
    said = describe_timeline(TIMELINE)
    assert said.startswith("loader at 0.0 s, initrd at 3.5 s")
    assert "rcfile at 28.0 s (ERROR)" in said
    assert said.endswith("error: rcfile: RCFILE_03: exit 1")
    assert describe_timeline({"boot": None}) == "nothing of this boot"
