"""Whether a criterion is met: its conditions put together. Pure."""

from __future__ import annotations

from hedgerow.rollout.gate.comparisons import compared
from hedgerow.rollout.gate.findings import Finding, Sight
from hedgerow.rollout.gate.limits import held
from hedgerow.rollout.gate.verdicts import CriterionResult, Standing
from hedgerow.rollout.policy.gate import Condition, Criterion


def evaluate(criterion: Criterion, sight: Sight) -> tuple[Finding, Condition]:
    """Judge a criterion: the finding that decides, and of which condition.

    One condition that holds lets the criterion pass; otherwise the first that is unknown decides, or else the last.
    """
    unknown: tuple[Finding, Condition] | None = None
    for place, condition in enumerate(criterion.all_of):
        judged = held if condition.worse_by is None else compared
        finding = judged(condition, sight, f"{criterion.name}.{place}")
        if finding.standing is Standing.PASS:
            return finding, condition
        if finding.standing is not Standing.BREACH and unknown is None:
            unknown = finding, condition
    return unknown if unknown is not None else (finding, condition)


def result(criterion: Criterion, finding: Finding, condition: Condition, standing: Standing) -> CriterionResult:
    """The finding for the journal; ``standing`` is what it comes to."""
    return CriterionResult(
        name=criterion.name,
        verdict=standing,
        reason=finding.reason,
        metric=condition.subject,
        value=_short(finding.value),
        limit=_short(finding.limit),
        baseline=_short(finding.baseline),
        p=None if finding.p is None else float(f"{finding.p:.3g}"),
        n=finding.n,
        n_baseline=finding.n_baseline,
    )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
