"""What a policy's gate says that its schema allows and nobody can have meant. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from hedgerow.rollout.gate.rules import Rules
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.policy.gate import SAMPLED, Condition, Criterion


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
