from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transfer_formats import field, gguf, initializer, onnx, outside, safetensors, varint

from hedgerow.registry.transfer import dtypes, layout_gguf, layout_onnx, layout_safetensors, layouts
from hedgerow.registry.transfer.reading import DamagedError, Window
from hedgerow.registry.transfer.recipe import Tensor

HUGE = 1 << 60
READERS = {
    "safetensors": layout_safetensors.read,
    "gguf": layout_gguf.read,
    "onnx": layout_onnx.read,
}


def window(data: bytes) -> Window:
    return Window(io.BytesIO(data), len(data))


def weights(count: int, dtype: str = "float32") -> np.ndarray:
    return (np.arange(count) % 251).astype(dtype)


SMALL_FILES = {
    "safetensors": safetensors({"w": weights(100)}),
    "gguf": gguf({"w": (8, 64, bytes(range(68)))}),
    "onnx": onnx(
        field(5, initializer("w", 1, bytes(64))),
        field(5, outside("v", 1, location="d", length="9")),
    ),
}


def place(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_safetensors(tmp_path):
    tensors = {"a": weights(5000), "small": weights(10), "b": weights(6000, "int8"), "c": weights(4000, "float16")}
    data = safetensors(tensors)
    place(tmp_path / "model.safetensors", data)
    found = layouts.of_folder(tmp_path, ["model.safetensors"])["model.safetensors"]
    assert [(tensor.name, tensor.dtype) for tensor in found] == [("a", "float32"), ("b", "int8"), ("c", "float16")]
    for tensor in found:
        assert data[tensor.offset : tensor.offset + tensor.size] == tensors[tensor.name].tobytes()


@pytest.mark.parametrize("alignment", [None, 64])
def test_gguf(tmp_path, alignment):
    tensors = {
        "f32": (0, 2000, weights(2000).tobytes()),
        "q8": (8, 32 * 200, bytes(34 * 200)),
        "unknown": (99, 5000, bytes(5000)),
        "q4": (3, 32 * 300, b"\x07" * 20 * 300),
    }
    data = gguf(tensors, alignment)
    place(tmp_path / "model.gguf", data)
    found = layouts.of_folder(tmp_path, ["model.gguf"])["model.gguf"]
    assert [(tensor.name, tensor.dtype) for tensor in found] == [("f32", "float32"), ("q8", "q8_0"), ("q4", "q4_1")]
    for tensor in found:
        assert data[tensor.offset : tensor.offset + tensor.size] == tensors[tensor.name][2]


def test_sizes_of_gguf_blocks_are_those_of_the_package():
    gguf_package = pytest.importorskip("gguf")
    for number, (name, size, count) in dtypes.GGUF.items():
        kind = gguf_package.GGMLQuantizationType(number)
        assert gguf_package.GGML_QUANT_SIZES[kind] == (count, size), name


def test_onnx_initializers_constants_and_subgraphs():
    floats, ints, deep = weights(3000).tobytes(), weights(5000, "int8").tobytes(), weights(9000, "uint8").tobytes()
    constant = field(1, field(5, field(1, b"value") + field(5, initializer("c", 3, ints))))
    branch = field(
        1,
        field(5, field(1, b"then_branch") + field(6, field(5, initializer("d", 2, deep)))),
    )
    data = onnx(
        constant,
        field(5, initializer("w", 1, floats)),
        branch,
        field(1, field(4, b"Relu")),
    )
    found = layout_onnx.read(window(data))
    assert list(found) == [None]
    content = {tensor.name: (tensor.dtype, data[tensor.offset : tensor.offset + tensor.size]) for tensor in found[None]}
    assert content == {"w": ("float32", floats), "c": ("int8", ints), "d": ("uint8", deep)}


def test_onnx_weights_in_another_file_of_the_bundle(tmp_path):
    graph = onnx(
        field(5, outside("w", 1, location="weights.bin", offset="4096", length="8000")),
        field(5, outside("v", 10, location="./weights.bin", length="4096")),
        field(5, outside("evil", 1, location="../../etc/passwd", offset="0", length="8000")),
        field(5, outside("beyond", 1, location="weights.bin", offset="16000", length="8000")),
    )
    place(tmp_path / "onnx/model.onnx", graph)
    place(tmp_path / "onnx/weights.bin", bytes(20000))
    found = layouts.of_folder(tmp_path, ["onnx/model.onnx", "onnx/weights.bin"])
    assert found == {
        "onnx/weights.bin": (Tensor("v", "float16", 0, 4096), Tensor("w", "float32", 4096, 8000)),
    }


def test_the_onnx_package_agrees(tmp_path):
    onnx_package = pytest.importorskip("onnx")
    values = {f"w{place}": weights(2000 + place) for place in range(5)}
    graph = onnx_package.helper.make_graph(
        [],
        "g",
        [],
        [],
        initializer=[onnx_package.numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    data = onnx_package.helper.make_model(graph).SerializeToString()
    found = layout_onnx.read(window(data))[None]
    assert {t.name: data[t.offset : t.offset + t.size] for t in found} == {k: v.tobytes() for k, v in values.items()}


def test_files_of_no_known_format_have_no_layout(tmp_path):
    place(tmp_path / "tokenizer.json", b"{}")
    place(tmp_path / "model.hef", bytes(100))
    place(tmp_path / "broken.onnx", b"\x3a\xff\xff\xff\xff\x0f")
    place(tmp_path / "empty.gguf", b"")
    paths = ["tokenizer.json", "model.hef", "broken.onnx", "empty.gguf"]
    assert layouts.of_folder(tmp_path, paths) == {}


def test_of_overlapping_tensors_the_first_stays():
    tensors = [Tensor("b", "int8", 4096, 8192), Tensor("a", "int8", 0, 8192), Tensor("out", "int8", 90000, 99999)]
    assert layouts.tidy(tensors, 100_000) == (Tensor("a", "int8", 0, 8192),)


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
def test_hostile_bytes_are_damaged_or_harmless(kind, data):
    """Altered, cut, or no file of that format at all: an answer within the file's bounds, or DamagedError."""
    content = bytearray(data.draw(st.sampled_from([SMALL_FILES[kind], SMALL_FILES[kind]]) | st.binary(max_size=200)))
    for _ in range(data.draw(st.integers(0, 6))):
        if content:
            place = data.draw(st.integers(0, min(len(content), 300) - 1))
            content[place] = data.draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        found = READERS[kind](window(bytes(content)))
    except DamagedError:
        return
    for tensor in layouts.tidy(found.get(None, []), len(content)):
        assert tensor.offset + tensor.size <= len(content)


@pytest.mark.parametrize(
    "kind, data",
    [
        ("safetensors", struct.pack("<Q", HUGE) + b"{}"),
        ("gguf", b"GGUF" + struct.pack("<IQQ", 3, HUGE, 1)),
        ("gguf", b"GGUF" + struct.pack("<IQQ", 3, 1, HUGE)),
        ("gguf", b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 1, 1, 1, b"k", 9, 8, HUGE)),
        ("gguf", b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 1, 1, 1, b"k", 9, 6, HUGE)),
        ("onnx", b"\x3a" + varint(HUGE)),
    ],
)
def test_sizes_that_a_header_claims_cost_nothing(kind, data):
    """They must be refused by arithmetic, not by trying."""
    with pytest.raises(DamagedError):
        READERS[kind](window(data))


def test_graphs_within_graphs_end():
    nested = b"x" * 5000
    for _ in range(30):
        nested = field(1, field(5, field(6, nested)))
    with pytest.raises(DamagedError, match="graphs within graphs"):
        layout_onnx.read(window(field(7, nested)))


def test_a_model_is_walked_without_reading_its_weights():
    reads = 0

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal reads
            data = super().read(size)
            reads += len(data)
            return data

    data = onnx(*(field(5, initializer(f"w{place}", 1, bytes(4 << 20))) for place in range(4)))
    found = layout_onnx.read(Window(Counting(data), len(data)))
    assert len(found[None]) == 4
    assert reads < 1 << 20
