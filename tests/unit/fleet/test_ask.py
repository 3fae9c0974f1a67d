from __future__ import annotations

import pytest

from hedgerow.fleet import access
from hedgerow.fleet.ask import ask, summarize
from hedgerow.fleet.chat_stream import ChatPiece
from hedgerow.identity.profiles import Profile


def piece(text: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}


def put(pi, question: str = "Capital of France?"):
    heard: list[str] = []
    context = access.context("meadow-unit", Profile.CLIENT)
    answer = ask(pi.endpoint, context, model="assistant", question=question, max_tokens=16, on_text=heard.append)
    return answer, heard


def test_pieces_are_heard_as_they_come(pi) -> None:
    pi.says(ROLE, piece("The capital "), piece("is "), piece("Paris."), END, USAGE, "[DONE]")
    answer, heard = put(pi)
    assert heard == ["The capital ", "is ", "Paris."]
    assert (answer.text, answer.tokens, answer.ok) == ("The capital is Paris.", 4, True)
    assert answer.ttft_ms > 0
    _, path, body, subject = pi.seen[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "assistant",
        "messages": [{"role": "user", "content": "Capital of France?"}],
        "max_tokens": 16,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert subject["organizationalUnitName"] == "client"


@pytest.mark.parametrize(
    "events, problem",
    [
        ([piece("The"), {"error": {"message": "out of memory"}}], "out of memory"),
        ([piece("The"), '{"choices": '], "cannot be read"),
        ([ROLE, END, "[DONE]"], "no text"),
    ],
)
def test_a_broken_answer_says_why(pi, events: list[object], problem: str) -> None:
    pi.says(*events)
    answer, _ = put(pi)
    assert not answer.ok
    assert problem in answer.problem


def test_a_refusal_is_an_answer(pi) -> None:
    pi.answers["/v1/chat/completions"] = (403, "application/json", b'{"error": "profile client may not"}')
    answer, _ = put(pi)
    assert "HTTP 403" in answer.problem


def test_an_endless_line_without_newlines_is_one_answer(pi) -> None:
    pi.says(piece("a" * 200_000), "[DONE]")
    assert len(put(pi)[0].text) == 200_000


def test_speed_counts_what_came_after_the_first_token() -> None:
    pieces = [ChatPiece("a", 0.5), ChatPiece("b", 1.0), ChatPiece("c", 1.5), ChatPiece("", 1.6, tokens=21)]
    answer = summarize("pi", pieces)
    assert (answer.ttft_ms, answer.tokens, answer.tokens_per_s) == (500.0, 21, 20.0)


def test_a_server_that_counts_nothing_is_counted_by_pieces() -> None:
    answer = summarize("pi", [ChatPiece("a", 0.5 + number / 10) for number in range(31)])
    assert (answer.tokens, answer.tokens_per_s) == (31, 10.0)


def test_a_short_answer_has_no_speed() -> None:
    pieces = [ChatPiece("a", 0.5), ChatPiece("b", 0.501), ChatPiece("", 0.6, tokens=15)]
    assert summarize("pi", pieces).tokens_per_s is None


def test_one_token_has_no_speed() -> None:
    assert summarize("pi", [ChatPiece("a", 0.5)]).tokens_per_s is None
    assert summarize("pi", []).ttft_ms is None
