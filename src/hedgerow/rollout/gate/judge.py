"""The rules of a gate, without IO and without a clock.

- A look at a host passes when the host was reached, serves the new version
  and reports ``ok``, or ``degraded`` for nothing but reasons that stood before
  the release touched it: a release is not blamed for a fan that was slow
  yesterday.
- A host passes its soak after ``soak.passes`` passing looks **in a row**.
- A host that serves another version than the activated one, or reports
  ``failing``, fails at once: waiting cannot make that right.
- Anything else (worse than before, unreached, no data) breaks the row and is
  looked at again until the deadline, which then decides with the last look.
- No data is never a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from hedgerow.rollout.policy.soak import Soak


class Verdict(StrEnum):
    """What one look, or a whole soak, says of a host."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    NO_DATA = "no_data"
    UNREACHABLE = "unreachable"


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a host. ``at`` is in seconds on any steady clock."""

    at: float
    reached: bool
    status: str | None = None
    """``ok``, ``degraded`` or ``failing``; None when the host gave no report."""
    version: str | None = None
    """``name@version`` that it says it serves."""
    sha256: str | None = None
    """Hash of that bundle's manifest."""
    reasons: frozenset[str] = frozenset()
    """Codes of what keeps it from being ``ok``; remarks that do not are left out."""
    note: str = ""
    """What was in the way, for people."""


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What a look is held against."""

    version: str
    sha256: str
    baseline: frozenset[str] = frozenset()
    """Reason codes that stood before the release touched the host."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict and why, in a sentence. ``final`` ends the soak."""

    verdict: Verdict
    reason: str
    final: bool


def judge(look: Look, expected: Expectation) -> Judgement:
    """Judge one look by itself."""
    if not look.reached:
        return Judgement(verdict=Verdict.UNREACHABLE, reason=look.note or "no answer", final=False)
    if look.status is None or look.version is None:
        reason = "it answered without a health report" if look.status is None else "its report names no model"
        return Judgement(verdict=Verdict.NO_DATA, reason=look.note or reason, final=False)
    other = _other_model(look, expected)
    if other is not None:
        return Judgement(verdict=Verdict.FAIL, reason=other, final=True)
    return _judge_health(look, expected)


def _other_model(look: Look, expected: Expectation) -> str | None:
    if look.version != expected.version:
        return f"it serves {look.version}, not {expected.version}: it has gone back by itself, or was changed"
    if look.sha256 != expected.sha256:
        return f"its {look.version} has manifest {look.sha256}, the release has {expected.sha256}"
    return None


def _judge_health(look: Look, expected: Expectation) -> Judgement:
    listed = ", ".join(sorted(look.reasons)) or "no reason given"
    if look.status == "ok":
        return Judgement(verdict=Verdict.PASS, reason="healthy", final=False)
    if look.status != "degraded":
        return Judgement(verdict=Verdict.FAIL, reason=f"{look.status}: {listed}", final=True)
    new = look.reasons - expected.baseline
    if look.reasons and not new:
        return Judgement(verdict=Verdict.PASS, reason=f"as before the release: {listed}", final=False)
    since = ", ".join(sorted(new)) or listed
    return Judgement(verdict=Verdict.FAIL, reason=f"degraded since the release: {since}", final=False)


def soak(looks: Sequence[Look], expected: Expectation, rules: Soak, *, started: float, now: float) -> Judgement:
    """Judge all looks since the activation; ``final`` is False while the host must be watched further."""
    judgements = [judge(look, expected) for look in looks]
    fatal = next((each for each in judgements if each.final), None)
    if fatal is not None:
        return fatal
    row = 0
    for each in reversed(judgements):
        if each.verdict is not Verdict.PASS:
            break
        row += 1
    if row >= rules.passes:
        return Judgement(verdict=Verdict.PASS, reason=f"{row} passes in a row: {judgements[-1].reason}", final=True)
    if now - started < rules.deadline_s:
        return Judgement(verdict=Verdict.NO_DATA, reason=f"{row} of {rules.passes} passes in a row", final=False)
    if not judgements:
        return Judgement(verdict=Verdict.NO_DATA, reason="never looked at before the deadline", final=True)
    last = judgements[-1]
    if last.verdict is Verdict.PASS:
        # A row was begun too late. A deadline that stretches is none.
        reason = f"only {row} of {rules.passes} passes in a row within {rules.deadline_s:g} s"
        return Judgement(verdict=Verdict.FAIL, reason=reason, final=True)
    return Judgement(verdict=last.verdict, reason=f"{last.reason} (for {rules.deadline_s:g} s)", final=True)
