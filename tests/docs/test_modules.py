import re

from tests.docs.modulepage import HOUSE, PAGE, first_sentence, list_modules, render

DESIGN = (HOUSE / "docs/design.md").read_text()


def test_the_page_names_every_module() -> None:
    made = "run `python -m tests.docs.modulepage >docs/modules.md`"
    assert PAGE.read_text() == render(), made


def test_each_module_says_what_it_is() -> None:
    silent = [str(path) for path in list_modules() if len(first_sentence(path)) < 10]
    assert not silent


def test_paths_that_the_design_names_exist() -> None:
    """A walk that leads to a file of last year helps nobody."""
    names = set(re.findall(r"`((?:server|imagebuild|rack|tests|docs|container)/[\w./-]+)`", DESIGN))
    assert len(names) > 40
    missing = {name for name in names if not (HOUSE / name).exists()}
    assert not missing
