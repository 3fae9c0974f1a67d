"""The small parts of telemetry: trace context, who asks, the queue, which answers are kept."""

from __future__ import annotations

import itertools
import random
import threading
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from hedgerow.converge import apparmor
from hedgerow.errors import UsageError
from hedgerow.runtime import extras
from hedgerow.server import config as configs
from hedgerow.server import errors
from hedgerow.server.telemetry import sampling, tracecontext
from hedgerow.server.telemetry.caller import Caller, identify
from hedgerow.server.telemetry.finished import Finished, prompt_size
from hedgerow.server.telemetry.queues import Batches
from hedgerow.server.telemetry.sampling import CUT, LONG_PROMPT, SHORT, SLOW, USUAL, Sampler

ROOT = Path(__file__).parents[3]

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PATIENCE_S = 30.0


def finished(**changes) -> Finished:
    facts = {
        "caller": Caller("0" * 32),
        "span_id": SPAN,
        "model": "assistant",
        "version": "1.0.0",
        "protocol": "openai",
        "code": 200,
        "cause": None,
        "arrived": 0.0,
        "started": 0.0,
        "began": 1.0,
        "first": 2.0,
        "last": 6.0,
        "ended": 6.0,
        "prompt_tokens": 10,
        "tokens": 41,
        "finish": "stop",
    }
    return Finished(**{**facts, **changes})


# ── trace context ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("flags,sampled", [("00", False), ("01", True), ("02", False), ("ff", True)])
def test_a_parent(flags, sampled) -> None:
    assert tracecontext.parse(f"00-{TRACE}-{SPAN}-{flags}") == tracecontext.Parent(TRACE, SPAN, sampled)


def test_a_later_version_may_say_more() -> None:
    assert tracecontext.parse(f"01-{TRACE}-{SPAN}-01-more") == tracecontext.Parent(TRACE, SPAN, sampled=True)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_no_parent(value) -> None:
    assert tracecontext.parse(value) is None


@given(st.integers(1, 2**128 - 1), st.floats(0, 1))
def test_the_ratio_chooses_as_opentelemetry_does(trace, ratio) -> None:
    wanted = TraceIdRatioBased(ratio).should_sample(None, trace, "x").decision is Decision.RECORD_AND_SAMPLE
    assert tracecontext.chosen(f"{trace:032x}", ratio) is wanted


# ── who asks ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("given_id", [str(uuid.UUID(int=7)), "AB" * 16])
def test_a_request_id_of_the_callers(given_id) -> None:
    assert identify({"x-request-id": given_id}.get, None).request_id == given_id


@pytest.mark.parametrize("given_id", ["", "jane@example.org", "4111-1111-1111-1111", "a" * 31, "order for Jane"])
def test_what_could_be_anything_else_is_no_request_id(given_id) -> None:
    caller = identify({"x-request-id": given_id}.get, None)
    assert uuid.UUID(caller.request_id).version == 4


def test_a_caller_without_a_trace_begins_one() -> None:
    one, other = identify({}.get, None), identify({}.get, None)
    assert one.trace_id != other.trace_id
    assert identify({"traceparent": f"00-{TRACE}-{SPAN}-01"}.get, None).trace_id == TRACE


# ── a finished request ──────────────────────────────────────────────────────


def test_where_its_time_went() -> None:
    request = finished()
    assert (request.queued_s, request.first_token_s, request.duration_s, request.tokens_per_s) == (1.0, 2.0, 6.0, 10.0)
    assert finished(began=None, first=None).queued_s is None
    assert finished(tokens=1).tokens_per_s is None


@pytest.mark.parametrize(
    "code,failed", [(200, False), (400, False), (404, False), (429, True), (499, False), (503, True)]
)
def test_a_failure_is_the_servers(code, failed) -> None:
    assert finished(code=code).failed is failed


def test_slow_as_a_whole_or_to_begin() -> None:
    assert finished().slow(5.9, 9.0)
    assert finished().slow(9.0, 1.9)
    assert not finished().slow(6.0, 2.0)


@pytest.mark.parametrize(
    "tokens,size", [(0, "tensors"), (1, "up_to_128"), (128, "up_to_128"), (129, "up_to_512"), (2049, "larger")]
)
def test_prompt_sizes(tokens, size) -> None:
    assert prompt_size(tokens) == size


# ── causes ──────────────────────────────────────────────────────────────────


def test_every_error_has_a_cause_of_its_own_or_of_its_kind() -> None:
    def all_of(kind) -> list[type[errors.ServingError]]:
        return [kind, *itertools.chain.from_iterable(map(all_of, kind.__subclasses__()))]

    assert all(isinstance(kind.cause, errors.Cause) for kind in all_of(errors.ServingError))


@pytest.mark.parametrize(
    "status,cause", [(400, "bad_request"), (403, "forbidden"), (405, "method"), (413, "too_large"), (500, "fault")]
)
def test_causes_of_refusals(status, cause) -> None:
    assert errors.cause_of(status) == cause


# ── the queue ───────────────────────────────────────────────────────────────


def test_what_does_not_fit_is_dropped_at_once() -> None:
    gate, begun, taken = threading.Event(), threading.Event(), []

    def take(batch) -> None:
        begun.set()
        assert gate.wait(PATIENCE_S)
        taken.extend(batch)

    queue = Batches("test", take, room=4, most=1, interval_s=0.0)
    assert queue.offer("first", important=True)
    assert begun.wait(PATIENCE_S)
    usual = [queue.offer(number, important=False) for number in range(4)]
    important = [queue.offer(f"important {number}", important=True) for number in range(4)]
    assert usual == [True, True, False, False]
    assert important == [True, True, False, False]
    gate.set()
    assert queue.close(PATIENCE_S)
    assert taken == ["first", 0, 1, "important 0", "important 1"]
    assert not queue.offer("late", important=True)


def test_a_full_batch_goes_at_once() -> None:
    taken, done = [], threading.Event()

    def take(batch) -> None:
        taken.append(list(batch))
        done.set()

    queue = Batches("test", take, room=10, most=3, interval_s=3600.0)
    for number in range(3):
        queue.offer(number, important=True)
    assert done.wait(PATIENCE_S)
    assert taken == [[0, 1, 2]]
    queue.offer(3, important=True)
    assert queue.close(PATIENCE_S)  # and what waits goes when it closes
    assert taken == [[0, 1, 2], [3]]


def test_a_queue_that_cannot_end_in_time_says_so() -> None:
    gate, begun = threading.Event(), threading.Event()

    def take(_batch) -> None:
        begun.set()
        gate.wait(PATIENCE_S)

    queue = Batches("test", take, room=1, most=1, interval_s=0.0)
    queue.offer(1, important=True)
    assert begun.wait(PATIENCE_S)
    assert not queue.close(0.0)
    gate.set()
    assert queue.close(PATIENCE_S)


def test_an_idle_queue_is_told() -> None:
    told = threading.Event()

    def take(batch) -> None:
        assert not batch
        told.set()

    queue = Batches("test", take, room=1, most=1, interval_s=0.0, idle_s=0.01)
    assert told.wait(PATIENCE_S)
    assert queue.close(PATIENCE_S)


# ── which answers are kept ──────────────────────────────────────────────────


@pytest.mark.parametrize(
    "changes,slow,name",
    [
        ({}, True, SLOW),
        ({"finish": "length"}, False, CUT),
        ({"tokens": 8}, False, SHORT),
        ({"tokens": 0}, False, SHORT),
        ({"tokens": 0, "prompt_tokens": 0, "version": "fallback"}, False, USUAL),
        ({"prompt_tokens": 3000}, False, LONG_PROMPT),
        ({}, False, USUAL),
    ],
)
def test_classes(changes, slow, name) -> None:
    assert sampling.class_of(finished(**changes), slow=slow) == name


def test_a_rare_class_is_kept_whole_and_a_frequent_one_by_its_share() -> None:
    sampler, drawn = Sampler(60), random.Random(7)
    kept = {USUAL: 0, SLOW: 0}
    for second in range(4 * 3600):
        kept[USUAL] += sampler.keep(USUAL, second, drawn.random())
        if second % 1200 == 600:
            kept[SLOW] += sampler.keep(SLOW, second, drawn.random())
    # 12 slow ones in four hours; of 14,400 usual ones as many as their half allows: 5 in ten minutes
    assert kept[SLOW] == 12
    assert 90 <= kept[USUAL] <= 120


def test_the_budget_is_shared_among_the_classes_that_occur() -> None:
    sampler = Sampler(60)
    for second in range(3600):
        sampler.keep(USUAL, second, 1.0)
        sampler.keep(CUT, second, 1.0)
        if second % 360 == 0:
            sampler.keep(SLOW, second, 1.0)
    assert sampler.probability(SLOW, 3600) == 1.0
    usual, cut = sampler.probability(USUAL, 3600), sampler.probability(CUT, 3600)
    assert usual == pytest.approx(cut, rel=0.01)
    # (60 - 10 slow ones) / 2 of 3600 each
    assert usual == pytest.approx(25 / 3600, rel=0.1)


@given(
    st.integers(1, 100),
    st.lists(st.tuples(st.floats(0, 300), st.sampled_from(sampling.CLASSES)), max_size=300),
)
def test_never_more_than_the_budget_in_any_hour(per_hour, steps) -> None:
    sampler, now, kept = Sampler(per_hour), 0.0, []
    for wait, name in steps:
        now += wait
        if sampler.keep(name, now, 0.0):
            kept.append(now)
    for place, begin in enumerate(kept):
        assert sum(begin <= each < begin + 3600 for each in kept[place:]) <= per_hour
        assert sum(begin <= each < begin + 600 for each in kept[place:]) <= -(-per_hour // 6)


def test_a_burst_of_usual_answers_leaves_room_for_others() -> None:
    sampler = Sampler(60)
    assert sum(sampler.keep(USUAL, 0.0, 0.0) for _ in range(100)) == 5
    assert sampler.keep(SLOW, 1.0, 0.0)


# ── configuration ───────────────────────────────────────────────────────────


def decode(telemetry: str) -> configs.ServerConfig:
    head = "{host: pi-1, serial: s, fleet: f, site: s, model: m, telemetry: "
    return configs.decode(f"{head}{telemetry}}}".encode(), where="server.yml")


def test_by_default_nothing_leaves_and_nothing_is_kept() -> None:
    telemetry = decode("{}").telemetry
    assert telemetry.traces is None
    assert telemetry.samples is None
    assert telemetry.logs.format == "json"


@pytest.mark.parametrize(
    "telemetry,says",
    [
        ("{traces: {endpoint: collector}}", "endpoint is no URL"),
        ("{traces: {endpoint: 'http://collector.example/v1/traces'}}", "use https"),
        ("{traces: {endpoint: 'https://a:b@collector.example/v1/traces'}}", "holds a password"),
        ("{traces: {endpoint: 'https://collector.example/v1/traces', key: device.key}}", "go together"),
        ("{traces: {endpoint: 'https://collector.example/v1/traces', ratio: 2}}", "ratio"),
        ("{samples: {folder: samples, per_hour: 1}}", "absolute"),
        ("{samples: {folder: /samples, per_hour: 0}}", "per_hour"),
        ("{logs: {level: chatty}}", "level"),
        ("{unknown: 1}", "unknown"),
    ],
)
def test_what_is_wrong_is_named(telemetry, says) -> None:
    with pytest.raises(UsageError, match=says):
        decode(telemetry)


def documented(place: int) -> dict[str, Any]:
    """A YAML example of the guide."""
    text = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
    return yaml.safe_load(text.split("```yaml\n")[place + 1].partition("```")[0])


def test_the_documented_example_is_valid() -> None:
    head = "{host: pi-1, serial: s, fleet: f, site: s, model: m}"
    document = {**yaml.safe_load(head), **documented(0)}
    telemetry = configs.decode(yaml.safe_dump(document).encode(), where="server.yml").telemetry
    assert telemetry.traces is not None
    assert telemetry.samples is not None


def test_the_documented_inventory_fits_the_roles() -> None:
    inventory = documented(1)
    assert extras.of_host("pi-1", inventory) == ("traces",)
    rules = inventory["apparmor_rules_group"]
    profiles = apparmor.texts(str(ROOT / "files/apparmor.d"), {"hedgerow-server": "enforce"}, "4.0", rules)
    assert all(f"  {rule},\n" in profiles["hedgerow-server"] for rule in rules["hedgerow-server"])
    (egress,) = inventory["hardening_egress_group"]
    url = urlsplit(documented(0)["telemetry"]["traces"]["endpoint"])
    assert (egress["to"], egress["ports"]) == ([url.hostname], [url.port])


def test_plain_on_loopback_is_allowed() -> None:
    traces = decode("{traces: {endpoint: 'http://127.0.0.1:4318/v1/traces'}}").telemetry.traces
    assert traces is not None
    assert traces.ratio == 0.01
