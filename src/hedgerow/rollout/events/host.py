"""One host as a journal has it so far. Pure."""

from __future__ import annotations

import msgspec

from hedgerow.rollout.gate.verdicts import CriterionResult
from hedgerow.rollout.records import Outcome


class HostState(msgspec.Struct, kw_only=True):
    """One host so far. ``before`` is ``name@version``, None if it served nothing."""

    started_at: str | None = None
    before: str | None = None
    baseline: list[str] = []
    staged_s: float | None = None
    new_bytes: int | None = None
    retries: int = 0
    activated_s: float | None = None
    load_s: float | None = None
    verdict: str | None = None
    metrics_before: dict[str, float] = {}
    metrics_after: dict[str, float] = {}
    criteria: list[CriterionResult] = []
    outcome: Outcome | None = None
    reason: str = ""
    finished_at: str | None = None
    fell: str | None = None
    """Why it got worse after its confirmation."""

    @property
    def standing(self) -> str:
        """Its outcome; ``not_started`` or ``unfinished`` where it has none."""
        if self.outcome is not None:
            return str(self.outcome)
        return "unfinished" if self.started_at else "not_started"
