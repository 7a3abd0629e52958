"""The table of variables: against the node's own files, and the page made of it."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from server.commands.lts import lts
from server.ltsconf.reference import render_reference
from server.ltsconf.variables import VARIABLES, Variable, find_variable

HOUSE = Path(__file__).parents[3]
ROOTFS = HOUSE / "imagebuild" / "rootfs"
PHASES = (
    "loader menu kernel initrd initramfs network ltsconf root preinit systemd rcfile join ready"
)


def test_the_page_is_up_to_date() -> None:
    assert (HOUSE / "docs" / "lts.conf.md").read_text() == render_reference(), (
        "run `bootfarm lts reference`"
    )


def test_the_command_writes_and_checks_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert CliRunner().invoke(lts, ["reference", str(page), "--check"]).exit_code == 1
    assert CliRunner().invoke(lts, ["reference", str(page)]).exit_code == 0
    assert CliRunner().invoke(lts, ["reference", str(page), "--check"]).exit_code == 0


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_each_variable_is_read_where_the_table_says(variable: Variable) -> None:
    inside = ROOTFS / variable.actor
    path = inside if inside.exists() else HOUSE / variable.actor
    text = path.read_text()
    assert variable.prefix in text or variable.prefix in text.upper()


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_each_row_is_whole(variable: Variable) -> None:
    assert variable.step in ["server", *PHASES.split()]
    assert variable.meaning.endswith(".")
    assert variable.difference.endswith(".")
    key = variable.example.partition(" ")[0]
    assert find_variable(key) is variable
    assert (
        CliRunner()
        .invoke(
            lts,
            ["check", "-", "--strict"],
            input=f"[pc7]\n{variable.example}\n[worker]\nTIMEZONE=UTC\n",
        )
        .exit_code
        == 0
    )


def test_exact_names_come_before_families() -> None:
    exact = find_variable("RCFILE_ON_ERROR")
    family = find_variable("RCFILE_01")
    assert exact is not None
    assert family is not None
    assert (exact.name, family.name) == ("RCFILE_ON_ERROR", "RCFILE_*")
    assert find_variable("NOSUCH") is None
