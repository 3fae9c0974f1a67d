from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import UsageError
from hedgerow.rollout import plan as plans
from hedgerow.rollout.plan import Release, Target
from hedgerow.rollout.plan_text import describe
from hedgerow.rollout.policy import Policy

HOSTS = [f"pi-{number}" for number in range(7)]


def targets(*names: str) -> list[Target]:
    return [Target(name=name) for name in names]


def test_waves_have_the_policys_sizes_and_the_last_repeats(release: Release) -> None:
    plan = plans.make(targets(*HOSTS), Policy(waves=[1, 2]), release)
    assert plan.serial == [1, 2, 2, 2]
    assert sorted(plan.hosts) == sorted(HOSTS)


@pytest.mark.parametrize("hosts, serial", [(1, [1]), (2, [1, 1]), (3, [1, 1, 1]), (7, [1, 3, 3]), (40, [1, 3, 16, 20])])
def test_the_default_begins_with_one_and_a_small_fleet_goes_one_by_one(
    release: Release, hosts: int, serial: list[int]
) -> None:
    assert plans.make(targets(*map(str, range(hosts))), Policy(), release).serial == serial


def test_the_order_is_the_hosts_own(release: Release) -> None:
    order = plans.make(targets(*HOSTS), Policy(), release).hosts
    assert plans.make(targets(*reversed(HOSTS)), Policy(), release).hosts == order
    with_one_more = plans.make(targets(*HOSTS, "pi-late"), Policy(), release).hosts
    assert [host for host in with_one_more if host != "pi-late"] == order


def test_a_seed_changes_the_order(release: Release) -> None:
    orders = {tuple(plans.make(targets(*HOSTS), Policy(seed=str(seed)), release).hosts) for seed in range(20)}
    assert len(orders) > 15


def test_held_and_limited_hosts_are_left_out_and_listed(release: Release) -> None:
    everyone = [Target(name="a"), Target(name="b", hold="fan on order"), Target(name="c", limited=True)]
    plan = plans.make(everyone, Policy(), release)
    assert plan.hosts == ["a"]
    assert [(held.host, held.reason) for held in plan.held] == [("b", "fan on order")]
    assert plan.outside_limit == ["c"]
    text = "\n".join(describe(plan))
    assert "1 host(s) in 1 wave(s), 1 held, 1 outside --limit; 90.0 MB a host" in text
    assert "held: b (fan on order)" in text
    assert "more than 0 failed host(s) stop it; unreachable ones: no limit" in text


@given(
    st.lists(st.tuples(st.text("abc", min_size=1), st.booleans(), st.booleans()), unique_by=lambda row: row[0]),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_every_host_is_in_exactly_one_place(rows: list[tuple[str, bool, bool]], waves: list[int]) -> None:
    everyone = [Target(name=name, hold="why" if held else None, limited=out) for name, held, out in rows]
    release = Release(bundle="m@1.0.0", sha256="0" * 64, size_bytes=1, probe=None)  # type: ignore[arg-type]
    if not everyone:
        with pytest.raises(UsageError, match="has no host"):
            plans.make(everyone, Policy(waves=waves), release)
        return
    plan = plans.make(everyone, Policy(waves=waves), release)
    placed = plan.hosts + [held.host for held in plan.held] + plan.outside_limit
    assert sorted(placed) == sorted(name for name, _, _ in rows)
    assert all(plan.waves)


def test_one_host_twice_is_refused(release: Release) -> None:
    with pytest.raises(UsageError, match="stands twice"):
        plans.make(targets("a", "a"), Policy(), release)
