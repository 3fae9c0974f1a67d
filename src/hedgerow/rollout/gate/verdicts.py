"""What a gate says, of one criterion and of a host. Types alone."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """What one look, or a whole soak, says of a host."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    NO_DATA = "no_data"
    """Nobody can say; never a pass."""
    UNREACHABLE = "unreachable"
    ENVIRONMENT = "environment"
    """Too low a voltage, or a board that is slowed down, explains the breach: the release is not to blame."""
    STOPPED = "stopped"
    """Somebody ended the watch before there was a verdict."""


class Standing(StrEnum):
    """How one criterion came out."""

    PASS = "pass"  # noqa: S105 - a verdict
    BREACH = "breach"
    NO_DATA = "no_data"
    SKIPPED = "skipped"
    """Nothing measures it here, or there is nothing to compare it with; ``reason`` says which."""
    ENVIRONMENT = "environment"


class CriterionResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One criterion of the gate as it came out; figures in the metric's own unit, of the condition that decided."""

    name: str
    verdict: Standing
    reason: str = ""
    metric: str | None = None
    value: float | None = None
    limit: float | None = None
    """What ``value`` was held against: the limit itself, or what the comparison made of ``baseline``."""
    baseline: float | None = None
    p: float | None = None
    """One-sided p-value, where a test was made."""
    n: int | None = None
    """Samples behind ``value``."""
    n_baseline: int | None = None

    @property
    def breached(self) -> bool:
        """Whether it counts against the host, whatever explains it."""
        return self.verdict in {Standing.BREACH, Standing.ENVIRONMENT}


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict and why, in a sentence. ``final`` ends the soak."""

    verdict: Verdict
    reason: str
    final: bool
    criteria: tuple[CriterionResult, ...] = ()
