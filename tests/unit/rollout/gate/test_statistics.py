"""The gate's tests against published values, against brute force, and against what they promise."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.rollout.gate import statistics
from hedgerow.rollout.gate.statistics import fisher, mann_whitney, percentile

# Permeability of the human chorioamnion, at term and at 12 to 26 weeks: Hollander and Wolfe, "Nonparametric
# Statistical Methods" (1973), p. 69; also the example of R's wilcox.test: W = 35, p = 0.1272.
TERM = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
EARLY = [1.15, 0.88, 0.90, 0.74, 1.21]

# Ozone in New York in May and August 1973: Chambers et al., "Graphical Methods for Data Analysis" (1983); R's
# wilcox.test(Ozone ~ Month) with ties, continuity correction: W = 127.5, two-sided p = 0.0001208.
MAY = [41, 36, 12, 18, 28, 23, 19, 8, 7, 16, 11, 14, 18, 14, 34, 6, 30, 11, 1, 11, 4, 32, 23, 45, 115, 37]
AUGUST = [39, 9, 16, 78, 35, 66, 122, 89, 110, 44, 28, 65, 22, 59, 23, 31, 44, 21, 9, 45, 168, 73, 76, 118, 84, 85]


def test_the_exact_test_has_the_published_value() -> None:
    assert mann_whitney(EARLY, TERM) == pytest.approx(0.1272, abs=5e-5)


def test_the_normal_approximation_has_the_published_values(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2 * mann_whitney(MAY, AUGUST) == pytest.approx(0.0001208, abs=5e-8)
    monkeypatch.setattr(statistics, "EXACT_UP_TO", 0)
    # The example of scipy.stats.mannwhitneyu: two-sided 0.11134688653314041 with continuity correction.
    assert 2 * mann_whitney([20, 11, 17, 12], [19, 22, 16, 29, 24]) == pytest.approx(0.11134688653314041, rel=1e-12)


# Mann and Whitney (1947), table I, and its continuation in Siegel, "Nonparametric Statistics" (1956), table J:
# P(U <= u) for two groups of equal size.
@pytest.mark.parametrize(
    "size, u, published",
    [(3, 0, 0.050), (3, 2, 0.200), (4, 1, 0.029), (5, 2, 0.016), (5, 4, 0.048), (8, 8, 0.005), (8, 13, 0.025)],
)
def test_the_exact_distribution_is_the_published_table(size: int, u: int, published: float) -> None:
    tail = statistics._untied_tail(size, size)
    assert tail[size * size - u] == pytest.approx(published, abs=5e-4)


def brute_force(before: list[float], after: list[float]) -> float:
    def u(ours: tuple[float, ...], theirs: list[float]) -> float:
        return sum((a > b) + (a == b) / 2 for a in ours for b in theirs)

    values = [*before, *after]
    seen, hits, total = u(tuple(after), before), 0, 0
    for chosen in itertools.combinations(range(len(values)), len(after)):
        ours = tuple(values[place] for place in chosen)
        theirs = [value for place, value in enumerate(values) if place not in chosen]
        hits += u(ours, theirs) >= seen
        total += 1
    return hits / total


few = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=5)


@given(few, few)
def test_the_exact_test_counts_every_order_ties_included(before: list[float], after: list[float]) -> None:
    expected = 1.0 if len({*before, *after}) == 1 else brute_force(before, after)
    assert mann_whitney(before, after) == pytest.approx(expected)


values = st.lists(st.floats(0, 1e6), min_size=1, max_size=40)


@given(values, values)
def test_two_sides_share_what_one_outcome_weighs(before: list[float], after: list[float]) -> None:
    worse, better = mann_whitney(before, after), mann_whitney(after, before)
    assert 0 <= worse <= 1
    assert worse + better >= 1 - 1e-9  # both tails hold the outcome itself


@given(values, values)
def test_only_the_order_counts(before: list[float], after: list[float]) -> None:
    scaled = [[value * 2**3 for value in group] for group in (before, after)]
    assert mann_whitney(*scaled) == mann_whitney(before, after)
    assert mann_whitney(before[::-1], sorted(after)) == mann_whitney(before, after)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=60, unique=True), st.data())
def test_the_later_the_values_the_smaller_p(order: list[int], data: st.DataObject) -> None:
    """One of ours exchanged with a larger one of theirs: U grows, and p does not."""
    cut = data.draw(st.integers(1, len(order) - 1))
    after, before = [float(value) for value in order[:cut]], [float(value) for value in order[cut:]]
    p = mann_whitney(before, after)
    if max(before) > min(after):
        low, high = after.index(min(after)), before.index(max(before))
        after[low], before[high] = before[high], after[low]
        assert mann_whitney(before, after) <= p


@pytest.mark.parametrize("size, decimals", [(8, None), (12, 0), (30, None), (40, 0)])
def test_false_alarms_stay_under_alpha(size: int, decimals: int | None) -> None:
    """Both groups from one skewed distribution, as latencies are; with rounding, half of all values are ties."""
    chance = random.Random(f"{size} {decimals}")

    def draw() -> list[float]:
        latencies = (10 + chance.lognormvariate(0, 0.5) * 4 for _ in range(size))
        return [value if decimals is None else round(value, decimals) for value in latencies]

    alpha, trials = 0.05, 2000
    alarms = sum(mann_whitney(draw(), draw()) <= alpha for _ in range(trials))
    # Four standard deviations of a binomial count above its mean: once in 30 000 seeds.
    assert alarms <= alpha * trials + 4 * (alpha * (1 - alpha) * trials) ** 0.5
    assert alarms > 0


def test_a_shift_is_seen() -> None:
    chance = random.Random(7)
    before = [chance.gauss(100, 20) for _ in range(12)]
    after = [chance.gauss(200, 40) for _ in range(12)]
    assert mann_whitney(before, after) < 0.0001
    assert mann_whitney(after, before) > 0.99


def test_nothing_to_compare_says_nothing() -> None:
    assert mann_whitney([], [1.0]) == mann_whitney([1.0], []) == mann_whitney([2.0] * 9, [2.0] * 9) == 1.0
    assert fisher(0, 0, 1, 1) == fisher(1, 1, 0, 0) == fisher(0, 9, 0, 9) == 1.0


@pytest.mark.parametrize(
    "table, published",
    [
        # The lady tasting tea: Fisher (1935), chapter II: three cups of four right, 17 of 70 ways.
        ((1, 4, 3, 4), 17 / 70),
        ((0, 4, 4, 4), 1 / 70),
        # Criminal twins: Fisher (1935), as in R's fisher.test: p = 0.0004652.
        ((2, 17, 10, 13), 0.0004652),
    ],
)
def test_fishers_own_examples(table: tuple[int, int, int, int], published: float) -> None:
    assert fisher(*table) == pytest.approx(published, rel=1e-3)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_fishers_tails_meet(wrong_a: int, right_a: int, wrong_b: int, right_b: int) -> None:
    a, b = wrong_a + right_a, wrong_b + right_b
    worse, better = fisher(wrong_a, a, wrong_b, b), fisher(wrong_b, b, wrong_a, a)
    assert 0 <= worse <= 1
    assert worse + better >= 1 - 1e-9


def test_false_alarms_of_fishers_test_stay_under_alpha() -> None:
    chance = random.Random(11)
    alpha, trials = 0.05, 2000
    alarms = 0
    for _ in range(trials):
        before, after = (sum(chance.random() < 0.05 for _ in range(100)) for _ in range(2))
        alarms += fisher(before, 100, after, 100) <= alpha
    assert 0 < alarms <= alpha * trials


def test_no_error_count() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        fisher(3, 2, 0, 1)


def test_percentiles_are_the_servers() -> None:
    from hedgerow.server.statistics import percentile as servers

    ordered = [float(value) for value in range(1, 101)]
    for share in (0.0, 0.5, 0.95, 0.99, 1.0):
        assert percentile(ordered[::-1], share) == servers(ordered, share)
    assert percentile([], 0.5) is None
