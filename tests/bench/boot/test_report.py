"""The table of `make bench-boot`: medians, ratios round by round, goals."""

from typing import Any

from bench.boot.report import figures_of, render_page


def make_boot(side: str, number: int, login: float, cpu: float, megabytes: int) -> dict[str, Any]:
    marks = {"kernel": 3.0, "init": 5.0, "systemd": 10.0, "login": login}
    return {
        "firmware": "bios",
        "round": number,
        "side": side,
        "marks": marks,
        "cpu": {**{name: value / 2 for name, value in marks.items()}, "login": cpu},
        "server_cpu": 0.5,
        "to_node": megabytes * 1_000_000,
        "from_node": 1,
        "packets_to": 10,
        "packets_from": 5,
    }


def make_report(*boots: dict[str, Any]) -> dict[str, Any]:
    machine = {"cores": 2, "cpu": "X", "memory_gib": 8, "system": "Debian", "kernel": "6"}
    return {
        "date": "2026-11-29",
        "machine": machine,
        "load_average": 0.5,
        "rounds": list(boots),
    }


def row(page: str, title: str) -> list[str]:
    """The cells of one line of the table."""
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_parts_are_differences_of_marks_in_seconds_and_in_cpu_seconds() -> None:
    figures = figures_of(make_boot("bootfarm", 0, 20.0, 15.0, 50))
    assert figures["power-on to kernel, s"] == 3.0
    assert figures["initramfs to systemd, s"] == 5.0
    assert figures["systemd to login, s"] == 10.0
    assert figures["systemd to login, CPU s"] == 10.0
    assert figures["qemu_cpu"] == 15.0
    assert figures["packets"] == 15


def test_a_part_without_its_mark_is_left_out() -> None:
    boot = make_boot("bootfarm", 0, 20.0, 15.0, 50)
    del boot["marks"]["init"]
    figures = figures_of(boot)
    assert "kernel to /init, s" not in figures
    assert "power-on to kernel, s" in figures


def test_ratios_are_taken_round_by_round_and_held_to_the_goals() -> None:
    page = render_page(
        make_report(
            make_boot("bootfarm", 0, 20.0, 10.0, 40),
            make_boot("LTSP", 0, 50.0, 40.0, 50),
            make_boot("bootfarm", 1, 40.0, 10.0, 40),
            make_boot("LTSP", 1, 50.0, 40.0, 50),
            make_boot("bootfarm", 2, 20.0, 10.0, 40),
            make_boot("LTSP", 2, 100.0, 40.0, 50),
        )
    )
    login = row(page, "power-on to `login:`, s")
    assert login[1:] == ["20", "50", "0.40 (0.20..0.80)", "≤ 0.45: met"]
    assert row(page, "MB to the machine")[3:] == ["0.80 (0.80..0.80)", "≤ 0.5: missed"]


def test_ours_alone_has_no_ratio() -> None:
    page = render_page(make_report(make_boot("bootfarm", 0, 20.0, 10.0, 40)))
    assert row(page, "QEMU's CPU s")[2:] == ["", ""]
