"""`bootfarm lts import`: LTSP 23's ltsp.conf as an lts.conf, and what does not map."""

import dataclasses
import json
import sys
from pathlib import Path

import click

from imagebuild.errors import count_words
from imagebuild.options import AS_JSON, examples
from server.errors import ServerError
from server.ltsconf.conf import decode, encode
from server.ltsconf.ltsp23.convert import import_text
from server.ltsconf.ltsp23.note import CHECK, LEFT, Note
from server.ltsconf.reading import read_text

MOST_LINES = 20_000
"""Lines of an ltsp.conf: reading it costs their square, a second for so many."""


@click.command(
    "import",
    epilog=examples(
        "bootfarm lts import /etc/ltsp/ltsp.conf >lts.conf",
        "bootfarm lts import ltsp.conf --exit-code >lts.conf",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--exit-code", is_flag=True, help="Tell by the exit code: 1 if a line was left out.")
@click.option("--json", "as_json", is_flag=True, help=f"{AS_JSON[:-1]}: the text, and the notes.")
@click.pass_context
def import_command(context: click.Context, file: Path, exit_code: bool, as_json: bool) -> None:
    """Print LTSP 23's ltsp.conf as an lts.conf, as far as it maps (- is standard input).

    On standard error stands each line that was left out, with the reason and what to do
    instead, and each that a person should look at. What machines that a section names get
    is compared with what LTSP 23 gives them. Nothing of the file is run.
    """
    given = read_text(file, Path("."), bare=True).main.data or b""
    if (lines := given.count(b"\n")) > MOST_LINES:
        raise ServerError(
            f"{file}: {lines} lines: an ltsp.conf has {MOST_LINES} at most",
            hint="is this LTSP's file?",
        )
    found = import_text(decode(given))
    if as_json:
        notes = [dataclasses.asdict(note) for note in found.notes]
        data = {"lts_conf": found.text, "carried": found.carried, "notes": notes}
        click.echo(json.dumps(data, indent=2))
    else:
        sys.stdout.buffer.write(encode(found.text))
        sys.stdout.buffer.flush()
        for note in found.notes:
            click.echo(f"{file}:{_render(note)}", err=True)
    left = sum(note.kind == LEFT for note in found.notes)
    check = sum(note.kind == CHECK for note in found.notes)
    click.echo(
        f"{count_words(found.carried, 'line')} carried over, {left} left out, {check} to check;"
        " `bootfarm lts check` looks at the result",
        err=True,
    )
    if exit_code and left:
        context.exit(1)


def _render(note: Note) -> str:
    return f"{note.line}: {note.kind}: {note.name}: {note.why}\n  hint: {note.hint}"
