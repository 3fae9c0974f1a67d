from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import UsageError
from hedgerow.rollout import batches, policy
from hedgerow.rollout.policy.sites import Sites

HOSTS = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=5), st.sampled_from(["orchard", "glade", "moor"]))
LEAST = st.one_of(st.integers(0, 6), st.sampled_from(["25%", "50%", "90%"]))


def parts(hosts: list[str], sizes: list[int]) -> list[list[str]]:
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return [hosts[end - size : end] for end, size in zip(ends, sizes, strict=True)]


@given(HOSTS, LEAST, st.integers(0, 5))
def test_a_site_never_has_more_hosts_in_their_turn_than_it_can_spare(
    site_of: dict[str, str], least: int | str, others: int
) -> None:
    """``others``: hosts of the site that are not in the wave."""
    rule = Sites(min_available=least)
    counted = [site for site in site_of.values() for _ in range(1)] + ["orchard"] * others
    budgets = batches.budgets(counted, rule)
    hosts, sizes = batches.cut(list(site_of), site_of, budgets)
    assert sorted(hosts) == sorted(site_of)
    assert sum(sizes) == len(hosts)
    for part in parts(hosts, sizes):
        assert part
        for site, number in Counter(site_of[host] for host in part).items():
            budget = budgets[site]
            assert number == 1 or budget.hosts - number >= rule.needed(budget.hosts)
            assert budget.short == (budget.hosts - 1 < rule.needed(budget.hosts))


@given(HOSTS, LEAST)
def test_there_are_no_more_batches_than_the_tightest_site_asks_for(site_of: dict[str, str], least: int | str) -> None:
    budgets = batches.budgets(site_of.values(), Sites(min_available=least))
    _, sizes = batches.cut(list(site_of), site_of, budgets)
    asked = [-(-budget.hosts // budget.at_once) for budget in budgets.values()]
    assert len(sizes) == max(asked, default=0)


def test_sites_share_batches_and_a_host_without_a_site_waits_for_none() -> None:
    site_of = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "b2": "b", "x": None}
    budgets = batches.budgets([site for site in site_of.values() if site], Sites(min_available=1))
    hosts, sizes = batches.cut(list(site_of), site_of, budgets)
    assert parts(hosts, sizes) == [["a1", "a2", "b1", "x"], ["a3", "b2"]]


def test_a_share_of_a_site_is_rounded_up() -> None:
    budgets = batches.budgets(["a"] * 5 + ["b"], Sites(min_available="50%"))
    assert (budgets["a"].min_available, budgets["a"].at_once, budgets["a"].short) == (3, 2, False)
    assert (budgets["b"].min_available, budgets["b"].at_once, budgets["b"].short) == (1, 1, True)
    assert budgets["b"].kept == 0


@pytest.mark.parametrize("least", [-1, "100%", "half", 1.5])
def test_a_budget_that_cannot_be_kept_is_refused(least: object) -> None:
    with pytest.raises(UsageError):
        policy.parse({"sites": {"min_available": least}}, where="x")
