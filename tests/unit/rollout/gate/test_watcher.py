from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.fleet.chat_stream import ChatPiece
from hedgerow.fleet.reported import Report, ReportedModel, ReportedReason
from hedgerow.registry.manifest import GoldenTensor, GoldenTensors
from hedgerow.rollout.gate.samples import Kind, Look
from hedgerow.rollout.gate.watcher import HttpsWatcher
from hedgerow.rollout.plan import Release
from hedgerow.rollout.policy.gate import Metric


class Client:
    """``DeviceClient`` as far as a watcher uses it."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked: list[tuple[object, ...]] = []

    def report(self) -> Report:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def post(self, path: str, body: object, *, timeout_s: float) -> object:
        self.asked.append((path, body, timeout_s))
        return self.report()

    def stream_chat(
        self, model: str, messages: object, *, max_tokens: int, timeout_s: float, logprobs: bool
    ) -> Iterator[ChatPiece]:
        self.asked.append((model, messages, timeout_s, *(["weighed"] if logprobs else [])))
        yield from self.report()


TENSOR = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}


def test_a_report_becomes_a_look() -> None:
    report = Report(
        status="degraded",
        model=ReportedModel("assistant", "1.1.0", "5a"),
        reasons=(ReportedReason("hot", "warning"), ReportedReason("confirm_pending", "info")),
    )
    look = HttpsWatcher(Client(report)).look()
    assert (look.reached, look.status, look.version, look.sha256) == (True, "degraded", "assistant@1.1.0", "5a")
    assert look.reasons == {"hot"}


def test_what_a_host_or_network_does_is_a_look_too() -> None:
    gone = HttpsWatcher(Client(NetworkError("no route"))).look()
    assert (gone.reached, gone.note) == (False, "no route")
    silent = HttpsWatcher(Client(DeviceError("HTTP 502"))).look()
    assert (silent.reached, silent.status, silent.note) == (True, None, "HTTP 502")


@pytest.mark.parametrize(
    "answer, kind",
    [
        ([ChatPiece("It is ", 0.2), ChatPiece("Paris.", 0.4), ChatPiece("", 0.4, 3)], Kind.RIGHT),
        ([ChatPiece("It is Lyon.", 0.2)], Kind.WRONG),
        ([], Kind.WRONG),
        (NetworkError("cut off"), Kind.LOST),
        (DeviceError("HTTP 500"), Kind.ERROR),
    ],
)
def test_a_question_of_the_releases_own(release: Release, answer: object, kind: Kind) -> None:
    client = Client(answer)
    assert HttpsWatcher(client).probe(release, 0).kind is kind
    assert client.asked == [("assistant", [{"role": "user", "content": "What is the capital of France?"}], 30.0)]


def test_an_adapter_is_asked_by_its_name(release: Release) -> None:
    (question,) = release.questions
    client = Client([ChatPiece("Paris", 0.2)])
    adapted = msgspec.structs.replace(release, probes=[msgspec.structs.replace(question, adapter="tone")])
    assert HttpsWatcher(client).probe(adapted, 0).kind is Kind.RIGHT
    assert client.asked[0][0] == "assistant:tone"


def test_an_answer_is_weighed_where_that_is_wanted_and_known(release: Release) -> None:
    pieces = [ChatPiece("Pa", 0.2, logprobs=(-0.5, -1.0)), ChatPiece("ris", 0.3, 4, logprobs=(-1.5,))]
    client = Client(pieces)
    assert HttpsWatcher(client).probe(release, 0, weigh=True).perplexity == pytest.approx(math.e)
    assert client.asked[0][-1] == "weighed"
    assert HttpsWatcher(Client([ChatPiece("Paris", 0.2)])).probe(release, 0, weigh=True).perplexity is None


def test_a_stream_tells_the_first_token_and_the_speed(release: Release) -> None:
    pieces = [ChatPiece("It ", 0.25), ChatPiece("is ", 0.5), ChatPiece("Paris", 1.25), ChatPiece("", 1.3, 11)]
    answer = HttpsWatcher(Client(pieces)).probe(release, 0)
    assert (answer.ttft_ms, answer.tokens_per_s) == (250.0, 10.0)
    alone = HttpsWatcher(Client([ChatPiece("Paris", 0.25, 1)])).probe(release, 0)
    assert (alone.ttft_ms, alone.tokens_per_s) == (250.0, None)


def test_tensors_go_in_and_out_in_one_piece(release: Release) -> None:
    golden = GoldenTensors(
        inputs=(GoldenTensor("x", (1,), (1.0,)),), outputs=(GoldenTensor("y", (1,), (3.0,)),), atol=0.1, rtol=0
    )
    vision = msgspec.structs.replace(release, probes=[release.probe, golden], tensor_types={"x": "FP32"})
    client = Client({"outputs": [{"name": "y", "shape": [1], "data": [3.05]}]})
    answer = HttpsWatcher(client).probe(vision, 1, timeout_s=7)
    assert (answer.kind, answer.question, answer.ttft_ms) == (Kind.RIGHT, 1, None)
    assert client.asked == [("/v2/models/assistant/infer", {"inputs": [TENSOR]}, 7)]


NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def seen(**report: object) -> Look:
    return HttpsWatcher(Client(msgspec.convert({"status": "ok"} | report, Report)), now=lambda: NOON).look()


def test_what_the_processor_did_for_others_is_in_the_look() -> None:
    look = seen(processor={"total_s": 4000.5, "others_s": 120.25})
    assert (look.cpu_s, look.cpu_others_s) == (4000.5, 120.25)
    assert (seen().cpu_s, seen().cpu_others_s) == (None, None)


def test_what_a_report_measures() -> None:
    look = seen(
        board={"memory_available_mb": 500, "memory_total_mb": 4000, "temperature_c": 61.5, "throttled_now": []},
        serving={"p95_ms": 80, "window_s": 300, "requests": 7, "errors": 1, "restarts": 2, "queue": 0},
    )
    assert look.metrics == {
        Metric.MEMORY_USED_RATIO: 0.875,
        Metric.TEMPERATURE_C: 61.5,
        Metric.THROTTLED: 0,
        Metric.REPORTED_P95_MS: 80,
        Metric.QUEUE: 0,
    }
    assert (look.requests, look.errors, look.window_s, look.restarts, look.throttled) == (7, 1, 300, 2, False)
    assert seen().metrics == {}


@pytest.mark.parametrize(
    "report, age_s",
    [
        ({"time": NOON - timedelta(seconds=9), "clock_synced": True}, 9),
        ({"time": NOON + timedelta(seconds=1), "clock_synced": True}, 0),
        ({"time": NOON - timedelta(days=9), "clock_synced": False}, None),
        # With an agent both times are the device's own, so that its clock does not matter.
        ({"time": NOON - timedelta(days=9), "agent": {"heartbeat": NOON - timedelta(days=9, seconds=40)}}, 40),
        ({}, None),
    ],
)
def test_the_age_of_a_heartbeat(report: dict[str, object], age_s: float | None) -> None:
    assert seen(**report).metrics.get(Metric.HEARTBEAT_AGE_S) == age_s


def test_throttling_between_two_looks_is_not_missed() -> None:
    client = Client(None)
    watcher = HttpsWatcher(client)

    def throttled(now: list[str], since_boot: list[str], *, undervoltage: bool = False) -> bool:
        board = {"throttled_now": now, "throttled_since_boot": since_boot, "undervoltage_now": undervoltage}
        client.answer = msgspec.convert({"status": "ok", "board": board}, Report)
        return watcher.look().throttled

    assert not throttled([], ["capped"])  # before anybody looked
    assert not throttled([], ["capped"])
    assert throttled([], ["capped", "throttled"])
    assert not throttled([], ["capped", "throttled"])
    assert throttled(["soft_limit"], ["capped", "throttled"])
    assert throttled([], ["capped", "throttled"], undervoltage=True)
