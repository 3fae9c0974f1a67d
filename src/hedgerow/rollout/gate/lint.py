"""What a policy's gate says that its schema allows and nobody can have meant. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from hedgerow.rollout.gate.rules import Rules
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.policy.gate import NOT_COMPARED, SAMPLED, Condition, Criterion, Gate, Metric


class Remark(NamedTuple):
    """As ``hedgerow.rollout.lint.Finding``."""

    severity: Literal["error", "warning"]
    key: str
    what: str
    next: str


def remarks(policy: Policy) -> Iterator[Remark]:
    """Everything about ``gate``, in the order of the criteria."""
    rules = Rules.of(policy)
    for criterion in (*rules.since, *rules.by_look):
        for condition in criterion.all_of:
            if condition.worse_by is not None:
                yield from _comparison(policy, criterion, condition)
                yield from _power(rules, criterion, condition)
    yield from _without_effect(policy.gate)
    prometheus = policy.gate.prometheus
    if prometheus is not None:
        used = {condition.query for criterion in policy.gate.criteria for condition in criterion.all_of}
        for name in sorted(set(prometheus.queries) - used):
            key = f"gate.prometheus.queries.{name}"
            yield Remark(
                "warning", key, "it is asked, and no criterion uses it", "a criterion with it, or leave it out"
            )
        if prometheus.url.startswith("http://"):
            what = "what decides over a release comes without TLS"
            yield Remark("warning", "gate.prometheus.url", what, "https://, with ca where the authority is your own")


def _without_effect(gate: Gate) -> Iterator[Remark]:
    for criterion in gate.criteria:
        for condition in criterion.all_of:
            for key in _idle(condition):
                what = f"{criterion.name}: {key} has no effect on {condition.subject} as it is held here"
                yield Remark("warning", "gate.criteria", what, f"leave {key} out")
    if gate.controls != Gate().controls and not gate.needs_controls:
        what = "no criterion compares answers, so that no untouched host is asked"
        yield Remark("warning", "gate.controls", what, "leave it out, or a criterion with worse_by")


def _idle(condition: Condition) -> Iterator[str]:
    """Keys that a condition may have and that change nothing of it."""
    limit = condition.worse_by is None
    if limit and condition.against != "before":
        yield "against"
    if condition.even_if_before and (not limit or condition.metric in NOT_COMPARED):
        yield "even_if_before"
    if condition.minimum_samples is not None and condition.metric not in SAMPLED | {Metric.ERROR_RATIO}:
        yield "minimum_samples"


def _comparison(policy: Policy, criterion: Criterion, condition: Condition) -> Iterator[Remark]:
    if condition.against != "before" or condition.metric not in SAMPLED:
        return
    probes = policy.gate.probes
    if probes.baseline_s == 0 or probes.count < condition.samples:
        what = (
            f"{criterion.name} compares {condition.samples} answers with as many from before the activation, and "
            f"gate.probes puts {probes.count} questions in {probes.baseline_s:g} s then: it will always be skipped"
        )
        yield Remark("warning", "gate.probes", what, f"count: {max(probes.count, condition.samples)}, baseline_s: 30")


def _power(rules: Rules, criterion: Criterion, condition: Condition) -> Iterator[Remark]:
    """Two groups of n are told apart with p = 1 / C(2n, n) at the best."""
    if condition.metric not in SAMPLED:
        return
    enough = condition.samples
    while 1 / math.comb(2 * enough, enough) > rules.alpha / 2:
        enough += 1
    if enough > condition.samples:
        what = (
            f"{criterion.name}: {condition.samples} samples prove nothing at alpha {rules.alpha / 2:.2g} (its share), "
            f"however slow the release is"
        )
        yield Remark("warning", "gate.criteria", what, f"minimum_samples: {enough}, or a larger alpha")
