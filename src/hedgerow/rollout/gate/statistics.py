"""The two tests of the gate. Pure, and without anything but the standard library.

Both are one-sided (is ``after`` worse?) and return a p-value: the chance of data at least as extreme if nothing had
changed. Neither assumes a distribution of latencies.

Sources:

- H. B. Mann, D. R. Whitney, "On a test of whether one of two random variables is stochastically larger than the
  other", Annals of Mathematical Statistics 18 (1947), 50-60: U, its exact distribution, its mean and variance.
- E. L. Lehmann, "Nonparametrics: Statistical Methods Based on Ranks" (1975), section 1.4: variance with ties.
- R. A. Fisher, "The Design of Experiments" (1935), chapter II: the exact test of a 2 × 2 table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

EXACT_UP_TO = 625
"""Product of the groups' sizes up to which U's exact distribution is used where no two values are equal: 25 and 25, or
8 and 78. It is made once for each pair of sizes."""
EXACT_TIED_UP_TO = 144
"""The same where values are equal, which costs more: the distribution depends on which they are."""


def mann_whitney(before: Sequence[float], after: Sequence[float]) -> float:
    """One-sided p-value of the Mann-Whitney U test: that ``after`` is stochastically larger than ``before``.

    Exact (conditional on the ties) for small groups; beyond, the normal approximation with tie and continuity
    correction. 1.0 where a group is empty or all values are equal: that says nothing.
    """
    m, n = len(after), len(before)
    if not m or not n:
        return 1.0
    doubled, ties = _doubled_rank_sum(before, after)
    if len(ties) == 1 and m + n > 1:
        return 1.0
    tied = len(ties) != m + n
    if not tied and m * n <= EXACT_UP_TO:
        # Without ties the doubled sum is even, and U = R - m(m+1)/2.
        return _untied_tail(m, n)[doubled // 2 - m * (m + 1) // 2]
    if tied and m * n <= EXACT_TIED_UP_TO:
        return _tied_tail(m, ties, doubled)
    return _normal_tail(m, n, doubled / 2 - m * (m + 1) / 2, ties)


def _doubled_rank_sum(before: Sequence[float], after: Sequence[float]) -> tuple[int, tuple[int, ...]]:
    """Twice the sum of ``after``'s midranks (so that it is whole), and how many values are equal, in their order."""
    values = sorted([*[(value, 1) for value in after], *[(value, 0) for value in before]])
    doubled, start, total = 0, 0, len(values)
    ties: list[int] = []
    while start < total:
        end = start + 1
        ours = values[start][1]
        while end < total and values[end][0] == values[start][0]:
            ours += values[end][1]
            end += 1
        # Ranks start+1 … end share their mean, (start + 1 + end) / 2.
        doubled += ours * (start + 1 + end)
        ties.append(end - start)
        start = end
    return doubled, tuple(ties)


@lru_cache(maxsize=1024)
def _untied_tail(m: int, n: int) -> tuple[float, ...]:
    """P(U >= u) for u = 0 … mn: the coefficients of the Gaussian binomial (m+n choose m) count the orders by U."""
    counts = [1]
    for i in range(1, m + 1):
        # times (1 - q^(n+i)), then divided by (1 - q^i): both exact in whole numbers.
        high = n + i
        counts += [0] * high
        for place in range(len(counts) - 1, high - 1, -1):
            counts[place] -= counts[place - high]
        for place in range(i, len(counts)):
            counts[place] += counts[place - i]
        del counts[i * n + 1 :]
    return _tail(counts, math.comb(m + n, m))


def _tail(counts: Sequence[int], total: int) -> tuple[float, ...]:
    above = 0
    tail: list[float] = []
    for count in reversed(counts):
        above += count
        tail.append(above / total)
    return tuple(reversed(tail))


@lru_cache(maxsize=4096)
def _tied_tail(m: int, ties: tuple[int, ...], doubled: int) -> float:
    """P(doubled rank sum >= ``doubled``) over all ways to choose ``m`` of the values, given which are equal."""
    # ways[k] maps a doubled rank sum to the number of choices of k values that have it.
    ways: list[Counter[int]] = [Counter({0: 1}), *(Counter() for _ in range(m))]
    start = 0
    for size in ties:
        rank = 2 * start + size + 1
        for chosen in range(m, 0, -1):
            for taken in range(1, min(size, chosen) + 1):
                times = math.comb(size, taken)
                for total, number in ways[chosen - taken].items():
                    ways[chosen][total + taken * rank] += number * times
        start += size
    at_least = sum(number for total, number in ways[m].items() if total >= doubled)
    return at_least / math.comb(start, m)


def _normal_tail(m: int, n: int, u: float, ties: Sequence[int]) -> float:
    """P(U >= u), with half a rank of continuity correction and the variance that ties leave."""
    total = m + n
    tied = sum(size**3 - size for size in ties if size > 1) / (total * (total - 1))
    deviation = math.sqrt(m * n / 12 * (total + 1 - tied))
    return 0.5 * math.erfc((u - m * n / 2 - 0.5) / deviation / math.sqrt(2))


def fisher(errors_before: int, before: int, errors_after: int, after: int) -> float:
    """One-sided p-value of Fisher's exact test: that errors are more frequent ``after`` than ``before``.

    ``before`` and ``after`` are all requests, failed ones included. 1.0 where a group is empty.

    Raises:
        ValueError: More errors than requests, or a negative count.
    """
    if not 0 <= errors_before <= before or not 0 <= errors_after <= after:
        raise ValueError(f"{errors_before} of {before} and {errors_after} of {after} are no error counts")
    errors, total = errors_before + errors_after, before + after
    if not before or not after or not errors:
        return 1.0
    whole = _log_choose(total, after)
    tail = math.fsum(
        math.exp(_log_choose(errors, mine) + _log_choose(total - errors, after - mine) - whole)
        for mine in range(errors_after, min(errors, after) + 1)
        if after - mine <= total - errors
    )
    return min(1.0, tail)


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile, ``share`` in 0 … 1; None of nothing. The server's report uses the same."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
