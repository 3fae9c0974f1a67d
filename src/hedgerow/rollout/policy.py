"""The rules of a rollout, without IO and without a clock.

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
- Budgets count over the whole rollout, across waves. A host that could not be
  reached before anything was done to it counts as unreachable; one that was
  lost after its activation counts as a failure, for the release may be why.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from hedgerow import json_schema as schemas
from hedgerow.errors import UsageError

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Soak(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a host is watched after its activation."""

    passes: Count = 3
    """Passing looks in a row."""
    interval_s: Seconds = 1.0
    """Seconds between looks."""
    deadline_s: Seconds = 120.0
    """Seconds after which the last look decides."""


class Budgets(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much may go wrong in the whole rollout; one more stops it."""

    failures: Annotated[int, msgspec.Meta(ge=0)] = 0
    unreachable: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """None: no limit. A host that is off before its turn is left as it is, so going on harms nobody."""


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``rollout_policy`` may say; every default is the careful one."""

    waves: Annotated[list[Count], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: [1])
    """Hosts in each wave; the last number repeats (as ``serial`` does)."""
    seed: str | None = None
    """Changes the order of hosts. None: the bundle's own name and version, so a rerun keeps the order and
    the next release meets another first host."""
    soak: Soak = Soak()
    activate_within_s: Annotated[int, msgspec.Meta(ge=1)] = 900
    """Seconds for download, verification and switch together, after which the command on the host is ended."""
    confirm_within_s: Annotated[int, msgspec.Meta(ge=30)] = 600
    """Seconds after which a device that nobody confirmed goes back by itself."""
    budgets: Budgets = Budgets()

    def __post_init__(self) -> None:
        shortest = self.soak.passes * self.soak.interval_s
        if shortest > self.soak.deadline_s:
            raise ValueError(
                f"soak.deadline_s is {self.soak.deadline_s:g}, but {self.soak.passes} passes every "
                f"{self.soak.interval_s:g} s take {shortest:g}"
            )
        if self.soak.deadline_s >= self.confirm_within_s:
            raise ValueError(
                f"confirm_within_s ({self.confirm_within_s}) must be longer than soak.deadline_s "
                f"({self.soak.deadline_s:g}): the device would go back while it is still being judged"
            )


def parse(value: Any, *, where: str) -> Policy:
    """Read a policy from decoded YAML or JSON; None is all defaults.

    Raises:
        UsageError: An unknown key or a value out of range; says which.
    """
    try:
        return msgspec.convert({} if value is None else value, Policy)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"the rollout policy is wrong: {error}",
            where=where,
            next_step="keys and limits: hedgerow rollout plan --policy-schema",
        ) from error


def schema() -> dict[str, Any]:
    """JSON Schema of a policy file."""
    return schemas.of(Policy, "Hedgerow rollout policy")


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


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What has happened so far in the whole rollout, in hosts."""

    failed: int = 0
    unreachable: int = 0


def spent(tally: Tally, budgets: Budgets) -> str | None:
    """Say which budget is spent, so that no further host may start; None while all hold."""
    if tally.failed > budgets.failures:
        return f"{tally.failed} host(s) failed and the rollout may cost {budgets.failures}"
    if budgets.unreachable is not None and tally.unreachable > budgets.unreachable:
        return f"{tally.unreachable} host(s) could not be reached and the rollout may miss {budgets.unreachable}"
    return None
