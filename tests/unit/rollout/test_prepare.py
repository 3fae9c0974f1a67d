from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hedgerow.errors import RefusedError, UsageError
from hedgerow.rollout import prepare
from hedgerow.rollout.plan import Target

FLEET, NEW = "meadow-unit", "assistant@1.1.0"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_a_host_as_the_inventory_has_it() -> None:
    labels = {"board": "1.1", "memory_mb": "4096", "ring": "early", "hold": "fan on order"}
    variables = {"site": "orchard", "hat": "none", "cooling": "passive", "storage": "sd", "labels": labels}
    assert prepare.target("pi-1", variables, limited=True) == Target(
        name="pi-1",
        site="orchard",
        hat="none",
        cooling="passive",
        storage="sd",
        board="1.1",
        memory_mb=4096,
        labels=labels,
        hold="fan on order",
        limited=True,
    )


def test_what_nobody_says_is_unknown() -> None:
    assert prepare.target("pi-1", {"labels": None}, limited=False) == Target(name="pi-1")
    assert prepare.target("pi-1", {}, limited=False).stratum(["board", "memory", "hat", "label:x"]) == ("?",) * 4


def test_the_label_counts_before_the_emulated_boards_memory() -> None:
    assert prepare.target("pi-1", {"board_memory_mb": 2048}, limited=False).memory_mb == 2048
    both = {"board_memory_mb": 2048, "labels": {"memory_mb": "8192"}}
    assert prepare.target("pi-1", both, limited=False).memory_mb == 8192


@pytest.mark.parametrize("memory", ["8 GB", "", "-1", "8.5"])
def test_memory_that_is_no_number_is_refused(memory: str) -> None:
    with pytest.raises(UsageError, match=r"label memory_mb of pi-1") as caught:
        prepare.target("pi-1", {"labels": {"memory_mb": memory}}, limited=False)
    assert caught.value.next_step == 'write megabytes: memory_mb: "8192"'


def test_a_bundle_is_its_own_variant(published: str) -> None:
    plan = prepare.plan(FLEET, bundle=NEW, policy=None, targets=[Target(name="a")], now=NOW)
    assert [(each.name, each.sha256, each.requires.memory_mb) for each in plan.release.variants] == [
        ("default", published, 1)
    ]
    assert plan.placements["a"].variant == "default"


def test_a_bundle_that_fits_nobody_is_refused(published: str) -> None:
    small = [Target(name=name, memory_mb=0) for name in ("a", "b")]
    with pytest.raises(RefusedError, match=r"rule compatible: assistant@1\.1\.0 fits no host: needs 1 MB") as caught:
        prepare.plan(FLEET, bundle=NEW, policy=None, targets=small, now=NOW)
    assert caught.value.where == "a, and 1 more"
    rest = prepare.plan(FLEET, bundle=NEW, policy=None, targets=[*small, Target(name="c")], now=NOW)
    assert (rest.hosts, len(rest.incompatible)) == (["c"], 2)
