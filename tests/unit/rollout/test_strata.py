from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.rollout import strata
from hedgerow.rollout.policy.waves import Labelled
from hedgerow.rollout.strata import Stratum

VALUES = [st.sampled_from(["8192 MB", "4096 MB", "?"]), st.sampled_from(["active", "passive"]), st.sampled_from("ab")]
STRATA = st.tuples(*VALUES)
NAMES = st.text("abcdef0123456789", min_size=1, max_size=6)
FLEETS = st.dictionaries(NAMES, STRATA, max_size=80)
SEEDS = st.text("xyz", max_size=4)


def counts(fleet: dict[str, Stratum], names: list[str]) -> Counter[Stratum]:
    return Counter(fleet[name] for name in names)


def even(sizes: dict[Stratum, int]) -> dict[str, Stratum]:
    """A fleet with as many hosts of each stratum as ``sizes`` says."""
    return {f"{'-'.join(stratum)}-{number}": stratum for stratum, size in sizes.items() for number in range(size)}


@given(FLEETS, SEEDS)
def test_the_order_has_every_host_once_and_depends_on_names_strata_and_seed_alone(
    fleet: dict[str, Stratum], seed: str
) -> None:
    order = strata.spread(fleet, seed)
    assert sorted(order) == sorted(fleet)
    assert strata.spread(dict(reversed(fleet.items())), seed) == order


@given(FLEETS, SEEDS)
def test_n_early_hosts_are_of_n_strata(fleet: dict[str, Stratum], seed: str) -> None:
    order = strata.spread(fleet, seed)
    kinds = len(set(fleet.values()))
    for number in range(1, len(order) + 1):
        assert len(counts(fleet, order[:number])) == min(number, kinds)


@given(FLEETS, SEEDS)
def test_every_stretch_from_the_begin_shares_places_out_as_sainte_lague_does(
    fleet: dict[str, Stratum], seed: str
) -> None:
    """Nobody got a place (c - 1/2) / s that is later than the next one, (d + 1/2) / t, that another did not get."""
    sizes = Counter(fleet.values())
    order = strata.spread(fleet, seed)
    for number in range(len(sizes), len(order)):
        have = counts(fleet, order[:number])
        # The first place of a stratum is for coverage and comes before its share.
        latest = max(((have[each] - 0.5) / sizes[each] for each in sizes if have[each] > 1), default=0)
        assert latest <= min((have[each] + 0.5) / sizes[each] for each in sizes if have[each] < sizes[each])


@given(st.dictionaries(STRATA, st.integers(1, 60), min_size=1, max_size=6), SEEDS, st.integers(1, 99))
def test_a_share_of_the_fleet_is_that_share_of_each_stratum(sizes: dict[Stratum, int], seed: str, percent: int) -> None:
    """Within one host and a half of each where the wave has room for one of each; one of each comes first."""
    fleet = even(sizes)
    number = math.ceil(len(fleet) * percent / 100)
    have = counts(fleet, strata.spread(fleet, seed)[:number])
    if number < 4 * len(sizes):
        return
    ahead = sum(1 for size in sizes.values() if size * percent / 100 < 0.5)
    for stratum, size in sizes.items():
        assert abs(have[stratum] - size * percent / 100) <= 1.5 + ahead


@given(FLEETS, SEEDS, NAMES, STRATA)
def test_another_host_moves_none_of_its_own_stratum(
    fleet: dict[str, Stratum], seed: str, name: str, stratum: Stratum
) -> None:
    fleet.pop(name, None)
    within = {
        each: [host for host in strata.spread(fleet, seed) if fleet[host] == each] for each in set(fleet.values())
    }
    more = fleet | {name: stratum}
    after = [host for host in strata.spread(more, seed) if host != name]
    assert {each: [host for host in after if fleet[host] == each] for each in within} == within


@pytest.mark.parametrize("number", range(20))
def test_another_host_changes_the_wave_of_few_others(number: int) -> None:
    """One comes in where it stands and pushes out one at the end of each wave; shares of its stratum move a little."""
    kinds = list(itertools.product(["8 GB", "4 GB"], ["active", "passive"], ["none", "hat-plus-2"], "abcde"))
    fleet = {f"pi-{n}": kinds[(n * n) % 23 % len(kinds)] for n in range(2000)}
    entries = [1, "10%", "50%", "100%"]

    def wave_of(hosts: dict[str, Stratum]) -> dict[str, int]:
        waves = strata.cut(hosts, {}, entries, "seed")
        return {name: number for number, (_, wave) in enumerate(waves) for name in wave}

    before = wave_of(fleet)
    after = wave_of(fleet | {f"late-{number}": kinds[number]})
    moved = [name for name in fleet if before[name] != after[name]]
    assert len(moved) <= 6, moved


def test_the_first_hosts_have_as_many_different_values_as_they_can() -> None:
    """A hundred sites: ten hosts cannot be of all, but can have every kind of board among them."""
    boards = list(itertools.product(["8 GB", "4 GB", "2 GB"], ["active", "passive"], ["none", "hat-plus-2"]))
    fleet = {f"pi-{site}-{n}": (*boards[(site + n) % 12], f"site {site}") for site in range(100) for n in range(12)}
    first = strata.spread(fleet, "seed")[:10]
    seen = [{fleet[name][key] for name in first} for key in range(4)]
    assert [len(each) for each in seen] == [3, 2, 2, 10]


def test_who_is_first_of_all_is_drawn_by_size() -> None:
    """Otherwise the one board of a rare kind would be the canary of every release."""
    fleet = even({("none",): 60, ("hat-plus-2",): 30, ("hat-plus-13",): 10})
    first = Counter(fleet[strata.spread(fleet, str(seed))[0]] for seed in range(400))
    for stratum, share in {("none",): 0.6, ("hat-plus-2",): 0.3, ("hat-plus-13",): 0.1}.items():
        # Four standard deviations of a binomial distribution; the seeds are the same every time.
        assert abs(first[stratum] / 400 - share) < 4 * math.sqrt(share * (1 - share) / 400)


def test_one_percent_represents_a_fleet_of_more_strata_than_it_has_hosts() -> None:
    """One host in ten is cooled passively, but three strata in ten are: the wave is to have the fleet's share."""
    chance = random.Random(4)
    kinds = [["8 GB"] * 6 + ["4 GB"] * 3 + ["2 GB"], ["active"] * 9 + ["passive"], ["none"] * 7 + ["hat"] * 3]
    fleet = {
        f"pi-{number}": (*(chance.choice(kind) for kind in kinds), f"site {chance.randrange(200)}")
        for number in range(6000)
    }
    strata_passive = [stratum for stratum in set(fleet.values()) if stratum[1] == "passive"]
    assert len(strata_passive) / len(set(fleet.values())) > 0.25
    shares = []
    for seed in range(10):
        wave = strata.spread(fleet, str(seed))[:120]
        assert len(counts(fleet, wave)) == 120
        shares.append(sum(fleet[name][1] == "passive" for name in wave) / len(wave))
    assert 0.06 < sum(shares) / len(shares) < 0.14, shares


def test_a_seed_changes_the_order_and_names_order_alike_hosts() -> None:
    fleet = even({("none",): 8})
    orders = {tuple(strata.spread(fleet, str(seed))) for seed in range(30)}
    assert len(orders) > 25
    assert strata.spread(fleet, "a") == sorted(fleet, key=lambda name: strata.position("a", name))


RINGS = st.sampled_from(["early", "late", ""])
ENTRIES = st.lists(st.one_of(st.integers(1, 9), st.just(Labelled({"ring": "early"})), st.just("40%")), max_size=3)


@given(st.dictionaries(NAMES, st.tuples(STRATA, RINGS), max_size=60), ENTRIES, SEEDS)
def test_waves_have_every_host_once_and_none_is_empty(
    hosts: dict[str, tuple[Stratum, str]], entries: list[int | str | Labelled], seed: str
) -> None:
    fleet = {name: stratum for name, (stratum, _) in hosts.items()}
    labels = {name: {"ring": ring} for name, (_, ring) in hosts.items()}
    waves = strata.cut(fleet, labels, [*entries, "100%"], seed)
    assert sorted(name for _, wave in waves for name in wave) == sorted(fleet)
    assert all(wave for _, wave in waves)
    done = 0
    for entry, wave in waves:
        done += len(wave)
        if entry == "40%":
            assert done == math.ceil(len(fleet) * 0.4)
        if entry == "ring: early":
            assert {labels[name]["ring"] for name in wave} == {"early"}


def test_a_percentage_counts_whoever_came_before_and_is_rounded_up() -> None:
    fleet = {f"pi-{number}": ("?",) for number in range(101)}
    waves = strata.cut(fleet, {}, [3, "1%", "25%", "50%", "100%"], "s")
    assert [(entry, len(wave)) for entry, wave in waves] == [("3 more", 3), ("25%", 23), ("50%", 25), ("100%", 50)]


def test_a_label_brings_in_all_that_carry_it_and_what_follows_makes_up_for_it() -> None:
    fleet = even({("active",): 10, ("passive",): 10})
    labels = {name: {"ring": "early"} for name, stratum in fleet.items() if stratum == ("passive",)}
    early = dict(itertools.islice(labels.items(), 5))
    waves = strata.cut(fleet, early, [Labelled({"ring": "early"}), "50%", "100%"], "s")
    assert set(waves[0][1]) == set(early)
    # Five passive ones have had their turn: the half of the fleet is to be half passive, so the others are active.
    assert counts(fleet, waves[0][1] + waves[1][1]) == {("active",): 5, ("passive",): 5}


@pytest.mark.parametrize("seed", "abcdefgh")
def test_after_a_label_come_the_values_that_it_did_not_bring(seed: str) -> None:
    fleet = even({("8 GB", "active"): 4, ("8 GB", "passive"): 4, ("4 GB", "passive"): 4})
    early = {name: {"ring": "early"} for name, stratum in fleet.items() if stratum == ("8 GB", "active")}
    waves = strata.cut(fleet, early, [Labelled({"ring": "early"}), 1], seed)
    assert fleet[waves[1][1][0]] == ("4 GB", "passive")


def test_a_label_that_nobody_carries_makes_no_wave() -> None:
    waves = strata.cut({"a": ("?",)}, {}, [Labelled({"ring": "early"}), 1], "s")
    assert waves == [("1 more", ["a"])]
