"""What is chosen for each segment, and why. No disk, no line."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.device.store.planner import Costs, Known, Patches, Place, fetched_at_most, plan
from hedgerow.registry.transfer.recipe import Block, File, Pack, PatchIndex, Recipe, Segment

SIZE = 1000
OLD = "assistant@1.0.0"


def sha(number: int) -> str:
    return hashlib.sha256(bytes([number])).hexdigest()


PACK, PATCH_PACK = Pack(sha(200), 1 << 20), Pack(sha(201), 1 << 20)


def recipe_of(*chunks: int, length: int = 900) -> Recipe:
    segments = tuple(Segment(sha(number), SIZE, 0, 1000 * at, length) for at, number in enumerate(chunks))
    return Recipe(1, "assistant", "1.1.0", (PACK,), (File("model", sha(99), SIZE * len(chunks), segments),))


def here(number: int, *, offset: int = 0) -> Place:
    return Place(OLD, "model", offset, SIZE, sha(number))


def patches(*lengths: int, old_size: int = SIZE) -> Patches:
    blocks = tuple(
        Block(0, at, 0, at * SIZE, old_size, sha(100 + at), "add1", 0, 2000 * at, length)
        for at, length in enumerate(lengths)
    )
    return Patches(OLD, PatchIndex(1, "1.0.0", (PATCH_PACK,), ("model",), blocks))


def ways(recipe, known, costs=None):
    return [(step.how, step.reason) for step in plan(recipe, known, costs or Costs()).steps]


def test_everything_is_fetched_where_nothing_is_here():
    made = plan(recipe_of(1, 2), Known({}), Costs())
    assert [step.how for step in made.steps] == ["chunk", "chunk"]
    assert (made.fetched, made.read, made.written) == (1800, 0, 2000)


def test_what_is_here_is_copied():
    made = plan(recipe_of(1, 2), Known({sha(2): [here(2)]}), Costs())
    assert [step.how for step in made.steps] == ["chunk", "here"]
    assert made.steps[1].place == here(2)
    assert (made.fetched, made.read) == (900, 1000)
    assert made.sources() == {OLD}


def test_a_chunk_that_stands_twice_comes_once():
    assert ways(recipe_of(1, 1), Known({})) == [
        ("chunk", "nothing like it here"),
        ("same", "twice in this version"),
    ]
    assert ways(recipe_of(1, 1), Known({}, done={(0, 1)})) == [
        ("same", "twice in this version"),
        ("done", "placed before"),
    ]


def test_what_an_earlier_attempt_has_placed_costs_nothing():
    made = plan(recipe_of(1), Known({}, done={(0, 0)}), Costs())
    assert (made.fetched, made.read, made.written, made.missing) == (0, 0, 0, ())


@pytest.mark.parametrize(
    "length, way",
    [(100, ("patch", "cheaper than its chunk")), (899, ("chunk", "patch saves too little"))],
    ids=["small patch", "patch as large as the chunk"],
)
def test_a_patch_is_taken_where_it_is_cheaper_with_all_it_reads(length, way):
    assert ways(recipe_of(1), Known({}, (patches(length),))) == [way]


def test_a_copy_beats_a_patch():
    assert ways(recipe_of(1), Known({sha(1): [here(1)]}, (patches(1),))) == [("here", "on this device")]


def test_of_two_patches_the_cheaper_one():
    made = plan(recipe_of(1), Known({}, (patches(300), patches(200))), Costs())
    assert made.fetched == 200


def test_memory_forbids_a_patch_of_large_blocks():
    known = Known({}, (patches(100, old_size=8 << 20),))
    assert ways(recipe_of(1), known, Costs(memory=32 << 20)) == [("chunk", "patch needs too much memory")]
    assert ways(recipe_of(1), known, Costs(memory=64 << 20, read=0)) == [("patch", "cheaper than its chunk")]


def test_reading_has_a_price():
    assert ways(recipe_of(1), Known({sha(1): [here(1)]}), Costs(read=1.0)) == [("chunk", "nothing like it here")]


def test_what_turned_out_wrong_is_not_tried_again():
    bad, good = here(1), here(1, offset=5000)
    chunks = {sha(1): [bad, good]}
    assert plan(recipe_of(1), Known(chunks, bad={bad}), Costs()).steps[0].place == good
    assert ways(recipe_of(1), Known(chunks, bad={bad, good})) == [("chunk", "copy failed here")]
    known = Known({}, (patches(100),), failed={(0, 0)})
    assert ways(recipe_of(1), known) == [("chunk", "patch failed here")]


def test_a_patch_index_that_names_what_is_not_there_is_passed_over():
    assert ways(recipe_of(1), Known({}, (patches(100, 100, 100),))) == [("patch", "cheaper than its chunk")]


def test_what_patches_can_save_at_most():
    assert fetched_at_most(recipe_of(1, 1, 2, 3), Known({sha(2): [here(2)]}, done={(0, 3)})) == 900


@given(
    chunks=st.lists(st.integers(0, 8), min_size=1, max_size=12),
    held=st.sets(st.integers(0, 8)),
    done=st.sets(st.integers(0, 11)),
    lengths=st.lists(st.integers(1, 900), max_size=12),
    prices=st.tuples(st.floats(0, 2), st.floats(0, 2)),
)
def test_every_segment_comes_once_and_never_for_more_than_its_chunk(chunks, held, done, lengths, prices):
    recipe = recipe_of(*chunks)
    done = {(0, at) for at in done if at < len(chunks)}
    known = Known({sha(number): [here(number)] for number in held}, (patches(*lengths),), done)
    costs = Costs(*prices)
    made = plan(recipe, known, costs)
    assert [(step.file, step.segment) for step in made.steps] == [(0, at) for at in range(len(chunks))]
    assert sum(made.bytes_by().values()) == SIZE * len(chunks)
    brought: set[str] = set()
    for step in made.steps:
        assert step.offset == SIZE * step.segment
        assert (step.how == "done") == ((0, step.segment) in done)
        if step.how in {"here", "patch", "chunk"}:
            assert step.sha256 not in brought, "a chunk came twice"
            brought.add(step.sha256)
            assert costs.price(step) <= 900 + costs.written * SIZE
        assert (step.frame is not None) == (step.how in {"patch", "chunk"})
        assert step.written == (0 if step.how == "done" else SIZE)
    assert brought | {sha(chunks[at]) for _, at in done} == {sha(number) for number in chunks}
