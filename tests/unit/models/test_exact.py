"""The exact repack: block types against the gguf package's own arithmetic, and the whole graph against float32."""

import gguf
import numpy as np
import onnxruntime
import pytest
from gguf import GGMLQuantizationType as Type

from hedgerow.errors import UsageError
from hedgerow.models import exact
from hedgerow.models.exact import ExactCheckpoint, ExactMatrix
from hedgerow.models.exact_graph import EXACT, ExactBuilder
from hedgerow.models.gguf_file import GgufFile
from hedgerow.models.graph import FLOAT32, build_graph
from hedgerow.models.importer import ImportRequest, import_gguf
from hedgerow.models.llama import LlamaCheckpoint
from hedgerow.registry import bundle
from hedgerow.registry.manifest import Source

TOKENS = [1, 80, 90, 100, 110, 2, 40, 7, 260, 99, 33]
NAME = "blk.0.ffn_up.weight"


def matrix(path, name=NAME):
    with GgufFile(path) as file:
        return exact.read(file, name), file.tensor(name)


@pytest.mark.parametrize("kind", exact.KNOWN)
def test_a_block_comes_back_weight_for_weight(write_tiny, kind):
    found, want = matrix(write_tiny(matrix_type=kind))
    assert isinstance(found, ExactMatrix)
    np.testing.assert_allclose(found.dequantize(), want, rtol=0, atol=3e-7)
    assert found.bits == (4 if kind in {Type.Q4_0, Type.Q4_1} else 8)
    assert (found.rest is None) == (kind not in {Type.Q4_1, Type.Q5_1})


@pytest.mark.parametrize("kind", [Type.F16, Type.F32])
def test_floats_stay_floats(write_tiny, kind):
    found, want = matrix(write_tiny(matrix_type=kind))
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, want)


def test_blocks_without_a_step_and_far_from_zero_are_exact_too():
    raw = np.zeros((1, 3, 20), dtype=np.uint8)
    raw[0, :, 4:] = 0xF0
    raw[0, :, :4] = np.array([[0, 0.5], [0.25, 100], [0.25, -100]], dtype=np.float16).view(np.uint8)
    found = exact._q4_1(raw)
    want = gguf.dequantize(raw.reshape(1, -1), Type.Q4_1)
    np.testing.assert_array_equal(found.dequantize(), want)


def test_another_type_is_refused_with_those_that_go(write_tiny, monkeypatch):
    monkeypatch.delitem(exact._BLOCKS, Type.Q4_1)
    monkeypatch.setattr(exact, "KNOWN", (Type.Q8_0,))
    with pytest.raises(UsageError, match="no exact counterpart") as caught:
        matrix(write_tiny())
    assert "--exact" in caught.value.next_step


def logits(path, folder, *, exactly):
    folder.mkdir()
    with GgufFile(path) as file:
        checkpoint = LlamaCheckpoint(file)
        if exactly:
            build_graph(ExactCheckpoint(checkpoint), folder, EXACT, builder=ExactBuilder)
        else:
            build_graph(checkpoint, folder, FLOAT32)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.array([TOKENS]), "attention_mask": np.ones((1, len(TOKENS)), dtype=np.int64)}
    empty = np.zeros((1, 2, 0, 16), dtype=np.float32)
    feeds |= {each.name: empty for each in session.get_inputs() if each.name.startswith("past")}
    return session.run(["logits"], feeds)[0][0].astype(np.float64)


def cosine(a, b):
    return ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).min()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tied": False},
        {"embedding_type": Type.Q4_1},
        {"embedding_type": Type.F16, "tied": False},
        {"embedding_type": Type.F32},
        {"matrix_type": Type.Q5_1, "embedding_type": Type.Q5_0},
        {"matrix_type": Type.Q8_0},
        {"matrix_type": Type.F16},
    ],
)
def test_the_graph_computes_what_the_checkpoint_says(write_tiny, tmp_path, fields):
    path = write_tiny(**fields)
    want = logits(path, tmp_path / "float32", exactly=False)
    got = logits(path, tmp_path / "exact", exactly=True)
    assert cosine(got, want) > 1 - 1e-9
    assert np.abs(got - want).max() < 1e-4


def test_matrices_of_several_types_stack():
    def one(bits, zero_point, rest):
        values = np.full((2, 32), 5, dtype=np.uint8)
        scales, zeros = np.full((2, 1), 0.5, dtype=np.float32), np.full((2, 1), zero_point, dtype=np.uint8)
        return ExactMatrix(bits, values, scales, zeros, rest)

    parts = [one(4, 8, None), one(8, 128, np.full((2, 1), 7, dtype=np.float32))]
    both = exact.stack(parts)
    assert both.bits == 8
    np.testing.assert_array_equal(both.dequantize(), np.concatenate([part.dequantize() for part in parts]))


def test_an_exact_bundle_says_so_and_is_the_same_twice(tiny_gguf, tmp_path):
    request = ImportRequest(tiny_gguf, "tiny", "1.0.0", "MIT", (Source("tiny.gguf"),), quality="exact")
    one, two = (bundle.verify_files(import_gguf(request, cache=tmp_path / str(number))) for number in range(2))
    assert one.sha256 == two.sha256
    quantization = one.manifest.quantization
    assert (quantization.scheme, quantization.bits, quantization.group_size) == ("gguf-q4_1-exact", 4, 32)
