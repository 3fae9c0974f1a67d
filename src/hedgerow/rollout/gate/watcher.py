"""Look at a host the way its users reach it: over mutual TLS, from here.

A ``Watcher`` is what ``steps`` needs of a host; tests implement it in memory.
"""

from __future__ import annotations

import time
from typing import Protocol

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.fleet.endpoint import DeviceClient
from hedgerow.rollout.gate import probe as probes
from hedgerow.rollout.gate.judge import Judgement, Look, Verdict
from hedgerow.rollout.plan import Release


class Watcher(Protocol):
    """Looks at one host."""

    def look(self) -> Look:
        """One health report, or why there is none. Never raises for what a host or network does."""

    def ask(self, release: Release) -> Judgement:
        """One question of the bundle's own; the verdict on the answer."""


class HttpsWatcher:
    """A ``Watcher`` over the device's server."""

    def __init__(self, client: DeviceClient) -> None:
        self._client = client

    def look(self) -> Look:
        at = time.monotonic()
        try:
            report = self._client.report()
        except NetworkError as error:
            return Look(at=at, reached=False, note=error.what)
        except DeviceError as error:
            return Look(at=at, reached=True, note=error.what)
        return Look(
            at=at,
            reached=True,
            status=report.status,
            version=report.reference,
            sha256=None if report.model is None else report.model.sha256,
            reasons=frozenset(reason.code for reason in report.troubles),
        )

    def ask(self, release: Release) -> Judgement:
        question = probes.ask(release.probe, release.name, release.tensor_types)
        try:
            answer = self._client.post(question.path, question.body)
        except NetworkError as error:
            return Judgement(verdict=Verdict.UNREACHABLE, reason=error.what, final=True)
        except DeviceError as error:
            return Judgement(verdict=Verdict.FAIL, reason=f"{error.what}: {error.where}", final=True)
        wrong = probes.wrong(release.probe, answer)
        if wrong is not None:
            return Judgement(verdict=Verdict.FAIL, reason=wrong, final=True)
        return Judgement(verdict=Verdict.PASS, reason="it answered its golden question", final=True)
