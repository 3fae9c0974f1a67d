"""A device in memory that keeps the device command's promises, and one host's turn against it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hedgerow.errors import NetworkError
from hedgerow.rollout import requests
from hedgerow.rollout.events import Outcome, Request, RequestKind
from hedgerow.rollout.gate.samples import Answer, Kind, Look
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Release
from hedgerow.rollout.remote import Completed
from hedgerow.rollout.steps import HostSteps, Step

NEW, OLD = "assistant@1.1.0", "assistant@1.0.0"


class FakeDevice:
    """``hedgerow-device`` and the server's report, as docs/contracts.md words them."""

    def __init__(self, release: Release, serves: str | None = OLD) -> None:
        self.hashes = {release.bundle: release.sha256, OLD: "01" * 32}
        self.serves = serves
        self.previous: str | None = "assistant@0.9.0"
        self.pending = False
        self.status = "ok"
        self.reasons: list[str] = []
        self.disk_free_mb = 5000.0
        self.broken: dict[str, Completed | NetworkError] = {}
        self.calls: list[str] = []
        self.wrong: str | None = None
        self.questions: list[int] = []
        self.answers_in_ms = {release.bundle: 20.0, OLD: 20.0}
        self.throttled = False

    # -- the command ------------------------------------------------------

    def __call__(self, arguments: Sequence[str], *, timeout_s: int) -> Completed:
        verb = arguments[0]
        self.calls.append(" ".join(arguments))
        broken = self.broken.get(verb)
        if isinstance(broken, NetworkError):
            raise broken
        if broken is not None:
            return broken
        if verb == "report":
            return Completed(0 if self.status == "ok" else 1, json.dumps(self.report()), "")
        changed = getattr(self, f"_{verb}")(*arguments[1:])
        return Completed(0, json.dumps({"changed": changed, "model": self.model(), "previous": None}), "")

    def _stage(self, bundle: str, *_: str) -> bool:
        return self.serves != bundle

    def _activate(self, bundle: str, _flag: str, _seconds: str, _json: str) -> bool:
        if self.serves == bundle:
            return False
        self.previous, self.serves, self.pending = self.serves, bundle, True
        return True

    def _confirm(self, bundle: str, _json: str) -> bool:
        assert self.serves == bundle
        self.pending = False
        return True

    def _revert(self, *_: str) -> bool:
        self.serves, self.previous, self.pending = self.previous, None, False
        return True

    # -- the server -------------------------------------------------------

    def model(self) -> dict[str, str] | None:
        if self.serves is None:
            return None
        name, version = self.serves.split("@")
        return {"name": name, "version": version, "sha256": self.hashes.get(self.serves, "ff" * 32)}

    def report(self) -> dict[str, object]:
        return {
            "status": self.status,
            "model": self.model(),
            "reasons": [{"code": code, "severity": "warning", "text": code} for code in self.reasons],
            "board": {"disk_free_mb": self.disk_free_mb},
            "pending": {"confirm_deadline": "2026-11-21T12:10:00Z"} if self.pending else None,
        }

    def look(self) -> Look:
        model = self.model() or {}
        return Look(
            at=0,
            reached=True,
            status=self.status,
            version=self.serves,
            sha256=model.get("sha256"),
            reasons=frozenset(self.reasons),
            throttled=self.throttled,
        )

    def probe(self, release: Release, number: int, *, timeout_s: float = 30, weigh: bool = False) -> Answer:
        self.questions.append(number)
        wrong = self.wrong if self.serves == release.bundle else None
        kind = Kind.RIGHT if wrong is None else Kind.WRONG
        return Answer(
            at=0, question=number, kind=kind, latency_ms=self.answers_in_ms[self.serves or ""], note=wrong or ""
        )

    def changes(self) -> list[str]:
        return [call for call in self.calls if not call.startswith("report")]


def turn(steps: HostSteps) -> Step:
    """The order of playbooks/rollout.yml."""
    step = steps.preflight()
    if not step.go:
        return step
    for each in (steps.activate, steps.gate, steps.confirm):
        step = each()
        if step.failed:
            return steps.revert(step.msg)
    return step


def outcome(journal: Journal, host: str = "a") -> Outcome | None:
    return journal.state().hosts[host].outcome


def whole_turn(steps: HostSteps) -> Step:
    """The order of playbooks/rollout.yml, staging included."""
    for each in (steps.preflight, steps.stage):
        step = each()
        if not step.go:
            return step
    for each in (steps.activate, steps.gate, steps.confirm):
        step = each()
        if step.failed:
            return steps.revert(step.msg)
        if not step.go:
            return step
    return step


def said(what: str, error: str) -> Completed:
    document = {"error": error, "what": what, "where": "there", "next": None, "exit_code": 1}
    return Completed(1, "", json.dumps(document))


def ask(journal: Journal, kind: RequestKind) -> None:
    requests.add(journal.folder, Request(kind=kind, rollout=journal.folder.name, by="ada", at="t"))
