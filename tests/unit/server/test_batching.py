"""What runs together, decided with a clock that a test turns."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.server import batching
from hedgerow.server.backends import TensorSpec
from hedgerow.server.batching import Batching, Ticket, decide

FOUR = Batching(max_batch=4, max_delay_s=0.010)
NOW_OR_NEVER = Batching(max_batch=4)


def ticket(number: int, *, at: float = 0.0, key: object = "a", policy: Batching = FOUR, **more) -> Ticket:
    return Ticket(number, at, key=key, batching=policy, **more)


def ran(waiting: list[Ticket], now: float) -> list[int]:
    return [each.number for each in decide(waiting, now).run]


def test_nothing_waits() -> None:
    assert decide([], 0.0) == batching.Decision()


def test_a_full_batch_runs_at_once_and_the_rest_waits_for_the_next() -> None:
    waiting = [ticket(number) for number in range(6)]
    assert ran(waiting, 0.0) == [0, 1, 2, 3]
    assert decide(waiting[4:], 0.0) == batching.Decision(again_at=0.010)


def test_a_batch_that_is_not_full_runs_when_its_oldest_has_waited() -> None:
    waiting = [ticket(0, at=1.000), ticket(1, at=1.004)]
    assert decide(waiting, 1.009) == batching.Decision(again_at=1.010)
    assert ran(waiting, 1.010) == [0, 1]


def test_without_a_delay_what_waits_runs_together_at_once() -> None:
    assert ran([ticket(number, policy=NOW_OR_NEVER) for number in range(3)], 0.0) == [0, 1, 2]


def test_rows_count_and_not_requests() -> None:
    assert ran([ticket(0, rows=3), ticket(1, rows=2), ticket(2, rows=1)], 0.0) == [0]
    assert ran([ticket(0, rows=2), ticket(1, rows=2)], 0.0) == [0, 1]
    assert ran([ticket(0, rows=9)], 0.0) == [0]


def test_others_do_not_wait_for_a_batch_that_is_not_due() -> None:
    assert ran([ticket(0), ticket(1, key="b"), ticket(2, key=None)], 0.0) == [2]
    assert ran([ticket(0), *(ticket(number, key="b") for number in range(1, 5))], 0.0) == [1, 2, 3, 4]


def test_the_more_urgent_goes_first_and_takes_others_along() -> None:
    waiting = [ticket(0, key="b", at=0.0), ticket(1, at=0.0), ticket(2, at=0.0, priority=1)]
    assert ran(waiting, 1.0) == [2, 1]
    assert ran([ticket(0, key=None), ticket(1, key=None, priority=1)], 0.0) == [1]
    assert ran([ticket(0, key=None, priority=3), ticket(1, key=None)], 0.0) == [1]


def test_nobody_waits_for_others_beyond_half_of_his_time() -> None:
    """A deadline of 4 ms: at 2 ms it runs, so that half is left for computing."""
    waiting = [ticket(0, deadline=0.004)]
    assert decide(waiting, 0.0).again_at == pytest.approx(0.002)
    assert ran(waiting, 0.002) == [0]


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(1, 3), st.integers(1, 6), st.sampled_from(["a", "b", None])),
        min_size=1,
        max_size=12,
    )
)
def test_everybody_has_his_turn_and_no_batch_is_too_large(requests) -> None:
    """Decide until nothing waits: each runs once, in batches of one key, within the bound, and after no more than its
    delay once a thread is free."""
    waiting = [
        ticket(number, at=at, priority=priority, rows=rows, key=key)
        for number, (at, priority, rows, key) in enumerate(requests)
    ]
    now, done = 1.0, []
    while waiting:
        decision = decide(waiting, now)
        if not decision.run:
            assert decision.again_at is not None
            assert now < decision.again_at <= now + FOUR.max_delay_s
            now = decision.again_at
            continue
        assert len({each.key for each in decision.run}) == 1
        assert len(decision.run) == 1 or sum(each.rows for each in decision.run) <= FOUR.max_batch
        assert decision.run[0].key is not None or len(decision.run) == 1
        done += [each.number for each in decision.run]
        waiting = [each for each in waiting if each not in decision.run]
    assert sorted(done) == list(range(len(requests)))


def backend(*shapes: tuple[int, ...]) -> SimpleNamespace:
    specs = [TensorSpec(f"t{index}", "FP32", shape) for index, shape in enumerate(shapes)]
    return SimpleNamespace(inputs=tuple(specs[:-1]), outputs=tuple(specs[-1:]))


def array(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    "model, inputs",
    [
        (backend((1, 2), (-1, 2)), {"t0": array(1, 2)}),
        (backend((-1, 2), (1, 2)), {"t0": array(1, 2)}),
        (backend((), (-1,)), {"t0": array()}),
        (backend((-1, 2), (-1, 2)), {"t0": array(0, 2)}),
        (backend((-1, 2), (-1, 2), (-1, 2)), {"t0": array(1, 2), "t1": array(2, 2)}),
        (backend((-1, 2)), {}),
    ],
    ids=["fixed input", "fixed output", "scalar", "no rows", "rows differ", "no inputs"],
)
def test_what_runs_alone(model, inputs) -> None:
    assert batching.key_of(model, 1, inputs, []) == (None, 1)


def test_what_must_agree() -> None:
    model = backend((-1, -1), (-1, 2))
    base = batching.key_of(model, 1, {"t0": array(2, 3)}, [])
    assert base == batching.key_of(model, 1, {"t0": array(2, 3)}, [])
    assert base[1] == 2
    keys = [
        base,
        batching.key_of(model, 2, {"t0": array(2, 3)}, []),
        batching.key_of(model, 1, {"t0": array(2, 4)}, []),
        batching.key_of(model, 1, {"t0": array(2, 3)}, ["t1"]),
        batching.key_of(model, 1, {"t0": array(2, 3, dtype=np.int64)}, []),
    ]
    assert len({key for key, _ in keys}) == 5
    assert batching.key_of(model, 1, {"t0": array(5, 3)}, [])[0] == base[0]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_each_gets_his_own_rows_back(rows: list[int]) -> None:
    parts = [np.full((count, 2), index, np.float32) for index, count in enumerate(rows)]
    whole = batching.join([{"x": part} for part in parts])
    answers = batching.split({"y": whole["x"] + 1}, rows)
    assert answers is not None
    for answer, part in zip(answers, parts, strict=True):
        assert np.array_equal(answer["y"], part + 1)
        assert answer["y"].base is None


def test_an_output_that_is_not_of_the_batch_cannot_be_told_apart() -> None:
    assert batching.split({"y": array(3, 2), "mean": array(2)}, [1, 2]) is None
    assert batching.split({"y": array()}, [1]) is None
