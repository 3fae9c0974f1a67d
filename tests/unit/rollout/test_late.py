"""Plans that are gone on with after hosts have come and gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.registry.manifest import GoldenText, Message
from hedgerow.rollout import late
from hedgerow.rollout import plan as plans
from hedgerow.rollout import policy as policies
from hedgerow.rollout.plan import Plan, Release, Target

HOSTS = [f"pi-{number:02d}" for number in range(12)]
PROBE = GoldenText(messages=(Message("user", "What is the capital of France?"),), expect="Paris")
RELEASE = Release(bundle="assistant@1.1.0", sha256="5a" * 32, size_bytes=1, probe=PROBE)


def made(*targets: Target, waves: list[object] | None = None, **policy: object) -> Plan:
    fields = {"waves": waves or [1, 3, "100%"], **policy}
    return plans.make(targets, policies.parse(fields, where="test"), RELEASE)


def of(*names: str, **fields: object) -> list[Target]:
    return [Target(name=name, **fields) for name in names]  # type: ignore[arg-type]


@pytest.fixture
def old() -> Plan:
    return made(*of(*HOSTS))


def test_nothing_changes_while_the_hosts_are_the_same(old: Plan) -> None:
    assert late.extend(old, made(*of(*HOSTS))) == old


def test_who_comes_late_is_in_the_last_wave_and_nobody_else_moves(old: Plan) -> None:
    # With 40 hosts the seed would put others first, and a fresh plan's waves would be others.
    fresh = made(*of(*HOSTS, *[f"new-{number}" for number in range(28)]))
    longer = late.extend(old, fresh)
    assert longer.waves[:-1] == old.waves[:-1]
    assert longer.waves[-1][: len(old.waves[-1])] == old.waves[-1]
    assert sorted(longer.late) == sorted(host for host in fresh.hosts if host.startswith("new-"))
    assert sorted(longer.hosts) == sorted(fresh.hosts)
    assert longer.entries == old.entries


def test_late_ones_do_not_come_in_greater_numbers_than_the_last_wave_allows() -> None:
    before = made(*of(*HOSTS[:4]), waves=[1, 2])
    longer = late.extend(before, made(*of(*HOSTS), waves=[1, 2]))
    assert [len(wave) for wave in longer.waves] == [1, 2, 9]
    assert longer.serial == [1, 2, 2, 2, 2, 2, 1]


def test_sites_keep_their_budget_when_late_ones_join(old: Plan) -> None:
    before = made(*of("a-1", "a-2", site="a"), waves=[1, "100%"])
    longer = late.extend(before, made(*of("a-1", "a-2", "a-3", "a-4", site="a"), waves=[1, "100%"]))
    assert [len(wave) for wave in longer.waves] == [1, 3]
    assert longer.sites["a"].at_once == 3
    assert longer.serial == [1, 3]


def test_who_has_left_is_marked_and_its_wave_keeps_its_number(old: Plan) -> None:
    canary = old.waves[0][0]
    rest = [host for host in HOSTS if host != canary]
    shorter = late.extend(old, made(*of(*rest)))
    assert shorter.waves == [[], *old.waves[1:]]
    assert (shorter.gone, shorter.late) == ([canary], [])
    # It is back: nobody was in its wave, which had its turn without it.
    back = late.extend(shorter, made(*of(*HOSTS)))
    assert (back.gone, back.late) == ([], [canary])


def test_who_is_held_now_has_not_left(old: Plan) -> None:
    held, *rest = HOSTS
    narrower = late.extend(old, made(*of(*rest), Target(name=held, hold="fan on order")))
    assert held not in narrower.hosts
    assert ([each.host for each in narrower.held], narrower.gone) == ([held], [])


def test_a_limit_that_is_widened_brings_waves_of_its_own() -> None:
    inside, outside = HOSTS[:3], HOSTS[3:]
    narrow = made(*of(*inside), *of(*outside, limited=True), waves=[1, "100%"])
    wide = late.extend(narrow, made(*of(*HOSTS, "new"), waves=[1, 4, "100%"]))
    assert wide.waves[:2] == narrow.waves
    added = wide.waves[2:]
    assert len(added) >= 2
    assert sorted(host for wave in added for host in wave) == sorted([*outside, "new"])
    assert (wide.late, wide.waves[-1][-1]) == (["new"], "new")
    assert len(wide.entries) == len(wide.waves)


def test_a_plan_of_an_older_controller_is_gone_on_with(old: Plan) -> None:
    bare = Plan(release=old.release, policy=old.policy, waves=old.waves)
    longer = late.extend(bare, made(*of(*HOSTS, "new")))
    assert longer.waves[:-1] == old.waves[:-1]
    assert (longer.late, longer.entries) == (["new"], [])


_names = st.sets(st.sampled_from([*HOSTS, "x", "y", "z"]), min_size=1)


@given(_names, _names, _names, st.sampled_from([[1], [1, "50%", "100%"], [2, 3]]))
def test_everybody_is_planned_once_and_nobody_changes_waves(
    first: set[str], second: set[str], inside: set[str], waves: list[object]
) -> None:
    def plan(names: set[str], limit: set[str] | None = None) -> Plan:
        targets = [Target(name=name, limited=limit is not None and name not in limit) for name in sorted(names)]
        return made(*targets, waves=waves)

    before, fresh = plan(first, inside), plan(second)
    after = late.extend(before, fresh)
    assert sorted(after.hosts) == sorted(second)
    for wave, was in zip(after.waves, before.waves, strict=False):
        assert set(was) & second <= set(wave)
    assert set(after.gone) == set(before.hosts) - second
    assert sum(after.serial) == len(after.hosts)
