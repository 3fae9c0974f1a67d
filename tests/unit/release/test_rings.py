from __future__ import annotations

import itertools

import pytest

from hedgerow.errors import UsageError
from hedgerow.release import rings

LABELS = {
    "pi-1": {"ring": "main"},
    "pi-2": {"ring": "canary"},
    "pi-3": {"ring": "main", "hold": "on loan"},
    "pi-4": {},
    "pi-5": {"ring": "main"},
}


def test_rings_follow_the_order_and_a_batch_never_spans_two() -> None:
    plan = rings.plan(LABELS, ["canary", "main"], "2")
    assert plan.hosts == ("pi-2", "pi-1", "pi-4", "pi-5")
    assert plan.serial == (1, 2, 1)
    assert plan.held == {"pi-3": "on loan"}
    assert plan.rings == {"pi-2": "canary", "pi-1": "main", "pi-4": "main", "pi-5": "main"}


@pytest.mark.parametrize("count,size", list(itertools.product(range(9), ("1", "3", "100", "25%", "50%", "100%", "1%"))))
def test_batches_cover_everybody_once(count: int, size: str) -> None:
    found = rings.batches(count, size)
    assert sum(found) == count
    assert all(found)
    if size == "100%":
        assert found == ([count] if count else [])


@pytest.mark.parametrize("size", ["0", "0%", "many", "-1", "5.5"])
def test_a_batch_that_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(UsageError, match="is no batch"):
        rings.batches(3, size)


def test_an_unknown_ring_names_host_and_way_out() -> None:
    with pytest.raises(UsageError, match="pi-1 is in ring main") as caught:
        rings.plan(LABELS, ["canary", "late"], "1")
    assert "canary, late" in str(caught.value.next_step)


@pytest.mark.parametrize("order", [[], ["a", "a"]])
def test_an_order_that_is_none_is_refused(order: list[str]) -> None:
    with pytest.raises(UsageError, match="upgrade_rings"):
        rings.plan(LABELS, order, "1")


def test_the_gate_opens_batch_by_batch() -> None:
    plan = rings.plan(LABELS, ["canary", "main"], "2").as_dict()
    assert rings.gate(plan, [], "pi-2") == ""
    assert rings.gate(plan, [], "pi-1") == "ring canary did not pass (pi-2); ring main was not touched"
    assert rings.gate(plan, ["pi-2"], "pi-1") == ""
    assert rings.gate(plan, ["pi-2"], "pi-4") == "", "beside pi-1, in one batch"
    assert rings.gate(plan, ["pi-2", "pi-1"], "pi-5") == (
        "ring main did not pass (pi-4); its other hosts were not touched"
    )
    assert rings.gate(plan, ["pi-2", "pi-1", "pi-4"], "pi-5") == ""
