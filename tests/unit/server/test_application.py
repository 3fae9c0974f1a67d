"""What no route takes, and what a route raises, as ASGI messages."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.routing import Route

from hedgerow.server.errors import NotFound
from hedgerow.server.protocols.application import Application

SECRET = "what another caller wrote"


class Raising:
    """An endpoint that raises ``error``, perhaps behind the beginning of an answer."""

    def __init__(self, error: Exception, *, begun: bool) -> None:
        self._error = error
        self._begun = begun

    async def __call__(self, scope, receive, send) -> None:
        if self._begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise self._error


def call(error: Exception, sent: list[Any], *, begun: bool = False, path: str = "/x", method: str = "POST") -> None:
    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody reads the body")

    application = Application([Route("/x", Raising(error, begun=begun), methods=["POST"])])
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    asyncio.run(application(scope, receive, send))


def told(sent: list[Any]) -> tuple[int, dict[bytes, bytes], str]:
    start, body = sent
    return start["status"], dict(start["headers"]), json.loads(body["body"])["error"]


@pytest.mark.parametrize(
    "error, path, method, status, text",
    [
        (NotFound("no such thing"), "/x", "POST", 404, "no such thing"),
        (HTTPException(418), "/x", "POST", 418, "POST /x: I'm a Teapot"),
        (AssertionError, "/y", "POST", 404, "POST /y: Not Found"),
        (AssertionError, "/x", "GET", 405, "GET /x: Method Not Allowed"),
    ],
)
def test_errors_are_json(error, path, method, status, text) -> None:
    sent: list[Any] = []
    call(error, sent, path=path, method=method)
    found, headers, said = told(sent)
    assert (found, said) == (status, text)
    assert headers.get(b"allow") == (b"POST" if status == 405 else None)


def test_what_nobody_expected_is_raised_again_and_quotes_nobody() -> None:
    sent: list[Any] = []
    with pytest.raises(ValueError, match=SECRET):
        call(ValueError(SECRET), sent)
    assert told(sent)[::2] == (500, "the server failed: ValueError")


@pytest.mark.parametrize("error, raised", [(NotFound("late"), RuntimeError), (ValueError("late"), ValueError)])
def test_there_is_no_second_answer_within_one(error, raised) -> None:
    sent: list[Any] = []
    with pytest.raises(raised):
        call(error, sent, begun=True)
    assert [message["type"] for message in sent] == ["http.response.start"]
