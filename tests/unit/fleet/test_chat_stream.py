"""Answers that are read with the probabilities of their tokens, and servers that tell none."""

from __future__ import annotations

import itertools
import json

import pytest

from hedgerow.errors import DeviceError
from hedgerow.fleet import access
from hedgerow.fleet.endpoint import DeviceClient
from hedgerow.identity.profiles import Profile

HELLO = [{"role": "user", "content": "Hello?"}]


def weighed(text: str, *logprobs: float) -> dict[str, object]:
    content = [{"token": text, "logprob": each, "bytes": [], "top_logprobs": []} for each in logprobs]
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None, "logprobs": {"content": content}}
    return {"choices": [choice]}


@pytest.fixture
def ask(pi):
    def asked(**more):
        with DeviceClient(pi.endpoint, access.context("meadow-unit", Profile.OPERATOR)) as client:
            return list(client.stream_chat("assistant", HELLO, max_tokens=8, **more))

    return asked


def test_probabilities_come_with_their_text_and_where_there_is_none(pi, ask) -> None:
    pi.says(weighed("Par", -0.5, -0.25), weighed("", -1.0), weighed("is", -2.0), "[DONE]")
    pieces = ask(logprobs=True)
    assert [(each.text, each.logprobs) for each in pieces] == [("Par", (-0.5, -0.25)), ("", (-1.0,)), ("is", (-2.0,))]
    assert pi.seen[-1][2]["logprobs"] is True
    ask()
    assert "logprobs" not in pi.seen[-1][2]


def test_a_server_that_tells_none_is_asked_without(pi, ask) -> None:
    pi.says(weighed("Paris"), "[DONE]")
    answer = pi.answers["/v1/chat/completions"]
    error = {"message": "tells no probabilities", "type": "invalid_request_error", "param": "logprobs", "code": None}
    answers = iter([(400, "application/json", json.dumps({"error": error}).encode()), answer])
    pi.answers["/v1/chat/completions"] = lambda: next(answers)
    assert [(each.text, each.logprobs) for each in ask(logprobs=True)] == [("Paris", ())]
    assert ["logprobs" in body for _, path, body, _ in pi.seen if path.startswith("/v1")] == [True, False]


@pytest.mark.parametrize("body", [b'{"error": {"param": "messages"}}', b'{"error": "x"}', b"{}", b"no JSON", b'"x"'])
def test_every_other_refusal_is_one(pi, ask, body: bytes) -> None:
    counted = itertools.count()

    def refuse():
        next(counted)
        return 400, "application/json", body

    pi.answers["/v1/chat/completions"] = refuse
    with pytest.raises(DeviceError, match="HTTP 400"):
        ask(logprobs=True)
    assert next(counted) == 1
