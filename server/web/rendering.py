"""The pages' templates, their filters, and the headers that keep scripts out."""

import base64
import hashlib
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2

from server.protocols.http import Response
from server.quantities import name_age

HTML: Final = "text/html; charset=utf-8"
STATE_WORDS: Final = {
    "look": "needs a look",
    "booting": "booting",
    "unseen": "not seen yet",
    "ready": "ready",
    "off": "off",
    "played": "no machine",
}
STATE_MANY: Final = STATE_WORDS | {"look": "need a look", "played": "played by simulate, doctor"}
STATE_VERBS: Final = {
    "look": "need a look",
    "booting": "are booting",
    "unseen": "were not seen yet",
    "ready": "are ready",
    "off": "are off",
    "played": "are played by simulate or doctor",
}
STATE_ONE: Final = {
    "look": "needs a look",
    "booting": "is booting",
    "unseen": "was not seen yet",
    "ready": "is ready",
    "off": "is off",
    "played": "is played by simulate or doctor",
}
STEP_WORDS: Final = {
    "ok": "done",
    "unseen": "passed, not seen",
    "start": "under way",
    "next": "to come now",
    "error": "failed",
    "none": "ahead",
}
_TEMPLATES: Final = Path(__file__).with_name("templates")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "age": name_age,
        "clock": format_clock,
        "iso": format_iso,
        "span": format_span,
        "stamp": format_stamp,
    }
    environment.globals |= {
        "style": _asset("style.css"),
        "script": _asset("live.js"),
        "login_script": _asset("login.js"),
        "state_words": STATE_WORDS,
        "state_many": STATE_MANY,
        "state_verbs": STATE_VERBS,
        "state_one": STATE_ONE,
        "step_words": STEP_WORDS,
    }
    return environment


@cache
def _asset(name: str) -> str:
    """Style or script, as it stands in each page: a template that has it says `safe`."""
    return (_TEMPLATES / name).read_text()


@cache
def page_headers() -> tuple[tuple[str, str], ...]:
    """Headers of every page: only our own style and scripts run, and only we are talked to."""
    style, *scripts = (_hash(_asset(name)) for name in ("style.css", "live.js", "login.js"))
    script = " ".join(f"'{one}'" for one in scripts)
    policy = (
        f"default-src 'none'; style-src '{style}'; script-src {script}; connect-src 'self';"
        " img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return (
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        # Not no-referrer: our own form would come with `Origin: null` (Fetch standard, 3.1).
        ("Referrer-Policy", "same-origin"),
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def render(template: str, status: int = 200, **values: Any) -> Response:
    """A page as a response. values: those of the template; `now` and `health` for all."""
    text = _environment().get_template(template).render(**values)
    return Response(status, text.encode("utf-8", "replace"), HTML, page_headers())


def render_lost(
    status: int, title: str, words: str, health: Mapping[str, Any], now: float
) -> Response:
    """A page that says that there is nothing."""
    return render(
        "lost.html.j2", status, title=title, words=words, health=health, now=now, can_leave=False
    )


def format_span(seconds: float) -> str:
    """How long something took: `0.2 s`, `48 s`, `2 min 5 s`, then as ages."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return name_age(seconds)


def format_clock(seconds: float) -> str:
    """The server's time of day."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def format_stamp(seconds: float) -> str:
    """Day and time, the server's, with how far its zone is from UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))


def format_iso(seconds: float) -> str:
    """For machines: UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
