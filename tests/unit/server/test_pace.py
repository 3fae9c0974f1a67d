"""When a model counts as so quick that the event loop may run it itself."""

from __future__ import annotations

import numpy as np

from hedgerow.server.pace import LATE_NS, MOST, PROOF, QUICK_NS, Pace, size_of

SIZE = 32


def proven() -> Pace:
    pace = Pace()
    for _ in range(PROOF):
        pace.ran(SIZE, QUICK_NS)
    return pace


def runs_until_quick(pace: Pace) -> int:
    count = 0
    while not pace.quick(SIZE):
        pace.ran(SIZE, QUICK_NS)
        count += 1
    return count


def test_it_takes_quick_runs_in_a_row() -> None:
    pace = Pace()
    assert runs_until_quick(pace) == PROOF
    pace = Pace()
    for _ in range(PROOF - 1):
        pace.ran(SIZE, QUICK_NS)
    pace.ran(SIZE, QUICK_NS + 1)
    assert runs_until_quick(pace) == PROOF


def test_larger_inputs_have_to_be_proven_themselves() -> None:
    pace = proven()
    assert not pace.quick(SIZE + 1)
    pace.ran(SIZE + 1, LATE_NS + 1)  # on a thread; says nothing of smaller ones
    assert pace.quick(SIZE)
    pace.ran(2 * SIZE, QUICK_NS)
    assert not pace.quick(SIZE)
    for _ in range(PROOF - 1):
        pace.ran(SIZE, QUICK_NS)
    assert pace.quick(2 * SIZE)


def test_one_that_held_the_loop_up_has_twice_as_much_to_prove_each_time() -> None:
    pace = proven()
    pace.ran(SIZE, LATE_NS)
    assert pace.quick(SIZE)
    for times in (2, 4):
        pace.ran(SIZE, LATE_NS + 1)
        assert runs_until_quick(pace) == times * PROOF


def test_a_late_run_long_after_the_last_counts_as_the_first() -> None:
    pace = proven()
    for _ in range(12):
        pace.ran(SIZE, LATE_NS + 1)
        wanted = runs_until_quick(pace)
    assert wanted == MOST
    for since, expected in ((MOST - 1, MOST), (MOST, PROOF)):
        for _ in range(since):
            pace.ran(SIZE, LATE_NS)
        assert pace.quick(SIZE)
        pace.ran(SIZE, LATE_NS + 1)
        assert runs_until_quick(pace) == expected


def test_a_model_that_is_never_quick_never_comes_to_it() -> None:
    pace = Pace()
    for _ in range(10 * PROOF):
        pace.ran(SIZE, QUICK_NS + 1)
    assert not pace.quick(0)


def test_texts_do_not_tell_their_size() -> None:
    assert size_of({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.int8)}) == 28
    assert size_of({"a": np.zeros(2, np.float32), "b": np.array([b"long"], np.object_)}) is None
