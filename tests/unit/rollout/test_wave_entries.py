from __future__ import annotations

from fractions import Fraction

import jsonschema
import pytest

from hedgerow.errors import UsageError
from hedgerow.rollout import policy
from hedgerow.rollout.policy import waves
from hedgerow.rollout.policy.waves import Labelled

EARLY = {"label": {"ring": "early"}}


@pytest.mark.parametrize(
    "given",
    [[1], [1, 2], ["100%"], [1, "10%", "50%", "100%"], [EARLY, 5], [1, EARLY, "0.5%", "12.5%", "100%"], [1, "50%", 3]],
)
def test_waves_that_reach_everybody(given: list[object]) -> None:
    parsed = policy.parse({"waves": given}, where="x")
    assert [waves.text(entry) for entry in parsed.waves]
    assert jsonschema.Draft202012Validator(policy.schema()).is_valid({"waves": given})


@pytest.mark.parametrize(
    "given, says",
    [
        ([1, "50%"], "waves ends with '50%'"),
        ([1, EARLY], "waves ends with 'ring: early'"),
        (["50%"], 'add "100%", or a count, which repeats'),
        (["100%", 1], 'nothing comes after "100%"'),
        ([1, "50%", "10%", "100%"], "entry 3 is '10%'; percentages count whoever came before and must rise"),
        (["0%", "100%"], "entry 1 is '0%'"),
        ([1, "110%", "100%"], "entry 2 is '110%'"),
        ([1, "10 %", "100%"], "$.waves[1]"),
        ([1, {"label": {}}, "100%"], "$.waves[1]"),
        ([1, {"lable": {"ring": "early"}}, "100%"], "$.waves[1]"),
        ([0], "`int` >= 1"),
        ([1.5], "$.waves[0]"),
    ],
)
def test_waves_that_leave_somebody_out_or_nobody_in(given: list[object], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        policy.parse({"waves": given}, where="x")
    assert says in caught.value.what


@pytest.mark.parametrize(
    "percent, hosts, reached", [("1%", 3, 1), ("10%", 10, 1), ("10%", 11, 2), ("33.3%", 1000, 333), ("100%", 7, 7)]
)
def test_shares_are_exact_and_rounded_up(percent: str, hosts: int, reached: int) -> None:
    assert waves.reach(percent, hosts) == reached
    assert waves.share("12.5%") == Fraction(1, 8)


def test_labels_must_all_be_there() -> None:
    entry = Labelled({"ring": "early", "floor": "2"})
    assert entry.has({"ring": "early", "floor": "2", "x": "y"})
    assert not entry.has({"ring": "early"})
    assert not entry.has({})


@pytest.mark.parametrize("key", ["cpu", "label:", "label:Ring", "Site"])
def test_hosts_are_told_apart_by_what_is_known_of_them(key: str) -> None:
    with pytest.raises(UsageError, match="stratify"):
        policy.parse({"stratify": [key]}, where="x")
