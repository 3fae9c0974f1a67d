from __future__ import annotations

import hashlib
import io
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.errors import PublisherError
from hedgerow.registry.transfer import chunking
from hedgerow.registry.transfer.chunking import AVERAGE_BYTES, BLOCK_BYTES, GLUE_BYTES, MAX_BYTES, MIN_BYTES
from hedgerow.registry.transfer.recipe import Tensor

MIB = 1 << 20
NOISE = random.Random(7).randbytes(4 * MIB)
TEXT = b"".join(b'"word%d": %d,\n' % (number * 7919 % 100_003, number) for number in range(120_000))


def cut(data: bytes, tensors: tuple[Tensor, ...] = ()) -> list[chunking.Chunk]:
    return list(chunking.cut(io.BytesIO(data), len(data), tensors))


def pieces(data: bytes) -> list[bytes]:
    return [chunk.data for chunk in cut(data)]


@st.composite
def layouts(draw) -> tuple[int, tuple[Tensor, ...]]:
    """Tensors with gaps of every kind, and the size of their file."""
    gaps = st.sampled_from([0, 1, 100, GLUE_BYTES - 1, GLUE_BYTES, 5000, 300_000])
    end, tensors = draw(gaps), []
    for number in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(["float32", "int8", "float64", "q8_0", "bytes"]))
        size = draw(st.sampled_from([4096, 34 * 1000, MIB - 4, MIB, MIB + 4, MIB + 2048]))
        tensors.append(Tensor(f"w{number}", dtype, end, size))
        end += size + draw(gaps)
    return end, tuple(tensors)


@settings(max_examples=12)
@given(layouts())
def test_chunks_joined_are_the_file_and_begin_where_tensors_do(layout):
    size, tensors = layout
    data = (NOISE * 3)[:size]
    chunks = cut(data, tensors)
    assert b"".join(chunk.data for chunk in chunks) == data
    starts = [chunk.offset for chunk in chunks]
    assert starts == [sum(len(chunk.data) for chunk in chunks[:place]) for place in range(len(chunks))]
    assert {tensor.offset for tensor in tensors} <= set(starts)
    assert all(0 < len(chunk.data) < BLOCK_BYTES + 2 * GLUE_BYTES for chunk in chunks)
    assert all(chunk.sha256 == hashlib.sha256(chunk.data).hexdigest() for chunk in chunks)


def test_blocks_hold_whole_elements():
    tensor = Tensor("w", "q8_0", 10, 34 * 80_000)
    sizes = [len(chunk.data) for chunk in cut((NOISE * 2)[: tensor.offset + tensor.size], (tensor,))]
    assert sizes[0] == 10
    assert sizes[1] == MIB // 34 * 34
    assert all(size % 34 == 0 for size in sizes[1:])


def test_what_is_before_a_tensor_does_not_move_its_chunks():
    body = NOISE[: 2 * MIB + 100]
    before = cut(b"head" + body, (Tensor("w", "float32", 4, len(body)),))
    after = cut(b"a longer head" + body, (Tensor("w", "float32", 13, len(body)),))
    assert [chunk.sha256 for chunk in before[1:]] == [chunk.sha256 for chunk in after[1:]]


@pytest.mark.parametrize("data", [NOISE, TEXT, TEXT[:100], bytes(MIB), b"\x5b" * MIB, b"ab" * MIB], ids=lambda d: d[:4])
def test_sizes_by_content(data):
    sizes = [len(piece) for piece in pieces(data)]
    assert sum(sizes) == len(data)
    assert all(MIN_BYTES <= size <= MAX_BYTES for size in sizes[:-1])


@pytest.mark.parametrize("data", [NOISE, TEXT], ids=["noise", "text"])
def test_chunks_gather_around_the_average(data):
    assert AVERAGE_BYTES / 2 < len(data) / len(pieces(data)) < AVERAGE_BYTES * 2


def test_runs_of_one_value_are_no_border():
    assert [chunking.candidates(np.full(200_000, value, np.uint8))[0] for value in range(256)] == [[]] * 256


@settings(max_examples=15)
@given(st.integers(0, 1_500_000), st.binary(min_size=1, max_size=50), st.sampled_from([NOISE, TEXT]))
def test_an_insertion_moves_the_borders_near_it_alone(place, inserted, source):
    data = source[: 3 * MIB // 2]
    place = min(place, len(data))
    before, after = set(pieces(data)), pieces(data[:place] + inserted + data[place:])
    fresh = [piece for piece in after if piece not in before]
    # Where it is inserted, and until both meet at a border again.
    assert sum(map(len, fresh)) <= 4 * MAX_BYTES


def test_borders_do_not_depend_on_how_much_is_read_at_once(monkeypatch):
    whole = pieces(NOISE)
    monkeypatch.setattr(chunking, "_BUFFER_BYTES", MAX_BYTES)
    assert pieces(NOISE) == whole


def test_candidates_do_not_depend_on_pieces(monkeypatch):
    buffer = np.frombuffer(NOISE[:MIB], np.uint8)
    found = chunking.candidates(buffer)
    assert set(found[1]) <= set(found[0])
    monkeypatch.setattr(chunking, "_PIECE_BYTES", 1000)
    assert chunking.candidates(buffer) == found


def test_a_file_that_shrank_is_refused():
    for tensors in ((), (Tensor("w", "int8", 0, 5000),)):
        with pytest.raises(PublisherError, match="ended 1000 bytes early"):
            list(chunking.cut(io.BytesIO(NOISE[:4000]), 5000, tensors))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file():
    data = io.BytesIO(NOISE * 6)
    tracemalloc.start()
    try:
        for tensors in ((), (Tensor("w", "float32", 0, 24 * MIB),)):
            for _ in chunking.cut(data, 24 * MIB, tensors):
                pass
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
