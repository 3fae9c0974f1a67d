from __future__ import annotations

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import UsageError
from hedgerow.rollout import policy
from hedgerow.rollout.policy import Budgets, Expectation, Look, Policy, Soak, Tally, Verdict

NEW = "assistant@1.1.0"
EXPECTED = Expectation(version=NEW, sha256="new", baseline=frozenset({"fan_slow"}))
RULES = Soak(passes=3, interval_s=1, deadline_s=10)


def look(at: float = 0, status: str | None = "ok", version: str | None = NEW, **more) -> Look:
    return Look(**{"at": at, "reached": True, "status": status, "version": version, "sha256": "new"} | more)


GONE = Look(at=0, reached=False, note="connection refused")
WORSE = look(status="degraded", reasons=frozenset({"fan_slow", "slow_answers"}))


@pytest.mark.parametrize(
    "seen, verdict, final",
    [
        (look(), Verdict.PASS, False),
        (look(status="degraded", reasons=frozenset({"fan_slow"})), Verdict.PASS, False),
        (WORSE, Verdict.FAIL, False),
        (look(status="degraded"), Verdict.FAIL, False),
        (look(status="failing", reasons=frozenset({"fan_slow"})), Verdict.FAIL, True),
        (look(version="assistant@1.0.0"), Verdict.FAIL, True),
        (look(sha256="another"), Verdict.FAIL, True),
        (look(status=None), Verdict.NO_DATA, False),
        (look(version=None), Verdict.NO_DATA, False),
        (GONE, Verdict.UNREACHABLE, False),
    ],
)
def test_one_look(*, seen: Look, verdict: Verdict, final: bool) -> None:
    found = policy.judge(seen, EXPECTED)
    assert (found.verdict, found.final) == (verdict, final)
    assert found.reason


def soak(*looks: Look, now: float = 5):
    return policy.soak(looks, EXPECTED, RULES, started=0, now=now)


def test_passes_must_be_in_a_row() -> None:
    assert not soak(look(), look()).final
    assert soak(look(), look(), look()).verdict is Verdict.PASS
    assert not soak(look(), look(), WORSE, look(), look()).final
    assert soak(look(), GONE, look(), look(), look()).final


def test_what_waiting_cannot_mend_ends_the_soak_at_once() -> None:
    for fatal in (look(version="assistant@1.0.0"), look(status="failing")):
        found = soak(look(), fatal)
        assert (found.verdict, found.final) == (Verdict.FAIL, True)


@pytest.mark.parametrize(
    "last, verdict",
    [
        (GONE, Verdict.UNREACHABLE),
        (look(status=None), Verdict.NO_DATA),
        (WORSE, Verdict.FAIL),
        (look(), Verdict.FAIL),  # a row that began too late does not stretch the deadline
    ],
)
def test_the_deadline_decides_with_the_last_look(last: Look, verdict: Verdict) -> None:
    assert not soak(look(), last, now=9.9).final
    found = soak(look(), last, now=10)
    assert (found.verdict, found.final) == (verdict, True)


def test_nothing_seen_is_no_data() -> None:
    assert soak(now=10).verdict is Verdict.NO_DATA
    assert soak(now=10).final


@given(
    st.lists(st.sampled_from([look(), GONE, WORSE, look(status=None), look(status="failing")]), max_size=12),
    st.floats(0, 20),
)
def test_a_pass_always_rests_on_enough_passing_looks(looks: list[Look], now: float) -> None:
    found = policy.soak(looks, EXPECTED, RULES, started=0, now=now)
    last = [policy.judge(each, EXPECTED).verdict for each in looks[-RULES.passes :]]
    if found.verdict is Verdict.PASS:
        assert found.final
        assert last == [Verdict.PASS] * RULES.passes
    if now >= RULES.deadline_s:
        assert found.final


@pytest.mark.parametrize(
    "tally, stops",
    [
        (Tally(), None),
        (Tally(unreachable=99), None),
        (Tally(failed=1), "1 host(s) failed and the rollout may cost 0"),
    ],
)
def test_careful_budgets(tally: Tally, stops: str | None) -> None:
    assert policy.spent(tally, Budgets()) == stops


def test_wider_budgets_hold_until_one_more() -> None:
    budgets = Budgets(failures=2, unreachable=1)
    assert policy.spent(Tally(failed=2, unreachable=1), budgets) is None
    assert "3 host(s) failed" in str(policy.spent(Tally(failed=3), budgets))
    assert "2 host(s) could not be reached" in str(policy.spent(Tally(unreachable=2), budgets))


def test_defaults_are_careful() -> None:
    assert policy.parse(None, where="x") == Policy()
    assert (Policy().waves, Policy().budgets.failures, Policy().soak.passes, Policy().confirm_within_s) == (
        [1],
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
