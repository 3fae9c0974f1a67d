import hashlib
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.models import quantize_calibration, quantize_files
from hedgerow.models.quantize_onnx import Options, quantize_model
from hedgerow.models.quantize_prune import smallest_to_zero


def run(path, feed):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)[0]


def closeness(models, name, target):
    feed = dict(quantize_calibration.load(models / f"{name}.npz").feeds[0])
    a, b = run(models / f"{name}.onnx", feed).ravel(), run(target, feed).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def options(scheme, models, name="cnn", **fields):
    calibration = quantize_calibration.load(models / f"{name}.npz") if scheme == "static-qdq" else None
    return Options(scheme, calibration=calibration, **fields)


@pytest.mark.parametrize(
    "name,scheme,quantized,least",
    [
        ("cnn", "static-qdq", {"Conv": 1, "MatMul": 1}, 0.99),
        ("cnn", "dynamic-int8", {"MatMulInteger": 1}, 0.99),
        ("mlp", "dynamic-int8", {"MatMulInteger": 2}, 0.99),
        ("mlp", "static-qdq", {"Gemm": 1, "MatMul": 1}, 0.99),
        ("mlp", "int4-weights", {"MatMulNBits": 2}, 0.97),
    ],
)
def test_a_scheme_quantizes_and_stays_close(models, name, scheme, quantized, least):
    result = quantize_model(models / f"{name}.onnx", models / "out.onnx", options(scheme, models, name))
    assert result.quantized == quantized
    assert result.size_after < result.size_before
    assert least < closeness(models, name, models / "out.onnx") < 1


def test_a_convolution_among_products_stays_in_float_and_the_result_says_so(models):
    result = quantize_model(models / "cnn.onnx", models / "out.onnx", options("dynamic-int8", models))
    operators = {node.op_type for node in onnx.load(models / "out.onnx").graph.node}
    assert "Conv" in operators
    assert "ConvInteger" not in operators
    assert result.left == {"Conv": 1}
    assert any("convolutions stay in float (1)" in text for text in result.warnings)


def test_convolutions_alone_are_never_dynamic(tiny, models, tmp_path):
    onnx.save(tiny.cnn(fully_convolutional=True), tmp_path / "fully.onnx")
    with pytest.raises(RefusedError, match="convolutions-never-dynamic"):
        quantize_model(tmp_path / "fully.onnx", tmp_path / "out.onnx", Options("dynamic-int8"))
    with pytest.raises(RefusedError, match="nothing-to-quantize"):
        quantize_model(tmp_path / "fully.onnx", tmp_path / "out.onnx", Options("int4-weights"))
    assert not (tmp_path / "out.onnx").exists()


def test_a_node_can_be_kept(models):
    for scheme in ("int4-weights", "dynamic-int8", "static-qdq"):
        wanted = options(scheme, models, "mlp", keep=("first",))
        result = quantize_model(models / "mlp.onnx", models / f"{scheme}.onnx", wanted)
        assert sum(result.quantized.values()) == 1
        assert result.left == {"MatMul": 1}


def test_the_manifest_gets_the_calibration_sets_hash(models):
    wanted = options("static-qdq", models)
    result = quantize_model(models / "cnn.onnx", models / "out.onnx", wanted)
    assert result.quantization.calibration_sha256 == wanted.calibration.sha256
    assert (result.quantization.bits, result.quantization.activation_bits) == (8, 8)


@pytest.mark.parametrize("loud", [0, 15, 16, 31])
def test_every_sample_counts_in_the_calibration(tiny, models, loud):
    values = tiny.samples("mlp", count=32)["x"]
    values[loud] *= 100
    calibration = quantize_calibration.Inputs(tuple({"x": each[None]} for each in values), "0" * 64, "here")
    quantize_model(models / "mlp.onnx", models / "out.onnx", Options("static-qdq", calibration=calibration))
    stored = quantize_files.float_weights(onnx.load(models / "out.onnx"))
    assert stored["x_scale"] == pytest.approx(np.ptp(values) / 255, rel=0.01)


def test_pruned_weights_are_zero_and_counted(models):
    result = quantize_model(models / "mlp.onnx", models / "out.onnx", Options("float32", prune=0.5))
    stored = quantize_files.float_weights(onnx.load(models / "out.onnx"))
    assert np.count_nonzero(stored["first"] == 0) == stored["first"].size // 2
    assert np.count_nonzero(stored["bias"] == 0) == 0
    assert result.sparsity == pytest.approx(0.5)
    assert result.quantization.sparsity == pytest.approx(0.5)


def test_pruning_takes_the_smallest_and_of_equal_ones_the_first():
    values = np.array([[3, -1, 2], [1, -4, 1]], dtype=np.float32)
    assert smallest_to_zero(values, 0.34).tolist() == [[3, 0, 2], [0, -4, 1]]
    assert smallest_to_zero(values, 0).tolist() == values.tolist()


@pytest.mark.parametrize("fields", [{"scheme": "int3"}, {"prune": 0.99}, {"prune": -0.1}, {"block_size": 24}])
def test_options_that_make_no_sense_are_refused(fields):
    with pytest.raises(UsageError):
        Options(**({"scheme": "int4-weights"} | fields))


def test_static_quantization_needs_inputs():
    with pytest.raises(UsageError, match="needs inputs to calibrate with"):
        Options("static-qdq")


def test_weights_that_are_no_constants_are_said(tiny, tmp_path):
    onnx.save(tiny.cnn(), tmp_path / "cnn.onnx")  # 16 inputs to its product, blocks are of 32
    with pytest.raises(PublisherError, match="not one operator"):
        quantize_model(tmp_path / "cnn.onnx", tmp_path / "out.onnx", Options("int4-weights"))


def test_an_old_opset_is_told(tiny, models, tmp_path):
    onnx.save(tiny.cnn(opset=11), tmp_path / "old.onnx")
    with pytest.raises(UsageError, match="opset 11"):
        quantize_model(tmp_path / "old.onnx", tmp_path / "out.onnx", options("static-qdq", models))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x09"])
def test_what_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(UsageError):
        quantize_model(tmp_path / "bad.onnx", tmp_path / "out.onnx", Options("dynamic-int8"))


def test_many_weights_leave_for_a_file_at_page_boundaries(tiny, tmp_path):
    onnx.save(tiny.mlp(hidden=10_000), tmp_path / "large.onnx")
    quantize_model(tmp_path / "large.onnx", tmp_path / "out.onnx", Options("float32", prune=0.1))
    assert quantize_files.files_of(tmp_path / "out.onnx")[1:] == [tmp_path / "out.onnx.data"]
    assert (tmp_path / "out.onnx").stat().st_size < 4096
    stored = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer
    offsets = [int(e.value) for each in stored for e in each.external_data if e.key == "offset"]
    assert offsets
    assert all(offset % 4096 == 0 for offset in offsets)
    feed = {"x": np.ones((1, 32), np.float32)}
    assert np.isfinite(run(tmp_path / "out.onnx", feed)).all()


def test_weights_outside_the_folder_are_refused(tiny, tmp_path):
    onnx.save(tiny.mlp(hidden=10_000), tmp_path / "large.onnx")
    quantize_model(tmp_path / "large.onnx", tmp_path / "out.onnx", Options("float32", prune=0.1))
    model = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../elsewhere"
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "evil.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="outside the model's folder"):
        quantize_files.load(tmp_path / "inner" / "evil.onnx")


PROGRAM = """
import sys
from pathlib import Path
from hedgerow.models import quantize_calibration
from hedgerow.models.quantize_onnx import Options, quantize_model
models = Path(sys.argv[1])
for scheme in ("static-qdq", "dynamic-int8"):
    calibration = quantize_calibration.load(models / "cnn.npz")
    wanted = Options(scheme, calibration=calibration)
    quantize_model(models / "cnn.onnx", models / f"{scheme}-{sys.argv[2]}.onnx", wanted)
"""


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes_in_another_process(models):
    for seed in ("1", "2"):
        command = [sys.executable, "-c", PROGRAM, str(models), seed]
        subprocess.run(command, check=True, env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"})
    for scheme in ("static-qdq", "dynamic-int8"):
        digests = {hashlib.sha256((models / f"{scheme}-{n}.onnx").read_bytes()).hexdigest() for n in "12"}
        assert len(digests) == 1


def test_a_sets_hash_is_of_its_content(models, tmp_path):
    values = np.load(models / "mlp.npz")["x"]
    np.savez_compressed(tmp_path / "again.npz", x=values)
    np.savez(tmp_path / "other.npz", x=values + 1)
    same = quantize_calibration.load(tmp_path / "again.npz")
    assert same.sha256 == quantize_calibration.load(models / "mlp.npz").sha256
    assert same.sha256 != quantize_calibration.load(tmp_path / "other.npz").sha256


def test_a_fixed_batch_cuts_a_file_into_feeds():
    feed = {"x": np.arange(12).reshape(6, 2)}
    inputs = quantize_calibration.Inputs((feed,), "", "here")
    assert [part["x"].tolist() for part in inputs.fitted({"x": [2, 2]})] == [
        [[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]],
    ]  # fmt: skip
    assert len(inputs.fitted({"x": ["n", 2]})) == 1
    for shape in ([4, 2], [2, 3], [6], ["n", 2, 1]):
        with pytest.raises(UsageError, match="has shape"):
            inputs.fitted({"x": shape})
    with pytest.raises(UsageError, match="'z' is in no array"):
        inputs.fitted({"z": ["n", 2]})


def test_a_set_with_nan_or_objects_is_refused(tmp_path):
    np.savez(tmp_path / "nan.npz", x=np.array([1.0, np.nan]))
    np.savez(tmp_path / "object.npz", x=np.array([{}], dtype=object))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "nan.npz").read_bytes()[:40])
    for name in ("nan", "object", "cut", "absent"):
        with pytest.raises(UsageError):
            quantize_calibration.load(tmp_path / f"{name}.npz")
