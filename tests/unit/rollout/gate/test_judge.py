from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.rollout.gate import judge
from hedgerow.rollout.gate.judge import Expectation, Look, Verdict
from hedgerow.rollout.policy import Soak

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
    found = judge.judge_look(seen, EXPECTED)
    assert (found.verdict, found.final) == (verdict, final)
    assert found.reason


def soak(*looks: Look, now: float = 5):
    return judge.soak(looks, EXPECTED, RULES, started=0, now=now)


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
    found = judge.soak(looks, EXPECTED, RULES, started=0, now=now)
    last = [judge.judge_look(each, EXPECTED).verdict for each in looks[-RULES.passes :]]
    if found.verdict is Verdict.PASS:
        assert found.final
        assert last == [Verdict.PASS] * RULES.passes
    if now >= RULES.deadline_s:
        assert found.final
