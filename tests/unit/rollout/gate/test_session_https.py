"""Sessions over real TLS against a server in this process, which answers chat as a stream."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from hedgerow.fleet import access
from hedgerow.fleet.endpoint import DeviceClient
from hedgerow.identity.profiles import Profile
from hedgerow.rollout.gate.samples import Expectation, Window
from hedgerow.rollout.gate.session import GateSession
from hedgerow.rollout.gate.verdicts import Verdict
from hedgerow.rollout.gate.watcher import HttpsWatcher
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.plan import Release
from hedgerow.rollout.policy import parse

SOAK = {"passes": 3, "interval_s": 0.2, "deadline_s": 20}


class Chat:
    """What the server's model says, and how long it thinks."""

    def __init__(self, pi) -> None:
        self.pi = pi
        self.text = "It is Paris."
        self.thinks: Callable[[], object] = lambda: None
        pi.answers["/v1/chat/completions"] = self.answer
        self.serves("1.0.0")

    def serves(self, version: str, **report: object) -> None:
        model = {"name": "assistant", "version": version, "sha256": "5a" * 32}
        self.pi.report({"status": "ok", "model": model, "serving": {"restarts": 0}} | report)

    def answer(self) -> tuple[int, str, bytes]:
        self.thinks()
        events = [{"choices": [{"delta": {"content": piece}}]} for piece in (self.text[:3], self.text[3:])]
        events.append({"choices": [], "usage": {"completion_tokens": 5}})
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        return 200, "text/event-stream", "".join([*lines, "data: [DONE]\n\n"]).encode()


@pytest.fixture
def chat(pi) -> Chat:
    return Chat(pi)


@pytest.fixture
def session(pi, fleet_ca, release: Release) -> Iterator[Callable[..., GateSession]]:
    with DeviceClient(pi.endpoint, access.context("meadow-unit", Profile.OPERATOR)) as client:

        def make(before: Window | None = None, **more) -> GateSession:
            return GateSession(
                HttpsWatcher(client),
                release,
                Expectation(version=release.bundle, sha256=release.sha256),
                parse({"soak": SOAK}, where="test"),
                clock=Clock(),
                before=before,
                **more,
            )

        yield make


def test_a_good_release_passes(session, chat: Chat) -> None:
    before = session().baseline()
    chat.serves("1.1.0")
    gate = session(before)
    found = gate.run()
    assert found.verdict is Verdict.PASS, found
    evidence = gate.evidence()
    assert before.asked == 30
    assert evidence.after["probes"] >= 8
    assert {"p50_ms", "ttft_ms", "restarts"} <= set(evidence.after)


def test_a_slower_release_fails_by_comparison(session, chat: Chat) -> None:
    before = session().baseline()
    chat.serves("1.1.0")
    chat.thinks = lambda: time.sleep(0.15)
    found = session(before).run()
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith("slower: p50_ms is "), found.reason


def test_a_slower_release_on_a_throttled_board_is_the_environments(session, chat: Chat) -> None:
    before = session().baseline()
    chat.serves("1.1.0", board={"throttled_now": ["throttled"]})
    chat.thinks = lambda: time.sleep(0.15)
    assert session(before).run().verdict is Verdict.ENVIRONMENT


def test_a_wrong_answer_fails(session, chat: Chat) -> None:
    chat.serves("1.1.0")
    chat.text = "It is Lyon."
    found = session().run()
    assert found.verdict is Verdict.FAIL
    assert "it said 'It is Lyon.'" in found.reason


def test_a_server_that_fails_fails(session, chat: Chat) -> None:
    chat.serves("1.1.0")
    chat.pi.answers["/v1/chat/completions"] = (500, "application/json", b'{"error": "out of memory"}')
    found = session().run()
    assert found.verdict is Verdict.FAIL
    assert "out of memory" in found.reason


def test_an_emergency_stop_leaves_a_silent_server_behind(session, chat: Chat) -> None:
    over = threading.Event()
    chat.serves("1.1.0")
    chat.thinks = lambda: over.wait(30)
    begun = time.monotonic()
    found = session(stop=lambda: "abort" if time.monotonic() - begun > 0.5 else None).run()
    seconds = time.monotonic() - begun
    over.set()
    assert found.verdict is Verdict.STOPPED
    assert seconds < 10
