from __future__ import annotations

import jsonschema
import pytest

from hedgerow.errors import UsageError
from hedgerow.rollout import policy
from hedgerow.rollout.policy import Budgets, Policy
from hedgerow.rollout.policy.budgets import Tally, spent


@pytest.mark.parametrize(
    "tally, stops",
    [
        (Tally(), None),
        (Tally(unreachable=99), None),
        (Tally(failed=1), "1 host(s) failed and the rollout may cost 0"),
    ],
)
def test_careful_budgets(tally: Tally, stops: str | None) -> None:
    assert spent(tally, Budgets()) == stops


def test_wider_budgets_hold_until_one_more() -> None:
    budgets = Budgets(failures=2, unreachable=1)
    assert spent(Tally(failed=2, unreachable=1), budgets) is None
    assert "3 host(s) failed" in str(spent(Tally(failed=3), budgets))
    assert "2 host(s) could not be reached" in str(spent(Tally(unreachable=2), budgets))


def test_defaults_are_careful() -> None:
    assert policy.parse(None, where="x") == Policy()
    assert (Policy().waves, Policy().budgets.failures, Policy().soak.passes, Policy().confirm_within_s) == (
        [1, "10%", "50%", "100%"],
        0,
        3,
        600,
    )


@pytest.mark.parametrize(
    "value, says",
    [
        ({"wave": [1]}, "unknown field `wave`"),
        ({"waves": []}, "length >= 1"),
        ({"waves": [0]}, "`int` >= 1"),
        ({"soak": {"passes": 0}}, "$.soak.passes"),
        ({"budgets": {"failures": -1}}, "$.budgets.failures"),
        ({"soak": {"deadline_s": 700}}, "would go back while it is still being judged"),
        ({"soak": {"passes": 200}}, "200 passes every 1 s take 200"),
        ("no mapping", "Expected `object`"),
    ],
)
def test_a_wrong_policy_says_what_is_wrong(value: object, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        policy.parse(value, where="group_vars/all/rollout.yml")
    assert says in caught.value.what
    assert caught.value.where == "group_vars/all/rollout.yml"


def test_the_schema_agrees_with_the_parser() -> None:
    validator = jsonschema.Draft202012Validator(policy.schema())
    assert validator.is_valid({"waves": [1, 2], "soak": {"passes": 5}, "budgets": {"unreachable": None}})
    assert not validator.is_valid({"wave": [1]})
    assert not validator.is_valid({"waves": [0]})
