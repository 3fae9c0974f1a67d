from __future__ import annotations

import pytest

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.fleet.endpoint import Report, ReportedModel, ReportedReason
from hedgerow.rollout.gate.judge import Verdict
from hedgerow.rollout.gate.watcher import HttpsWatcher
from hedgerow.rollout.plan import Release


class Client:
    """``DeviceClient`` as far as a watcher uses it."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.posted: list[tuple[str, object]] = []

    def report(self) -> Report:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def post(self, path: str, body: object) -> object:
        self.posted.append((path, body))
        return self.report()


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
    "answer, verdict",
    [
        ({"choices": [{"message": {"content": "It is Paris."}}]}, Verdict.PASS),
        ({"choices": [{"message": {"content": "It is Lyon."}}]}, Verdict.FAIL),
        ({"choices": []}, Verdict.FAIL),
        (NetworkError("cut off"), Verdict.UNREACHABLE),
        (DeviceError("HTTP 500"), Verdict.FAIL),
    ],
)
def test_the_golden_question(release: Release, answer: object, verdict: Verdict) -> None:
    client = Client(answer)
    assert HttpsWatcher(client).ask(release).verdict is verdict
    assert client.posted[0][0] == "/v1/chat/completions"
