"""Which question comes next, and when: an idle host is judged, too, and a busy one is not overloaded. Pure.

One question at a time. After each the host rests as long as the policy's share of its time asks for, so that a model
that takes seconds gets few questions, and one that takes a millisecond gets ``probes.count`` in the shortest soak.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from hedgerow.rollout.policy.gate import Probes

SHORTEST_PAUSE_S = 0.005
"""However quick the answers: 200 a second are no traffic of users."""


def pause_s(rules: Probes, took_s: float, *, shortest_soak_s: float | None) -> float:
    """Seconds to rest after an answer that took ``took_s``. ``shortest_soak_s`` None: before the activation."""
    spread = 0.0
    if shortest_soak_s is not None:
        spread = min(rules.slowest_s, shortest_soak_s / max(1, rules.count))
    return max(spread - took_s, took_s * (1 / rules.share - 1), SHORTEST_PAUSE_S)


def order(questions: int, compared: Sequence[int] = ()) -> Iterator[int]:
    """Question numbers without end. ``compared`` are those that were put before the activation.

    Where the time before was too short for all, every other question is one of those: answers are compared question by
    question, and the rest must be answered rightly, too.
    """
    known = sorted({number for number in compared if number < questions})
    rest = [number for number in range(questions) if number not in set(known)]
    if not known or not rest:
        return itertools.cycle(range(questions))
    return (number for pair in zip(itertools.cycle(known), itertools.cycle(rest), strict=False) for number in pair)
