"""The criteria that a host is held to: built-in ones, the bundle's SLO, and the policy's own. Pure."""

from __future__ import annotations

from typing import Final, Self

import msgspec

from hedgerow.registry.manifest import Slo
from hedgerow.rollout.gate.shift import SHIFT_ALPHA
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.policy.gate import COUNTED, SAMPLED, Condition, Criterion, Metric
from hedgerow.rollout.policy.soak import Soak


def _built_in(name: str, *conditions: Condition) -> Criterion:
    return Criterion(name=name, all_of=list(conditions), unknown="skip")


WRONG_ANSWERS: Final = Criterion(name="wrong_answers", all_of=[Condition(metric=Metric.GOLDEN_FAILURES, above=0)])
"""Always on: a release that answers wrongly is broken, and one that was never asked is not known to be well."""

BUILT_IN: Final = (
    # Twice the fleet's goal of 0.5 % in an hour: what a look of seconds can tell from it.
    _built_in("errors", Condition(metric=Metric.ERROR_RATIO, above=0.01)),
    _built_in("restarts", Condition(metric=Metric.RESTARTS, above=0)),
    # Memory under 90 % and a start in 10 s are the smoke gate that fleets of such devices publish.
    _built_in("memory", Condition(metric=Metric.MEMORY_USED_RATIO, above=0.90)),
    _built_in("start", Condition(metric=Metric.START_S, above=10)),
    # 20 ms: nobody waits for less, and a board or a link that has other things to do delays an answer by as much.
    _built_in("slower", Condition(metric=Metric.P50_MS, worse_by=1.5, and_by=20, against="before")),
)

SLO_SAMPLES: Final = 20
"""Fewer answers have no 95th percentile below their maximum."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What ``judge`` goes by. ``alpha`` is what each compared condition may spend over all looks.

    ``by_look`` has the criteria that rest on a report or a query and are judged anew at every look; ``since`` those
    that count from the activation on.
    """

    soak: Soak
    alpha: float
    shift_alpha: float = SHIFT_ALPHA
    """As ``alpha``, for the test whether a host changed more than those without the release."""
    by_look: tuple[Criterion, ...]
    since: tuple[Criterion, ...]
    asks: bool = True
    """Whether answers keep coming: without them, sampled metrics have nothing to wait for."""
    ignore_outage: bool = False

    @classmethod
    def of(cls, policy: Policy, slo: Slo | None = None) -> Self:
        """The rules of ``policy`` for a bundle with this ``slo``; make them once for a rollout."""
        gate = policy.gate
        criteria = [WRONG_ANSWERS, *(each for each in BUILT_IN if each.name not in gate.without)]
        if gate.slo and slo is not None:
            criteria += _of_slo(slo)
        criteria += gate.criteria
        tested = sum(condition.tested for criterion in criteria for condition in criterion.all_of)
        return cls(
            soak=policy.soak,
            # Bonferroni: whatever the comparisons have in common, all together stay under alpha.
            alpha=gate.alpha / max(1, tested),
            shift_alpha=SHIFT_ALPHA / max(1, tested),
            by_look=tuple(_tested_last(each) for each in criteria if not _counts_on(each)),
            since=tuple(_tested_last(each) for each in criteria if _counts_on(each)),
            asks=gate.probes.count > 0,
            ignore_outage=gate.prometheus is not None and gate.prometheus.on_outage == "ignore",
        )


def _of_slo(slo: Slo) -> list[Criterion]:
    conditions = [
        Condition(metric=metric, above=limit, minimum_samples=SLO_SAMPLES)
        for metric, limit in ((Metric.P95_MS, slo.p95_ms), (Metric.TTFT_MS, slo.ttft_p95_ms))
        if limit is not None
    ]
    if slo.tokens_per_s is not None:
        conditions.append(Condition(metric=Metric.TOKENS_PER_S, below=slo.tokens_per_s, minimum_samples=SLO_SAMPLES))
    return [_built_in(f"slo {condition.subject}", condition) for condition in conditions]


def _counts_on(criterion: Criterion) -> bool:
    """Whether no condition can mend with the next look."""
    return all(each.metric in SAMPLED | COUNTED for each in criterion.all_of)


def _tested_last(criterion: Criterion) -> Criterion:
    """A test is made, and its share of alpha spent, only where all else is breached."""
    return msgspec.structs.replace(criterion, all_of=sorted(criterion.all_of, key=lambda each: each.tested))
