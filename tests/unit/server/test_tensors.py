from __future__ import annotations

import json
import struct
import sys

import msgspec
import numpy as np
import pytest

from hedgerow.server import tensors
from hedgerow.server.errors import BadRequest


@pytest.mark.parametrize(
    "datatype, shape, data, says",
    [
        ("INT32", [1], "[1.5]", r"Expected `int`, got `float` - at `\$\[0\]`"),
        ("INT32", [1], "[true]", r"Expected `int`, got `bool`"),
        ("INT32", [2], "[1, 2147483648]", r"Expected `int` <= 2147483647 - at `\$\[1\]`"),
        ("INT8", [1], "[-129]", r"Expected `int` >= -128"),
        ("UINT8", [1], "[-1]", r"Expected `int` >= 0"),
        ("UINT64", [1], "[-1]", r"out of bounds for uint64"),
        ("UINT64", [1], "[18446744073709551616]", r"too large"),
        ("INT64", [1], "[9223372036854775808]", r"too large|out of bounds"),
        ("FP32", [1], "[null]", r"Expected `float`, got `null`"),
        ("FP32", [1], '["1.5"]', r"Expected `float`, got `str`"),
        ("FP32", [1], "[true]", r"Expected `float`, got `bool`"),
        ("FP32", [2], "[0, 1e39]", r"the value at 1 is out of range"),
        ("FP16", [1], "[70000]", r"the value at 0 is out of range"),
        ("BF16", [1], "[3.4e38]", r"the value at 0 is out of range"),
        ("FP64", [1], "[1e309]", r"Number out of range"),
        ("FP32", [1], "[NaN]", r"JSON is malformed"),
        ("BOOL", [1], "[2]", r"Expected `bool`, got `int`"),
        ("BOOL", [1], '["x"]', r"Expected `bool`, got `str`"),
        ("BYTES", [1], "[{}]", r"Expected `str`, got `object`"),
        ("BYTES", [1], "[1]", r"Expected `str`, got `int`"),
        ("BYTES", [2, 2], '[["a", "b"], ["c"]]', r"is nested as \[2\]; its shape is \[2, 2\]"),
        ("INT32", [4], "[[1, 2], [3, 4]]", r"is nested 2 deep; its shape \[4\] has 1"),
        ("INT32", [3, 2], "[[1, 2, 3], [4, 5, 6]]", r"is nested as \[2, 3\]; its shape is \[3, 2\]"),
        ("INT32", [2, 2], "[[1, 2], [3]]", r"inhomogeneous"),
        ("INT32", [2, 2], "[[1, 2], 3]", r"Expected `array`, got `int` - at `\$\[1\]`"),
        ("INT32", [3], "[1, 2]", r"has 2 values; shape \[3\] wants 3"),
        ("INT32", [-1], "[1]", r"sizes are not negative"),
        ("INT32", [1] * 17, "[1]", r"has 17 dimensions; 16 are allowed"),
        ("INT32", [1], "[" * 100_000, r"is nested 17 deep"),
        ("INT32", [1], "1", r"Expected `array`, got `int`"),
        ("INT32", [1], "null", r"Expected `array`, got `null`"),
        ("FP8", [1], "[1]", r"has datatype 'FP8'; known: BOOL, UINT8"),
    ],
)
def test_wrong_values_are_refused_by_name(datatype: str, shape: list[int], data: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        tensors.from_json(data.encode(), datatype, shape, name="pixels")
    assert caught.value.field == "pixels"
    assert "'pixels'" in caught.value.text


@pytest.mark.parametrize(
    "datatype, shape, data, values",
    [
        ("FP32", [2], "[1, 2.5]", [1.0, 2.5]),
        ("INT64", [2, 2], "[[1, 2], [3, 4]]", [1, 2, 3, 4]),
        ("INT64", [2, 2], " [ [1, 2] , [3, 4]]", [1, 2, 3, 4]),
        ("INT64", [2, 2], "[1, 2, 3, 4]", [1, 2, 3, 4]),
        ("FP32", [0, 2], "[]", []),
        ("FP32", [2, 0], "[[], []]", []),
        ("FP32", [], "[3]", [3.0]),
        ("BYTES", [2, 1], '[["a"], ["ü"]]', ["a", "ü"]),
        ("BF16", [3], "[1.5, 0.10009765625, -2]", [1.5, 0.10009765625, -2.0]),
        ("UINT64", [1], "[18446744073709551615]", [18446744073709551615]),
    ],
)
def test_values_in_either_form(datatype: str, shape: list[int], data: str, values: list[object]) -> None:
    array = tensors.from_json(data.encode(), datatype, shape, name="x")
    assert array.shape == tuple(shape)
    assert tensors.datatype_of(array) == datatype
    assert tensors.to_json(array, name="y") == values


def test_bf16_rounds_to_the_nearest_even() -> None:
    """Bits 0x3F80_8000 lie between two; 0x3F81_8000 too, and the even neighbour is above."""
    halves = [struct.unpack("<f", struct.pack("<I", bits))[0] for bits in (0x3F808000, 0x3F818000, 0x3F808001)]
    array = tensors.from_json(json.dumps(halves).encode(), "BF16", [3], name="x")
    assert [int(bits) for bits in array.view("<u2")] == [0x3F80, 0x3F82, 0x3F81]


@pytest.mark.parametrize("datatype", sorted(set(tensors.DTYPES) - {"BYTES", "BOOL"}))
def test_the_binary_form_goes_both_ways(datatype: str) -> None:
    raw = bytes(range(1, 25))
    shape = [24 // tensors.DTYPES[datatype].itemsize]
    array = tensors.from_bytes(memoryview(raw), datatype, shape, name="x")
    assert tensors.to_bytes(array) == raw
    with pytest.raises(BadRequest, match=r"input 'x' has 23 bytes") as caught:
        tensors.from_bytes(memoryview(raw[:-1]), datatype, shape, name="x")
    assert caught.value.field == "x"


def test_truth_is_nought_or_one() -> None:
    assert tensors.from_bytes(memoryview(b"\1\0"), "BOOL", [2], name="x").tolist() == [True, False]
    with pytest.raises(BadRequest, match="a byte is 2, not 0 or 1"):
        tensors.from_bytes(memoryview(b"\1\2"), "BOOL", [2], name="x")


def test_big_endian_arrays_are_written_little_endian() -> None:
    array = np.array([1, 2], dtype=">i4")
    assert tensors.datatype_of(array) == "INT32"
    assert tensors.to_bytes(array) == b"\1\0\0\0\2\0\0\0"


@pytest.mark.parametrize(
    "raw, says",
    [
        (b"\1\0\0", "ends inside an element's length"),
        (b"\5\0\0\0abc", "ends inside an element of 5 bytes"),
        (b"\xff\xff\xff\xffabc", "ends inside an element of 4294967295 bytes"),
        (b"\1\0\0\0a", r"has 1 values; shape \[2\] wants 2"),
    ],
)
def test_byte_elements_whose_lengths_lie(raw: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        tensors.from_bytes(memoryview(raw), "BYTES", [2], name="x")


def test_byte_elements() -> None:
    raw = b"\3\0\0\0a\0b\0\0\0\0"
    array = tensors.from_bytes(memoryview(raw), "BYTES", [2], name="x")
    assert array.tolist() == [b"a\0b", b""]
    assert tensors.to_bytes(array) == raw


def test_an_image_of_json_is_read_without_python_code_for_each_value() -> None:
    """As many calls and lines of Python for 150,528 values as for six: a loop anywhere would make more."""

    def events(count: int, shape: list[int]) -> int:
        data = msgspec.json.encode(np.random.default_rng(1).random(count).tolist())
        found = 0

        def note(_frame: object, _event: str, _argument: object) -> object:
            nonlocal found
            found += 1
            return note

        before = sys.gettrace()
        sys.settrace(note)
        try:
            array = tensors.from_json(data, "FP32", shape, name="x")
        finally:
            sys.settrace(before)
        assert array.shape == tuple(shape)
        return found

    events(6, [1, 3, 1, 2])  # what is kept for the next time is made
    few = events(6, [1, 3, 1, 2])
    assert few > 0
    assert events(150_528, [1, 3, 224, 224]) == few
