from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.rollout.gate.pace import SHORTEST_PAUSE_S, order, pause_s
from hedgerow.rollout.policy.gate import Probes


@pytest.mark.parametrize(
    "took_s, shortest_soak_s, pause",
    [
        (0.001, 3.0, 0.099),  # thirty questions in three seconds
        (2.0, 3.0, 2.0),  # as long a rest as an answer took
        (0.0, 0.0, SHORTEST_PAUSE_S),
        (0.01, 7200.0, 4.99),  # one in five seconds at least, however long the soak
        (0.5, None, 0.5),  # before the activation: as quick as the share allows
    ],
)
def test_pauses(took_s: float, shortest_soak_s: float | None, pause: float) -> None:
    rules = Probes(count=30, share=0.5, slowest_s=5)
    assert pause_s(rules, took_s, shortest_soak_s=shortest_soak_s) == pytest.approx(pause)


@given(st.floats(0.001, 100), st.floats(0, 1e5), st.floats(0.01, 1))
def test_a_host_is_never_kept_busier_than_the_policy_allows(took_s: float, soak_s: float, share: float) -> None:
    rules = Probes(share=share)
    pause = pause_s(rules, took_s, shortest_soak_s=soak_s)
    assert took_s / (took_s + pause) <= share + 1e-9


def test_questions_come_in_turn() -> None:
    assert list(islice(order(3), 7)) == [0, 1, 2, 0, 1, 2, 0]
    assert list(islice(order(3, [0, 1, 2, 0]), 4)) == [0, 1, 2, 0]


def test_what_was_asked_before_comes_every_other_time_and_nothing_is_left_out() -> None:
    assert list(islice(order(5, [0, 1]), 8)) == [0, 2, 1, 3, 0, 4, 1, 2]
    assert set(islice(order(50, [7, 99]), 100)) == set(range(50))
