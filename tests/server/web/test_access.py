import os
from pathlib import Path
from urllib.parse import urlencode

import pytest

from server.errors import ServerError
from server.protocols.http import Request, Response
from server.web.access import Access, Token

TOKEN = "0123456789abcdef-right"
GUARDED = ["/", "/nodes/x", "/api/nodes", "/api/events", "/metrics", "//api/nodes", "/api/time/"]


def request(
    path: str, method: str = "GET", body: bytes = b"", client: str = "10.9.0.1", **headers: str
) -> Request:
    return Request(method, path, {}, headers, body, client)


@pytest.fixture
def access() -> Access:
    return Access(lambda: TOKEN.encode())


def log_in(access: Access, token: str, then: str = "/nodes/x") -> Response:
    form = urlencode({"token": token, "next": then}).encode()
    return access.log_in(request("/login", "POST", form))


def cookie_of(response: Response) -> str:
    return dict(response.headers)["Set-Cookie"].partition(";")[0]


@pytest.mark.parametrize("path", GUARDED)
def test_without_the_token_there_is_a_401_in_words(access: Access, path: str) -> None:
    refusal = access.refuse(request(path))
    assert refusal is not None
    assert refusal.status == 401
    assert dict(refusal.headers)["WWW-Authenticate"].startswith("Bearer")
    assert refusal.body == b"this server wants a token: send `Authorization: Bearer TOKEN`\n"
    for wrong in ("Bearer ", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer \u00e9", TOKEN):
        assert access.refuse(request(path, authorization=wrong)) is not None
    for right in (f"Bearer {TOKEN}", f"bearer  {TOKEN}"):
        assert access.refuse(request(path, authorization=right)) is None


@pytest.mark.parametrize(
    "path", ["/beacon", "/healthz", "/api/time", "/ltsp/amd64/lts.conf", "/ltsp/amd64/vmlinuz"]
)
def test_what_nodes_need_is_open(access: Access, path: str) -> None:
    assert access.refuse(request(path)) is None


def test_without_a_token_all_is_open() -> None:
    assert Access().refuse(request("/")) is None
    assert log_in(Access(), "x").status == 303


def test_a_browser_gets_a_form_and_then_a_cookie(access: Access) -> None:
    asked = access.refuse(request("/nodes/x", accept="text/html,*/*"))
    assert asked is not None
    assert asked.status == 401
    assert isinstance(asked.body, bytes)
    assert b'<form method="post" action="/login"' in asked.body
    assert b'value="/nodes/x"' in asked.body
    assert asked.body.count(b"<script") == 1, "the button that shows what was typed"
    done = log_in(access, TOKEN)
    headers = dict(done.headers)
    assert (done.status, headers["Location"]) == (303, "/nodes/x")
    assert "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]
    assert TOKEN not in headers["Set-Cookie"]
    assert access.refuse(request("/", cookie=f"a=b; {cookie_of(done)}; c=d")) is None
    for other in (f"bootfarm={TOKEN}", cookie_of(done)[:-1], "bootfarm=", "bootfarm=\u00e9"):
        assert access.refuse(request("/", cookie=other)) is not None
    assert "Max-Age=0" in dict(access.log_out().headers)["Set-Cookie"]


def test_another_token_ends_the_cookies_of_the_first(access: Access) -> None:
    cookie = cookie_of(log_in(access, TOKEN))
    assert Access(lambda: b"another-token-00").refuse(request("/", cookie=cookie)) is not None


def test_a_wrong_token_is_told_and_tries_are_few(access: Access) -> None:
    wrong = log_in(access, TOKEN + "x")
    assert wrong.status == 401
    assert isinstance(wrong.body, bytes)
    assert b"That is not the token." in wrong.body
    assert b'aria-invalid="true" aria-describedby="problem"' in wrong.body
    assert "Set-Cookie" not in dict(wrong.headers)
    assert TOKEN.encode() not in wrong.body, "what was typed is not sent back"
    assert access.log_in(request("/login", "POST", b"\xff\xfe")).status == 401
    limited = Access(lambda: TOKEN.encode(), lambda client: False)
    assert log_in(limited, TOKEN).status == 429


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "Nothing was typed."),
        (" \t ", "Nothing was typed."),
        ("short", "A token has 16 characters at least, this has 5."),
        ("\u201c" + TOKEN + "\u201d", "characters that no token has"),
        ("\udcff", "characters that no token has"),
        (TOKEN.upper(), "Capital and small letters differ"),
    ],
)
def test_what_is_wrong_with_a_token_is_told_as_far_as_it_shows(
    access: Access, given: str, words: str
) -> None:
    form = urlencode({"token": given}, errors="surrogateescape").encode()
    asked = access.log_in(request("/login", "POST", form))
    assert asked.status == 401
    assert isinstance(asked.body, bytes)
    assert words in asked.body.decode()


@pytest.mark.parametrize(
    "given", [f" {TOKEN}\n", f"Bearer {TOKEN}", f"bearer: {TOKEN}", f"{TOKEN[:9]}\r\n  {TOKEN[9:]}"]
)
def test_a_token_is_found_in_what_a_copy_makes_of_it(access: Access, given: str) -> None:
    assert log_in(access, given).status == 303


def test_a_bookmark_leads_where_it_led(access: Access) -> None:
    asked = Request(
        "GET", "/", {"state": "look", "label.rack": "r 1"}, {"accept": "text/html"}, b""
    )
    form = access.refuse(asked)
    assert form is not None
    assert isinstance(form.body, bytes)
    assert b'name="next" value="/?state=look&amp;label.rack=r+1"' in form.body
    done = log_in(access, TOKEN, "/?state=look&label.rack=r+1")
    assert dict(done.headers)["Location"] == "/?state=look&label.rack=r+1"
    limited = Access(lambda: TOKEN.encode(), lambda client: False)
    again = log_in(limited, TOKEN, "/?state=look")
    assert isinstance(again.body, bytes)
    assert b'value="/?state=look"' in again.body


@pytest.mark.parametrize(
    "then",
    ["//evil.example/", "https://evil.example/", "/\\evil", "x", "", "/a\r\nX: y", "/" * 400],
)
def test_the_form_leads_nowhere_else(access: Access, then: str) -> None:
    assert dict(log_in(access, TOKEN, then).headers)["Location"] == "/"


def test_the_file_of_the_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(ServerError, match="No such file") as caught:
        Token(file)
    assert "openssl rand" in str(caught.value.hint)
    for bad in (
        b"",
        b"short",
        b"x" * 2000,
        b"has a blank in the middle",
        "höherer-token-1234".encode(),
    ):
        file.write_bytes(bad)
        with pytest.raises(ServerError, match="holds no token"):
            Token(file)
    file.write_text(f"{TOKEN}\n")
    now = [0.0]
    token = Token(file, lambda: now[0])
    assert token.value == TOKEN.encode()
    other = tmp_path / "other"
    other.write_text("another-token-that-is-longer")
    other.replace(file)
    assert token.value == TOKEN.encode(), "it is looked at once a second"
    now[0] = 1.0
    assert token.value == b"another-token-that-is-longer"
    file.unlink()
    now[0] = 2.0
    assert token.value == b"another-token-that-is-longer"
    assert "stays in force" in token.problem


def test_a_token_file_that_is_none_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ServerError, match=f"token_file {path}: ") as caught:
            Token(path)
        assert caught.value.hint
