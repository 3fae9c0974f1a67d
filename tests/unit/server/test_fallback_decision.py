"""Whether a request leaves, and when an endpoint is left alone: the pure parts."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from hedgerow.converge import apparmor
from hedgerow.device.health import Code
from hedgerow.errors import UsageError
from hedgerow.server import config as server_config
from hedgerow.server.backends import TextRequest
from hedgerow.server.errors import (
    BadRequest,
    Busy,
    ContextExceeded,
    DeadlineExceeded,
    NotFound,
    Overloaded,
    ServingError,
)
from hedgerow.server.fallback import decision, ledger, wire
from hedgerow.server.fallback.breaker import Breaker
from hedgerow.server.fallback.config import EndpointConfig, FallbackConfig, Policy, Price, Privacy, When
from hedgerow.server.fallback.decision import Reason, Situation
from hedgerow.server.fallback.rate import Rate
from hedgerow.server.fallback.scrub import scrub

WELL = Situation(prompt_characters=100, in_service=True, expected_wait_s=1.0, health=frozenset({Code.HOT}))
PRICE = Price(prompt_per_1k=0.5, completion_per_1k=1.5)
ASKED = TextRequest(messages=[{"role": "user", "content": "Hi"}], max_tokens=7, temperature=0.5, seed=3, stop=("x",))
EVERY = When(prompt_characters=1000, queue_s=5, health=[Code.THROTTLED], not_in_service=True, device_error=True)


def policy(**given_too) -> Policy:
    base = {"endpoint": "cloud", "model": "big", "price": PRICE, "spend_per_hour": 1.0, "when": EVERY}
    return Policy(**{**base, **given_too})


# ── decision ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "when, found, reason",
    [
        (When(), WELL, None),
        (EVERY, WELL, None),
        (When(prompt_characters=99), {}, Reason.PROMPT_LENGTH),
        (When(prompt_characters=100), {}, None),
        (When(queue_s=0.5), {}, Reason.QUEUE_TIME),
        (When(queue_s=0), {"expected_wait_s": 0.0}, None),
        (When(health=[Code.HOT]), {}, Reason.UNHEALTHY),
        (When(health=[Code.THROTTLED]), {}, None),
        (When(not_in_service=True), {"in_service": False}, Reason.NOT_IN_SERVICE),
        (When(not_in_service=False, prompt_characters=1), {"in_service": False}, None),
        (When(not_in_service=True), {}, None),
        (When(prompt_characters=1, queue_s=0, health=[Code.HOT]), {}, Reason.PROMPT_LENGTH),
    ],
)
def test_before_the_device_has_tried(when, found, reason) -> None:
    situation = found if isinstance(found, Situation) else dataclasses.replace(WELL, **found)
    assert decision.before(when, situation) is reason


@pytest.mark.parametrize(
    "error, reason",
    [
        (ContextExceeded("x"), Reason.PROMPT_LENGTH),
        (Busy("x"), Reason.QUEUE_TIME),
        (Overloaded("x"), Reason.DEVICE_ERROR),
        (ServingError("x"), Reason.DEVICE_ERROR),
        (BadRequest("x"), None),
        (NotFound("x"), None),
        (DeadlineExceeded("x"), None),
    ],
)
def test_after_the_device_has_failed(error, reason) -> None:
    assert decision.after(EVERY, error) is reason
    assert decision.after(When(), error) is None


@pytest.mark.parametrize(
    "policed, asked, version, may",
    [
        ({}, {}, None, False),
        ({"privacy": Privacy.REDACTED}, {}, None, True),
        ({"privacy": Privacy.ALL}, {}, None, True),
        ({"privacy": Privacy.ALL}, {"device_only": True}, None, False),
        ({"privacy": Privacy.ALL}, {"adapter": "formal"}, None, False),
        ({"privacy": Privacy.ALL}, {}, "1.0.0", False),
    ],
)
def test_what_may_leave(policed, asked, version, may) -> None:
    assert decision.may_leave(policy(**policed), dataclasses.replace(ASKED, **asked), version=version) is may


# ── breaker and rate ────────────────────────────────────────────────────────


def test_a_breaker_opens_probes_and_closes() -> None:
    breaker = Breaker(failures=2, open_s=10)
    breaker.failed(breaker.admit(0), 0)
    breaker.succeeded(breaker.admit(0))
    breaker.failed(breaker.admit(1), 1)
    assert breaker.state(1) == "closed"
    early = breaker.admit(2)
    breaker.failed(breaker.admit(2), 2)
    assert (breaker.state(11.9), breaker.admit(11.9)) == ("open", None)
    breaker.succeeded(early)  # was sent before it opened
    assert breaker.state(11.9) == "open"
    probe = breaker.admit(12)
    assert (breaker.state(12), probe.probe, breaker.admit(12)) == ("half_open", True, None)
    breaker.failed(probe, 13)
    assert (breaker.state(22.9), breaker.state(23)) == ("open", "half_open")
    breaker.released(breaker.admit(23))
    breaker.succeeded(breaker.admit(23))
    assert breaker.state(23) == "closed"
    breaker.failed(breaker.admit(24), 24)
    assert breaker.state(24) == "closed"


@given(st.lists(st.floats(0, 300), max_size=60), st.integers(1, 5))
def test_no_minute_has_more_than_the_rate(times, per_minute) -> None:
    rate = Rate(per_minute)
    sent = [now for now in sorted(times) if rate.take(now)]
    assert all(later - first >= 60 for first, later in zip(sent, sent[per_minute:], strict=False))


def test_a_rate_lets_through_again() -> None:
    rate = Rate(2)
    assert [rate.take(now) for now in (0, 1, 59, 60, 60.5, 61)] == [True, True, False, True, False, True]


# ── money ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "price, prompt_tokens, tokens, micros",
    [
        (PRICE, 1000, 1000, 2_000_000),
        (PRICE, 1, 0, 500),
        (Price(prompt_per_1k=0.00015, completion_per_1k=0.0006), 1, 1, 1),
        (Price(prompt_per_1k=0.00015, completion_per_1k=0.0006), 100, 100, 75),
        (Price(prompt_per_1k=0, completion_per_1k=0), 10**6, 10**6, 0),
    ],
)
def test_what_tokens_cost(price, prompt_tokens, tokens, micros) -> None:
    assert ledger.cost(price, prompt_tokens=prompt_tokens, tokens=tokens) == micros


# ── OpenAI's shapes ─────────────────────────────────────────────────────────


def test_what_is_sent() -> None:
    sent = wire.outgoing(ASKED, policy())
    assert sent.path == "/chat/completions"
    assert json.loads(sent.body) == {
        "model": "big",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 1.0,
        "seed": 3,
        "stop": ["x"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    raw = wire.outgoing(TextRequest(prompt="Once", max_tokens=9), policy(limit_field="max_completion_tokens"))
    body = json.loads(raw.body)
    assert (raw.path, body["prompt"], body["max_completion_tokens"]) == ("/completions", "Once", 9)
    assert not {"messages", "stop", "seed", "max_tokens"} & body.keys()


@given(st.text(), st.data())
def test_events_come_whole_however_they_are_cut(text, data) -> None:
    lines = [json.dumps({"choices": [{"delta": {"content": text}}]}), "[DONE]"]
    raw = "".join(f": a comment\r\ndata: {line}\r\n\r\n" for line in lines).encode()
    cut = data.draw(st.lists(st.integers(0, len(raw)), max_size=5).map(sorted))
    events = wire.Events()
    parts = [raw[a:b] for a, b in zip([0, *cut], [*cut, len(raw)], strict=True)]
    assert [event for part in parts for event in events.feed(part)] == lines


@pytest.mark.parametrize("data", [b"x" * (wire.EVENT_BYTES + 1), b"data: \xff\n"])
def test_events_that_are_none(data) -> None:
    with pytest.raises(wire.Malformed):
        wire.Events().feed(data)


def test_an_answer_that_never_ends_is_cut_off() -> None:
    events, line = wire.Events(), b": " + b"x" * 65_533 + b"\n"
    for _ in range(wire.ANSWER_BYTES // len(line)):
        assert events.feed(line) == []
    with pytest.raises(wire.Malformed, match="larger than any model's"):
        events.feed(line)


@pytest.mark.parametrize("finish, told", [("stop", "stop"), ("length", "length"), ("content_filter", "stop")])
def test_an_answer_ends_once_with_its_usage(finish, told) -> None:
    answer = wire.Answer()
    pieces = answer.take('{"choices": [{"delta": {"role": "assistant", "content": ""}}]}')
    pieces += answer.take('{"choices": [{"delta": {"content": "Hi"}, "finish_reason": null}], "new": 1}')
    pieces += answer.take(f'{{"choices": [{{"delta": {{}}, "finish_reason": "{finish}"}}]}}')
    pieces += answer.take('{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}')
    assert [(piece.text, piece.finish) for piece in pieces] == [("Hi", None)]
    (last,) = answer.take("[DONE]")
    assert (last.text, last.tokens, last.prompt_tokens, last.finish) == ("", 2, 5, told)
    assert answer.end() == []


@pytest.mark.parametrize(
    "data, says",
    [
        ("no JSON", "not in OpenAI's shape"),
        ('{"choices": [{"delta": {"content": 3}}]}', "not in OpenAI's shape"),
        ('{"usage": {"prompt_tokens": -1}}', "not in OpenAI's shape"),
        ('{"error": {"message": "secret prompt"}}', "reports an error within"),
        ("[DONE]", "breaks off"),
    ],
)
def test_an_answer_that_is_none(data, says) -> None:
    with pytest.raises(wire.Malformed, match=says) as caught:
        wire.Answer().take(data)
    assert "secret" not in str(caught.value)


# ── scrubbing ───────────────────────────────────────────────────────────────


def test_all_that_leaves_is_scrubbed() -> None:
    request = TextRequest(
        messages=[
            {"role": "system", "content": "You serve Hedge Ltd."},
            {
                "role": "user",
                "content": "a@b.example, born 1970-01-02, client 7654321, DE89370400440532013000",
            },
        ],
        stop=("END",),
    )
    scrubbed = scrub(request, ["hedge ltd"])
    assert [each["content"] for each in scrubbed.request.messages] == [
        "You serve [redacted].",
        "[email], born [number], client [number], [iban]",
    ]
    assert scrubbed.found == {"email": 1, "iban": 1, "number": 2, "redacted": 1}
    assert scrubbed.stop_kept
    assert request.messages[1]["content"].startswith("a@b.example")


def test_a_stop_text_that_must_not_leave_is_told() -> None:
    assert not scrub(TextRequest(prompt="x", stop=("a@b.example",)), []).stop_kept


@given(st.from_regex(r"\A[0-9]([ ./-]?[0-9]){6,18}\Z"))
@example("90 0595 1 3979731 7092 0")  # a telephone number stands in the middle
@example("68 7.8.6.6/14035")  # an address
@example("7" * 66)
@example("7" * 100_000)
def test_no_long_number_leaves(number) -> None:
    left = scrub(TextRequest(prompt=f"call {number} now"), []).request.prompt
    assert sum(each.isdigit() for each in left) < 7


# ── configuration ───────────────────────────────────────────────────────────

ENDPOINT = {"url": "https://cloud.example/v1", "token": "fallback.token"}
MODEL = {
    "endpoint": "cloud",
    "model": "big",
    "price": {"prompt_per_1k": 0.1, "completion_per_1k": 0.2},
    "spend_per_hour": 1,
    "when": {"queue_s": 5},
}


def read(fallback) -> server_config.ServerConfig:
    document = {"host": "h", "serial": "s", "fleet": "f", "site": "o", "model": "assistant", "fallback": fallback}
    return server_config.decode(json.dumps(document).encode(), where="server.yml")


def test_nothing_leaves_unless_the_policy_says_so() -> None:
    assert read(None).fallback is None
    fallback = read({"endpoints": {"cloud": ENDPOINT}, "models": {"assistant": MODEL}}).fallback
    assert fallback.models["assistant"].privacy is Privacy.NEVER


@pytest.mark.parametrize(
    "endpoint, model, says",
    [
        ({"url": "http://cloud.example/v1"}, {}, "over https alone"),
        ({"url": "https://key@cloud.example/v1"}, {}, "the token is in the file"),
        ({"url": "https://cloud.example/v1?key=x"}, {}, "the token is in the file"),
        ({"api_key": "x"}, {}, "api_key"),
        ({}, {"endpoint": "clod"}, "models.assistant.endpoint is 'clod'; endpoints: cloud"),
        ({}, {"privacy": "some"}, "privacy"),
        ({}, {"when": {"health": ["warm"]}}, "health"),
        ({}, {"when": {"health": ["draining"]}}, "takes no requests at all"),
        ({}, {"when": {"health": ["no_model"]}}, "write not_in_service: true"),
        ({}, {"when": {"confidence": 0.5}}, "confidence"),
        ({}, {"spend_per_hour": -1}, "spend_per_hour"),
        ({"breaker": {"failures": 0}}, {}, "failures"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused_by_name(endpoint, model, says) -> None:
    wrong = {"endpoints": {"cloud": {**ENDPOINT, **endpoint}}, "models": {"assistant": {**MODEL, **model}}}
    with pytest.raises(UsageError) as caught:
        read(wrong)
    assert says in str(caught.value)


def documented(place: int) -> dict[str, Any]:
    """A YAML example of the guide."""
    guide = (Path(__file__).parents[3] / "docs" / "fallback.md").read_text()
    return yaml.safe_load(re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)[place])


def test_the_guides_policy_is_one() -> None:
    read(documented(0)["fallback"])
    names = {name for kind in (EndpointConfig, Policy, When, FallbackConfig) for name in kind.__struct_fields__}
    assert all(f"{name}:" in Path(__file__).parents[3].joinpath("docs/fallback.md").read_text() for name in names)


def test_the_guides_inventory_fits_the_roles() -> None:
    inventory = documented(1)
    root = Path(__file__).parents[3]
    rules = inventory["apparmor_rules_group"]
    profiles = apparmor.texts(str(root / "files/apparmor.d"), {"hedgerow-server": "enforce"}, "4.0", rules)
    assert all(f"  {rule},\n" in profiles["hedgerow-server"] for rule in rules["hedgerow-server"])
    policy = documented(0)["fallback"]
    (endpoint,) = policy["endpoints"].values()
    (egress,) = inventory["hardening_egress_group"]
    assert egress["to"] == [urlsplit(endpoint["url"]).hostname]
    assert set(inventory["inference_runtime_credentials"]) == {endpoint["token"], endpoint["ca"]}
    assert f"{policy['state_dir']}/** rwk" in rules["hedgerow-server"]
