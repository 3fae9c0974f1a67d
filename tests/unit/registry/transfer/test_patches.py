from __future__ import annotations

import contextlib
import hashlib
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.errors import DeviceError, PublisherError
from hedgerow.registry.transfer import packs, patches, streams, transforms
from hedgerow.registry.transfer.dtypes import ITEM_BYTES, RECORD_BYTES

DTYPES = [*ITEM_BYTES, *RECORD_BYTES, ""]
TRANSFORMS = ["bytes", "nibbles", "records18", "records34", "records2", "records1"] + [
    f"{kind}{width}" for kind in ("integer", "ordered") for width in (2, 4, 8)
]
RNG = np.random.default_rng(5)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def apply(old: bytes, patch: patches.Patch, new: bytes, **changes) -> bytes:
    given_ = {
        "transform": patch.transform,
        "old_sha256": patch.old_sha256,
        "size": len(new),
        "sha256": sha256(new),
        "where": "here",
    }
    return patches.apply(old, patch.data, **(given_ | changes))


def make(old: bytes, new: bytes, dtype: str) -> patches.Patch:
    patch = patches.make(old, new, dtype=dtype, worth=len(new))
    assert patch is not None
    return patch


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8)


@pytest.mark.parametrize("transform", TRANSFORMS)
@settings(max_examples=25)
@given(data=st.data())
def test_planes_lead_back_for_any_bytes(transform, data):
    size = data.draw(st.integers(0, 200))
    old, new = (array(data.draw(st.binary(min_size=size, max_size=size))) for _ in range(2))
    planes = transforms.planes(transform, old, new)
    assert [len(plane) for plane in planes] == transforms.sizes(transform, size)
    assert transforms.is_known(transform)
    unpacked = streams.unpack(streams.pack(planes), transforms.sizes(transform, size), where="x")
    assert transforms.restore(transform, old, unpacked).tobytes() == new.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_has_transforms_that_are_known(dtype):
    for size in (999, 1000):
        tried = transforms.candidates(dtype, size)
        assert tried
        assert all(transforms.is_known(transform) for transform in tried)


@pytest.mark.parametrize(
    "transform", ["", "dictionary", "xor4", "integer3", "ordered16", "records0", "records9999", "bytes1"]
)
def test_other_transforms_are_not_known(transform):
    assert not transforms.is_known(transform)


def test_floats_are_compared_in_the_order_of_their_values():
    """Neighbours across a power of two, across zero, and infinity's: one apart, whatever their bits are."""
    pairs = [(1.0, np.nextafter(np.float32(1), np.float32(0))), (0.0, 1e-45), (np.inf, np.finfo(np.float32).max)]
    for one, other in pairs:
        old, new = (np.float32(value).tobytes() for value in (one, other))
        planes = transforms.planes("ordered4", array(old), array(new))
        assert int.from_bytes(b"".join(plane.tobytes() for plane in planes), "little") in {1, 2}


@settings(max_examples=40)
@given(st.integers(0, 3000), st.data())
def test_streams_lead_back_at_every_density(size, data):
    plane = np.zeros(size, dtype=np.uint8)
    if size:
        places = data.draw(st.lists(st.integers(0, size - 1), max_size=40))
        plane[places] = data.draw(st.integers(1, 255))
    dense = array(data.draw(st.binary(min_size=1, max_size=50)))
    found = streams.unpack(streams.pack([plane, dense]), [size, len(dense)], where="x")
    assert [each.tobytes() for each in found] == [plane.tobytes(), dense.tobytes()]


def test_gaps_at_and_around_what_a_byte_holds():
    for gap in (0, 1, 253, 254, 255, 256, 509, 510, 511, 5000):
        plane = np.zeros(gap + 20_000, dtype=np.uint8)
        plane[gap] = plane[-1] = 3
        assert streams.unpack(streams.pack([plane]), [len(plane)], where="x")[0].tobytes() == plane.tobytes()


def weights(dtype: str, count: int = 20_000) -> tuple[bytes, bytes]:
    """Weights of a type, before and after a small change of all of them."""
    values = RNG.standard_t(5, count).astype(np.float32) * 0.05
    changed = (values * (1 + 1e-3 * RNG.standard_normal(count))).astype(np.float32)
    if dtype == "bfloat16":
        return tuple((each.view("<u4") >> 16).astype("<u2").tobytes() for each in (values, changed))
    if dtype.startswith(("float", "complex")) and dtype != "float8":
        return values.astype(dtype).tobytes(), changed.astype(dtype).tobytes()
    kind = "int8" if ITEM_BYTES.get(dtype, 1) == 1 else f"int{8 * ITEM_BYTES[dtype]}"
    step = np.abs(values).max() / 100
    return tuple(np.round(each / step).astype(kind).tobytes() for each in (values, changed))


@pytest.mark.parametrize("dtype", sorted(ITEM_BYTES))
def test_a_small_change_of_all_weights_of_any_type_is_a_small_patch(dtype):
    old, new = weights(dtype)
    patch = make(old, new, dtype)
    assert apply(old, patch, new) == new
    assert len(patch.data) < 0.75 * len(packs.frame(new))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=10)
@given(data=st.data())
def test_what_is_made_can_be_applied_for_any_bytes(dtype, data):
    old, new = (data.draw(st.binary(min_size=1, max_size=400)) for _ in range(2))
    if data.draw(st.booleans()):
        new = (old + new)[: len(old)] if data.draw(st.booleans()) else old[: len(old) // 2] + new
    patch = patches.make(old, new or b"x", dtype=dtype, worth=1 << 20)
    if patch is not None:
        assert apply(old, patch, new or b"x") == (new or b"x")


def test_bars_of_the_smallest_kind():
    """float32 with a relative change of 1e-3 leaves 15.6 bits of noise in 32; int8 with 0.4 % of its bytes changed by
    one costs what their places do."""
    old, new = weights("float32", 200_000)
    assert len(make(old, new, "float32").data) < 0.52 * len(new)
    steps = RNG.integers(-20, 20, 500_000).astype(np.int8)
    changed = steps + (RNG.random(len(steps)) < 0.004)
    patch = make(steps.tobytes(), changed.astype(np.int8).tobytes(), "int8")
    assert patch.transform == "bytes"
    assert len(patch.data) < 0.0055 * len(steps)


def test_packed_halves_and_blocks_with_scales_have_their_own_way():
    old = RNG.integers(0, 256, 100_000).astype(np.uint8)
    low = RNG.random(len(old)) < 0.2
    new = (old & 0xF0) | ((old + low) & 0x0F).astype(np.uint8)
    assert make(old.tobytes(), new.tobytes(), "uint4").transform == "nibbles"
    blocks = RNG.integers(0, 256, (3000, 34)).astype(np.uint8)
    scaled = blocks.copy()
    scaled[:, :2] = RNG.integers(0, 256, (3000, 2))
    patch = make(blocks.tobytes(), scaled.tobytes(), "q8_0")
    assert patch.transform == "records34"
    assert len(patch.data) < 6400


def test_bytes_between_tensors_are_found_again_after_an_insertion():
    old = b"".join(b'{"id": %d, "content": "tok%d"},' % (number, number * 7919) for number in range(2000))
    new = old[:9000] + b'{"id": 9999, "content": "a new one"},' + old[9000:]
    patch = make(old, new, "")
    assert patch.transform == patches.DICTIONARY
    assert len(patch.data) < len(packs.frame(new)) / 20
    assert apply(old, patch, new) == new


def test_what_gains_nothing_makes_no_patch():
    old, new = RNG.bytes(50_000), RNG.bytes(50_000)
    for dtype in ("float32", "int8", ""):
        assert patches.make(old, new, dtype=dtype, worth=len(new)) is None
    close = weights("float32")
    assert patches.make(*close, dtype="float32", worth=100) is None
    assert patches.make(old, new + b"x", dtype="int8", worth=1 << 20) is None


def test_an_old_block_that_was_altered_is_the_devices_fault():
    old, new = weights("int8")
    patch = make(old, new, "int8")
    altered = bytes([old[0] ^ 1]) + old[1:]
    with pytest.raises(DeviceError, match="the old bytes were altered"):
        apply(altered, patch, new)


def test_a_patch_to_another_block_is_refused():
    old, new = weights("int8")
    with pytest.raises(PublisherError, match="leads to another block"):
        apply(old, make(old, new, "int8"), new, sha256="0" * 64)


def test_a_patch_of_a_kind_to_come_says_what_to_do():
    old, new = weights("int8")
    with pytest.raises(PublisherError, match="unknown kind 'wavelet'") as caught:
        apply(old, make(old, new, "int8"), new, transform="wavelet")
    assert "update the runtime" in caught.value.next_step


PATCHES = {
    dtype: (old, new, make(old, new, dtype))
    for dtype in ("int8", "float32", "")
    for old, new in [weights(dtype or "int8", 3000)]
}


@settings(max_examples=150)
@given(st.sampled_from(sorted(PATCHES)), st.data())
def test_altered_or_cut_patches_are_refused(dtype, data):
    old, new, patch = PATCHES[dtype]
    content = bytearray(patch.data)
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, min(60, len(content) - 1)) | st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    transform = data.draw(st.sampled_from([patch.transform, "bytes", "ordered4", patches.DICTIONARY]))
    with contextlib.suppress(PublisherError):
        assert apply(old, patches.Patch(transform, patch.old_sha256, bytes(content)), new) == new


def test_a_head_that_claims_more_than_its_plane_is_refused_before_anything_is_expanded(monkeypatch):
    def with_head(head: list) -> bytes:
        start = msgspec.msgpack.encode(head)
        return len(start).to_bytes(2, "little") + start + b"\0" * sum(part[1] for plane in head for part in plane)

    monkeypatch.setattr(packs, "expand", None)
    for head, says in (
        ([[[1000, 5]]], "belongs to a plane of 100"),
        ([[[5, 50]]], "belongs to a plane of 100"),
        ([[[1 << 40, 5]]], "no list of lengths"),
        ([[[5, 5]] * 3], "no list of lengths"),
        ([], "has 0 planes"),
        ([[[99, 99]]], "has 99 bytes, not 100"),
        ([[[50, 50], [49, 49]]], "50 gaps and 49 values"),
    ):
        with pytest.raises(PublisherError, match=says):
            streams.unpack(with_head(head), [100], where="x")
    start = msgspec.msgpack.encode([[[1, 1], [1, 1]]])
    with pytest.raises(PublisherError, match="beyond the end"):
        streams.unpack(len(start).to_bytes(2, "little") + start + b"\xfe\1", [100], where="x")


@pytest.mark.parametrize("dtype", ["float32", "int8", "q8_0", ""])
def test_memory_of_one_block(dtype):
    count = (1 << 20) // 4
    old, new = weights("float32", count) if dtype == "float32" else weights("int8", 1 << 20)
    patch = make(old, new, dtype)
    tracemalloc.start()
    try:
        apply(old, patch, new)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
