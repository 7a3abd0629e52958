from imagebuild.docker.buildstream import BuildStream
from imagebuild.pipeline import Event

OUTPUT = """\
Step 1/9 : ARG BASE_IMAGE=debian:bookworm-slim
Step 2/9 : FROM ${BASE_IMAGE} AS ltsp-base
 ---> 0123456789ab
Step 3/9 : RUN sh /farm/setup-base
 ---> Using cache
 ---> 123456789abc
Step 4/9 : FROM ltsp-base AS basesystem
 ---> 123456789abc
Step 5/9 : COPY imagebuild/container.py /farm/src/imagebuild/
 ---> Using cache
 ---> 23456789abcd
Step 6/9 : RUN python3 -m imagebuild.container basesystem
 ---> Running in 3456789abcde
basesystem: bootstrap (2 s)
I: downloading packages
basesystem: done (9 s)
Removing intermediate container 3456789abcde
 ---> 456789abcdef
Step 7/9 : FROM ltsp-base AS final
 ---> 123456789abc
Step 8/9 : COPY server /usr/lib/bootfarm/server
 ---> 56789abcdef0
Step 9/9 : USER 10069
 ---> Running in 6789abcdef01
 ---> 789abcdef012
Successfully built 789abcdef012
"""


def collect(chunks: list[str]) -> tuple[list[Event], list[str]]:
    events: list[Event] = []
    lines: list[str] = []
    stream = BuildStream(events.append, lines.append, clock=lambda: 0.0)
    for chunk in chunks:
        stream.feed({"stream": chunk})
    stream.feed({"aux": {"ID": "sha256:789"}})
    stream.close()
    return events, lines


def test_stages_steps_and_what_came_from_the_cache() -> None:
    events, lines = collect([OUTPUT])
    assert [(event.stage, event.kind, event.detail) for event in events] == [
        ("ltsp-base", "cached", ""),
        ("basesystem", "start", ""),
        ("basesystem", "step", "6/9 RUN python3 -m imagebuild.container basesystem"),
        ("basesystem", "step", "bootstrap (2 s)"),
        ("basesystem", "step", "done (9 s)"),
        ("basesystem", "done", ""),
        ("final", "start", ""),
        ("final", "step", "8/9 COPY server /usr/lib/bootfarm/server"),
        ("final", "step", "9/9 USER 10069"),
        ("final", "done", ""),
    ]
    assert "I: downloading packages" in lines


def test_byte_by_byte_is_the_same() -> None:
    assert collect(list(OUTPUT)) == collect([OUTPUT])
