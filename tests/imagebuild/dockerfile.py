"""The Dockerfile as data: its stages, and what each RUN finds copied before it."""

import re
from collections.abc import Iterable
from pathlib import Path

HOUSE = Path(__file__).parents[2]
DOCKERFILE = (HOUSE / "Dockerfile").read_text()


def instructions() -> list[str]:
    """The Dockerfile's instructions, each on one line, without comments."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [re.sub(r"\s+", " ", line) for line in text.splitlines() if line.strip()]


def stages() -> dict[str, tuple[str, list[str]]]:
    """Stage name to (what it is from, its instructions)."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in instructions():
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = match[2]
            found[name] = (match[1], [])
        elif name:
            found[name][1].append(line)
    return found


def expand(names: Iterable[str]) -> set[str]:
    """Every file below what COPY names."""
    return {
        str(file.relative_to(HOUSE))
        for name in names
        for file in ((HOUSE / name).rglob("*") if (HOUSE / name).is_dir() else [HOUSE / name])
        if file.is_file() and "__pycache__" not in file.parts
    }


def copied_before_runs() -> dict[str, set[str]]:
    """Each of the build's stages to the files of this project that its RUN finds in its layers."""
    found: dict[str, set[str]] = {}
    layers: dict[str, set[str]] = {"${BASE_IMAGE}": set()}
    for place, (parent, lines) in stages().items():
        have = set(layers[parent])
        for line in lines:
            words = line.split()
            if words[0] == "COPY" and not words[1].startswith("--from"):
                have |= expand(word for word in words[1:-1] if word != ".")
            elif match := re.search(r"imagebuild\.container (\S+)", line):
                found[match[1]] = set(have)
        layers[place] = have
    del found["slice"]
    return found
