from __future__ import annotations

import msgspec
import pytest

from hedgerow.registry.manifest import Requires
from hedgerow.rollout import plan as plans
from hedgerow.rollout import plan_tables, policy
from hedgerow.rollout.plan import Plan, Release, Target
from hedgerow.rollout.plan_text import NAMED, describe, headline
from hedgerow.rollout.variants import Variant


def made(release: Release, targets: list[Target], **rules: object) -> Plan:
    return plans.make(targets, policy.parse(rules, where="test"), release)


def text(plan: Plan) -> str:
    return "\n".join(describe(plan))


@pytest.fixture
def fleet() -> list[Target]:
    """Eight hosts of two sites: five and three; two are cooled passively, one of each site."""
    passive = {"copse-3", "glade-2"}
    names = [*(f"copse-{number}" for number in range(1, 6)), *(f"glade-{number}" for number in range(1, 4))]
    return [
        Target(
            name=name,
            site=name.partition("-")[0],
            cooling="passive" if name in passive else "active",
            labels={"ring": "early"} if name == "copse-5" else {},
        )
        for name in names
    ]


@pytest.fixture
def needy(release: Release) -> Release:
    """A release that needs 5000 MB."""
    variant = Variant(name="default", requires=Requires(memory_mb=5000), sha256="a" * 64, size_bytes=90_000_000)
    return msgspec.structs.replace(release, variants=[variant])


def test_a_wave_says_its_count_its_share_and_what_it_spans(release: Release, fleet: list[Target]) -> None:
    lines = describe(made(release, fleet, waves=[2, "50%", "100%"], stratify=["cooling"], seed="s"))
    assert lines[0] == f"{release.bundle}: 8 host(s) in 3 wave(s), 0 held, 0 outside --limit; 90.0 MB a host"
    assert lines[1].startswith("  wave 1 [2 more]: 2 host(s), then 2 of 8 (25 %) have it, 2 of 2 strata, ")
    assert "wave 2 [50%]: 2 host(s), then 4 of 8 (50 %) have it" in lines[2]
    assert "wave 3 [100%]: 4 host(s), then 8 of 8 (100 %) have it" in lines[3]
    assert all(sum(target.name in line for line in lines[1:4]) == 1 for target in fleet)


def test_a_wave_in_batches_says_so(release: Release, fleet: list[Target]) -> None:
    plan = made(release, fleet, waves=[8])
    assert plan.serial == [6, 2]
    assert "2 of 2 sites, batches: 6 + 2: " in text(plan)
    assert "sites: 2; each keeps 1 host(s) that are not in their turn" in text(plan)


def test_a_share_of_sites_stands_beside_its_counts(release: Release, fleet: list[Target]) -> None:
    said = text(made(release, fleet, sites={"min_available": "50%"}))
    assert "sites: 2; each keeps 2 to 3 host(s) (50%) that are not in their turn" in said


def test_sites_that_are_too_small_are_said(release: Release, fleet: list[Target]) -> None:
    said = text(made(release, fleet, sites={"min_available": 3}))
    assert "too small for that: 1 site(s) of 3 host(s), one after the other, which leaves 2 available: glade" in said
    left_out = text(made(release, fleet, sites={"min_available": 3, "small": "leave_out"}))
    assert "5 host(s) in" in left_out
    assert "held: glade-1 (site glade has 3 host(s), and 3 are to be available" in left_out


def test_a_label_that_nobody_has_is_said(release: Release, fleet: list[Target]) -> None:
    misspelt = text(made(release, fleet, waves=[1, {"label": {"ring": "erly"}}, "100%"]))
    assert "no wave [ring: erly]: no planned host has this label" in misspelt
    assert "no wave" not in text(made(release, fleet, waves=[1, {"label": {"ring": "early"}}, "100%"], seed="t"))


def test_a_percentage_that_adds_nobody_is_said_and_a_count_that_repeats_is_not(
    release: Release, fleet: list[Target]
) -> None:
    assert "no wave [10%]: that is 1 host(s), and as many have had their turn by then" in text(made(release, fleet))
    assert "no wave" not in text(made(release, fleet, waves=[1, 2]))


def test_approvals_are_said_also_those_that_nobody_will_be_asked_for(release: Release, fleet: list[Target]) -> None:
    asked = [{"before_wave": 2, "by": ["ada", "bo"], "count": 2}, {"before_wave": 4, "by": ["ada"]}]
    said = text(made(release, fleet, waves=[1, "50%", "100%"], approvals=asked))
    assert "wave 2 waits for 2 approval(s) of: ada, bo" in said
    assert "nobody is asked for 1 approval(s) of: ada: it is for wave 4, and there are 3" in said


def test_a_large_fleet_stays_short(release: Release) -> None:
    many = [Target(name=f"pi-{number:04}", hold="x" if number % 9 == 0 else None) for number in range(5000)]
    lines = describe(made(release, many))
    assert len(lines) < 20
    assert max(map(len, lines)) < 250
    assert any("held: 556 host(s) (x): pi-0000, pi-0009" in line for line in lines)
    assert "wave 1 [1 more]: 1 host(s), then 1 of 4444 (0.0225 %) have it" in lines[1]
    one_by_one = describe(made(release, many, waves=[1]))
    assert len(one_by_one) < 50
    assert "  waves 30 to 4443: 4414 host(s)" in one_by_one
    assert any(line.startswith("  wave 4444 ") for line in one_by_one)


def test_outages_and_what_is_not_known_are_said(needy: Release) -> None:
    targets = [
        Target(name="fits", memory_mb=16384, serves_mb=5000),
        Target(name="tight", memory_mb=8192, serves_mb=5000),
        Target(name="small", memory_mb=4096, serves_mb=900),
        Target(name="fresh", memory_mb=8192),
        Target(name="mystery"),
    ]
    plan = made(needy, targets)
    said = text(plan)
    assert "declared outage of up to about 11 s on 1 host(s), whose memory does not hold both versions: tight" in said
    assert "memory for both versions: unknown on 1 host(s), for nobody said what the host serves now" in said
    assert "memory for both versions: unknown on 1 host(s), for nobody said the board's memory" in said
    assert "incompatible: small (needs 5000 MB of memory, the board has 4096)" in said
    assert "4 host(s) in 3 wave(s), 0 held, 0 outside --limit, 1 incompatible" in headline(plan)


def test_a_plan_of_an_older_controller_has_its_lines(release: Release) -> None:
    old = Plan(release=release, policy=policy.parse({"waves": [1]}, where="x"), waves=[["a"], ["b"]])
    lines = describe(old)
    assert lines[1:3] == [
        "  wave 1: 1 host(s), then 1 of 2 (50 %) have it: a",
        "  wave 2: 1 host(s), then 2 of 2 (100 %) have it: b",
    ]
    assert [row[2] for row in plan_tables.wave_rows(old)] == [1, 1]
    assert plan_tables.strata_rows(old) == []


def test_tables_add_up(release: Release, fleet: list[Target]) -> None:
    plan = made(release, fleet, waves=[2, "50%", "100%"], stratify=["cooling", "storage"])
    waves, strata = plan_tables.wave_rows(plan), plan_tables.strata_rows(plan)
    assert len(plan_tables.WAVE_COLUMNS) == len(waves[0])
    assert plan_tables.strata_columns(plan) == ["stratum", "hosts", "wave 1", "wave 2", "wave 3"]
    assert [row[:3] for row in strata] == [("cooling active", 6, 1), ("cooling passive", 2, 1)]
    assert [sum(int(str(row[number + 2])) for row in strata) for number in range(3)] == [2, 2, 4]
    assert waves[0][6] is not None
    assert str(waves[2][6]).startswith("copse ")


def test_tables_of_many_waves_and_strata_are_cut_and_still_add_up(release: Release) -> None:
    many = [Target(name=f"pi-{number}", site=f"site-{number % 70}") for number in range(200)]
    plan = made(release, many, waves=[1])
    waves, strata = plan_tables.wave_rows(plan), plan_tables.strata_rows(plan)
    assert len(waves) == plan_tables.MOST_WAVES + 1
    assert sum(int(str(row[2])) for row in waves) == 200
    assert plan_tables.strata_columns(plan)[-1] == "later"
    assert strata[-1][0] == "30 more"
    assert sum(int(str(row[1])) for row in strata) == 200
    assert {len(row) for row in strata} == {len(plan_tables.strata_columns(plan))}
    assert len(str(waves[0][7])) < 10 * NAMED
