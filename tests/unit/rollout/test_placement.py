"""What a plan says of each host besides its wave: variant, stratum, site, outage; and who gets none of it."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.registry.manifest import GoldenText, Message, Requires
from hedgerow.rollout import plan as plans
from hedgerow.rollout import policy
from hedgerow.rollout.plan import Held, Plan, Release, Target
from hedgerow.rollout.variants import Variant

CPU = Variant(name="cpu", requires=Requires(memory_mb=3000), sha256="a" * 64, size_bytes=900_000_000)
HAT = Variant(name="hailo", requires=Requires(memory_mb=1500, hat=("hat-plus-2",)), sha256="b" * 64, size_bytes=10**9)


def built(*variants: Variant) -> Release:
    probe = GoldenText(messages=(Message("user", "?"),), expect="x")
    return Release(bundle="m@1.0.0", sha256="a" * 64, size_bytes=1, probe=probe, variants=list(variants))


def made(targets: list[Target], *variants: Variant, **rules: object) -> Plan:
    return plans.make(targets, policy.parse(rules, where="test"), built(*variants))


def test_every_host_gets_its_variant_and_its_stratum() -> None:
    targets = [
        Target(name="a", hat="hat-plus-2", memory_mb=8192, site="orchard", labels={"floor": "1"}),
        Target(name="b", hat="none", memory_mb=8192, site="orchard", labels={"floor": "2"}),
        Target(name="c", hat="none"),
    ]
    plan = made(targets, CPU, HAT, stratify=["hat", "memory", "label:floor"])
    assert {name: place.variant for name, place in plan.placements.items()} == {"a": "hailo", "b": "cpu", "c": "cpu"}
    assert {name: plan.strata[place.stratum] for name, place in plan.placements.items()} == {
        "a": ("hat-plus-2", "8192 MB", "1"),
        "b": ("none", "8192 MB", "2"),
        "c": ("none", "?", "?"),
    }
    assert plan.placements["c"].site is None
    assert plan.sites["orchard"].hosts == 2


def test_what_fits_no_variant_is_listed_and_the_rest_goes_on() -> None:
    plan = made([Target(name="a", hat="none"), Target(name="b", hat="hat-plus-2")], HAT)
    assert plan.hosts == ["b"]
    assert plan.incompatible == [Held("a", "is for hat-plus-2, the host has none")]
    assert plan.counts()["incompatible"] == 1


def test_an_outage_is_declared_where_both_do_not_fit() -> None:
    targets = [
        Target(name="tight", memory_mb=4096, serves_mb=3000),
        Target(name="wide", memory_mb=8192, serves_mb=3000),
        Target(name="first", memory_mb=4096, serves_mb=0),
    ]
    plan = made(targets, CPU)
    assert plan.outages == {"tight": 20}
    assert all(place.memory_unknown is None for place in plan.placements.values())


def test_a_hold_counts_before_a_quarantine_and_neither_counts_for_a_site() -> None:
    targets = [
        Target(name="a", site="s", hold="fan on order", hold_until="2026-12-01", quarantine="failed"),
        Target(name="b", site="s", quarantine="failed", quarantined_until="2026-12-02", quarantined_by="r1"),
        Target(name="c", site="s"),
        Target(name="d", site="s", limited=True),
    ]
    plan = made(targets)
    assert plan.held == [Held("a", "fan on order", "2026-12-01")]
    assert plan.quarantined == [Held("b", "failed", "2026-12-02", "r1")]
    assert (plan.hosts, plan.outside_limit) == (["c"], ["d"])
    assert (plan.sites["s"].hosts, plan.sites["s"].short) == (2, False)


def test_a_limit_narrows_waves_and_not_the_budget_of_a_site() -> None:
    """Three hosts serve at the site, so the two inside the limit may go together although they are all that goes."""
    targets = [Target(name="a", site="s"), Target(name="b", site="s"), Target(name="c", site="s", limited=True)]
    assert made(targets, waves=[5]).serial == [2]
    assert made(targets[:2], waves=[5]).serial == [1, 1]


def test_a_site_that_is_too_small_goes_one_by_one_or_not_at_all() -> None:
    targets = [Target(name="a", site="s"), Target(name="b", site="s"), Target(name="c", site="t")]
    assert made(targets, waves=[5], sites={"min_available": 2}).serial == [2, 1]
    left_out = made(targets, waves=[5], sites={"min_available": 1, "small": "leave_out"})
    assert sorted(left_out.hosts) == ["a", "b"]
    assert [each.host for each in left_out.held] == ["c"]


MAYBE = st.booleans()
HOSTS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4),
    st.tuples(
        st.sampled_from(["none", "hat-plus-2", None]),
        st.sampled_from([1024, 4096, 8192, None]),
        st.sampled_from(["s", "t", None]),
        MAYBE,
        MAYBE,
        MAYBE,
    ),
    min_size=1,
    max_size=40,
)


@given(HOSTS, st.sampled_from([[1], [2, 3], ["50%", "100%"], [1, "10%", "50%", "100%"]]), st.integers(0, 3))
def test_every_host_is_in_exactly_one_place_and_batches_are_what_a_site_can_spare(
    hosts: dict[str, tuple[object, ...]], waves: list[object], least: int
) -> None:
    targets = [
        msgspec.convert(
            {"name": name, "hat": hat, "memory_mb": memory, "site": site, "limited": limited}
            | ({"hold": "x"} if held else {})
            | ({"quarantine": "y"} if out else {}),
            Target,
        )
        for name, (hat, memory, site, held, out, limited) in hosts.items()
    ]
    plan = made(targets, CPU, HAT, waves=waves, sites={"min_available": least})
    left_out = [each.host for each in [*plan.held, *plan.quarantined, *plan.incompatible]]
    assert sorted([*plan.hosts, *left_out, *plan.outside_limit]) == sorted(hosts)
    assert set(plan.placements) == set(plan.hosts)
    assert [sum(sizes) for sizes in plan.batches] == [len(wave) for wave in plan.waves]
    order = iter(plan.hosts)
    for size in plan.serial:
        together = [next(order) for _ in range(size)]
        for site, budget in plan.sites.items():
            number = sum(plan.placements[host].site == site for host in together)
            assert number <= 1 or budget.hosts - number >= least


def test_plan_json_reads_back_as_it_was() -> None:
    targets = [Target(name=name, site="s", hat="none", labels={"ring": "early"}) for name in "abcd"]
    plan = made(targets, CPU, waves=[1, {"label": {"ring": "early"}}, "100%"], sites={"min_available": "50%"})
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_a_wave_that_everybody_has_left_takes_no_turn() -> None:
    """Ansible's ``serial`` has no 0."""
    plan = made([Target(name="a"), Target(name="b")], waves=[1])
    left = [plan.waves[1][0]]
    assert msgspec.structs.replace(plan, waves=[[], left], batches=[[], [1]]).serial == [1]
    assert msgspec.structs.replace(plan, waves=[[], left], batches=[]).serial == [1]


OLD = {
    "release": {
        "bundle": "assistant@1.0.0",
        "sha256": "5a" * 32,
        "size_bytes": 7,
        "probe": {"kind": "text", "messages": [{"role": "user", "content": "?"}], "expect": "x"},
        "tensor_types": {},
    },
    "policy": {"waves": [1, 2], "seed": None, "budgets": {"failures": 1, "unreachable": None}},
    "waves": [["pi-3"], ["pi-1", "pi-2"]],
    "held": [{"host": "pi-4", "reason": "fan on order"}],
    "outside_limit": [],
}


@pytest.mark.parametrize("without", [[], ["held", "outside_limit"]])
def test_a_plan_of_before_still_reads(without: list[str]) -> None:
    data = json.dumps({key: value for key, value in OLD.items() if key not in without})
    plan = msgspec.json.decode(data, type=Plan)
    assert (plan.hosts, plan.serial) == (["pi-3", "pi-1", "pi-2"], [1, 2])
    assert (plan.placements, plan.outages, plan.release.variants) == ({}, {}, [])
    assert plan.policy.waves == [1, 2]
