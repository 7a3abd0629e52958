"""Who may look: an optional token for the page and the API (docs/security.md).

What nodes need is open to all: the boot tree, beacons, /join, the time, /healthz, /livez.
"""

import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode

from imagebuild.wholefile import read_whole
from server.errors import ServerError
from server.protocols.http import Request, Response
from server.sources.stamp import Stamp
from server.web.rendering import render
from server.web.replies import NO_STORE, TEXT

COOKIE: Final = "bootfarm"
SHORTEST: Final = 16
"""Characters of a token: fewer could be guessed."""
LONGEST: Final = 1024
"""Characters of a token."""
LOOK_SECONDS: Final = 1.0
"""Between two looks at the token's file."""
COOKIE_SECONDS: Final = 30 * 86_400
"""For which a browser stays signed in: a month."""
_CHALLENGE: Final = ("WWW-Authenticate", 'Bearer realm="bootfarm"')
_LONGEST_FILE: Final = 65536
"""Bytes of a token's file; a larger one is another file, given by mistake."""
_OPEN: Final = ("/beacon", "/join", "/healthz", "/livez", "/api/time")
_log = logging.getLogger(__name__)


class Token:
    """The token of a file, read again when the file has changed.

    The last good one stays in force.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._stamp = Stamp.of(path)
        self._value = _read_token(path)
        self.problem = ""

    def move(self, path: Path) -> None:
        """Take it from another file; until that has one, the token before stays in force."""
        if path != self._path:
            self._path, self._stamp = path, Stamp.of(path)
            self._reload()

    def look_again(self) -> None:
        """Read the file again, whether or not it has changed."""
        self._stamp = Stamp.of(self._path)
        self._reload()

    @property
    def value(self) -> bytes:
        """The token in force."""
        if self._clock() - self._looked >= LOOK_SECONDS:
            self._looked = self._clock()
            stamp = Stamp.of(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self._reload()
        return self._value

    def _reload(self) -> None:
        try:
            self._value = _read_token(self._path)
            self.problem = ""
        except ServerError as error:
            self.problem = f"the token before stays in force: {error.one_line()}"
            _log.error("%s", self.problem)


def _read_token(path: Path) -> bytes:
    try:
        data = read_whole(path, _LONGEST_FILE).strip()
    except OSError as error:
        raise ServerError(
            f"token_file {path}: {error.strerror}",
            hint="make it (`openssl rand -hex 24 > FILE`), readable for the server's user",
        ) from None
    if not SHORTEST <= len(data) <= LONGEST or not all(33 <= byte < 127 for byte in data):
        raise ServerError(
            f"token_file {path}: it holds no token of {SHORTEST} to {LONGEST} characters"
            " without blanks",
            hint="`openssl rand -hex 24` makes one",
        )
    return data


class Access:
    """Decides for each request. token: gives the one in force; None lets everybody look."""

    def __init__(
        self,
        token: Callable[[], bytes] | None = None,
        allow_try: Callable[[str], bool] = lambda client: True,
    ) -> None:
        self._token = token
        self._allow_try = allow_try

    @property
    def is_on(self) -> bool:
        """Whether a token is wanted."""
        return self._token is not None

    def refuse(self, request: Request) -> Response | None:
        """The 401 for a request that may not be answered; None when it may."""
        if self._token is None or self.is_open(request.path) or self._has_token(request):
            return None
        if "text/html" in request.headers.get("accept", ""):
            return self._ask(request, 401, "")
        words = "this server wants a token: send `Authorization: Bearer TOKEN`"
        return Response(401, f"{words}\n".encode(), TEXT, (NO_STORE, _CHALLENGE))

    def shows_token(self, request: Request) -> bool:
        """Whether the right token is in its `Authorization`, which a page that was led here
        under another name cannot know."""
        if self._token is None:
            return False
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token())
        return right and kind.lower() == "bearer"

    @staticmethod
    def is_open(path: str) -> bool:
        """Whether a path is for nodes, and so for everybody."""
        return path in _OPEN or path.startswith("/ltsp/")

    def log_in(self, request: Request) -> Response:
        """`POST /login`, a form with `token` and `next`: a cookie for the right one."""
        if self._token is None:
            return _go("/")
        if not self._allow_try(request.client):
            words = "Too many tries from this address. Wait a minute; this one was not looked at."
            return self._ask(request, 429, words, _read_form(request).get("next", "/"))
        form = _read_form(request)
        then, given = form.get("next", "/"), _clean(form.get("token", ""))
        if not given:
            return self._ask(request, 401, "Nothing was typed.", then)
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._token()):
            return self._ask(request, 401, f"That is not the token. {_compare(given)}", then)
        attributes = f"Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Strict"
        cookie = ("Set-Cookie", f"{COOKIE}={_make_cookie(self._token())}; {attributes}")
        return _go(_local(then), cookie)

    def log_out(self) -> Response:
        """Let the browser forget the cookie."""
        return _go("/", ("Set-Cookie", f"{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"))

    def _has_token(self, request: Request) -> bool:
        assert self._token is not None
        if request.headers.get("authorization", "").partition(" ")[0].lower() == "bearer":
            return self.shows_token(request)
        for pair in request.headers.get("cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == COOKIE:
                made = _make_cookie(self._token())
                return hmac.compare_digest(value.encode("utf-8", "replace"), made.encode())
        return False

    def _ask(
        self, request: Request, status: int, problem: str, then: str | None = None
    ) -> Response:
        page = render(
            "login.html.j2",
            status,
            problem=problem,
            next=_local(_tell_path(request) if then is None else then),
            health={"problems": []},
            now=time.time(),
            can_leave=False,
        )
        extra = (_CHALLENGE,) if status == 401 else (("Retry-After", "60"),)
        return Response(page.status, page.body, page.content_type, (*page.headers, *extra))


def _read_form(request: Request) -> dict[str, str]:
    """A form's fields; {} for what is no form."""
    try:
        return dict(parse_qsl(request.body.decode(), max_num_fields=4))
    except ValueError:
        return {}


def _clean(given: str) -> str:
    """What was typed, without what no token has: blanks, line ends of a copy that was broken, the
    word of the header that programs send."""
    word, _, rest = given.strip().partition(" ")
    return "".join((rest if word.lower() in ("bearer", "bearer:") else given).split())


def _compare(given: str) -> str:
    """What can be said of a wrong token by itself: nothing about the right one."""
    if not (given.isascii() and given.isprintable()):
        return "It has characters that no token has: a quotation mark or dash of a word processor?"
    if len(given) < SHORTEST:
        return f"A token has {SHORTEST} characters at least, this has {len(given)}."
    return "Capital and small letters differ; is a part missing, or is it another farm's?"


def _tell_path(request: Request) -> str:
    """The path that was asked for, with its filters: a bookmark leads where it led."""
    return request.path + (f"?{urlencode(request.query)}" if request.query else "")


def _make_cookie(token: bytes) -> str:
    """A value that stands for the token in a browser, so that the browser never keeps the token."""
    return hmac.new(token, b"bootfarm status page", hashlib.sha256).hexdigest()


def _local(path: str) -> str:
    """A path of this server out of a form's field; "/" for anything that leads elsewhere."""
    fits = path.startswith("/") and not path.startswith("//") and "\\" not in path
    return path if fits and path.isascii() and path.isprintable() and len(path) < 300 else "/"


def _go(path: str, *headers: tuple[str, str]) -> Response:
    return Response(303, b"", TEXT, (NO_STORE, ("Location", path), *headers))
