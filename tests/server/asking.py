"""Requests to an App's HTTP service, without a socket."""

from server.app import App
from server.protocols.http import Request, Response
from server.services.http import HttpService


def ask(app: App, path: str, client: str = "127.0.0.1", **headers: str) -> Response:
    """The answer to GET. client: the address that asks."""
    http = app.parts.running.services["http"]
    assert isinstance(http, HttpService)
    return http.handle(Request("GET", path, {}, headers, b"", client))
