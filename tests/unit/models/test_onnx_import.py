"""Importing ONNX models made here: a small convolution with a free batch, and models with something wrong."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hedgerow.errors import PublisherError, UsageError
from hedgerow.models import onnx_import, onnx_probe
from hedgerow.models.describing import Description, read_golden
from hedgerow.models.onnx_import import OnnxRequest, import_onnx
from hedgerow.registry import bundle

SAID = Description("detect", "1.0.0", "MIT")


def network(path, *, opset=17, domain="", height="height", seed=1):
    """``images`` (n, 3, height, 8) → a convolution, a detour that folds away, the mean of each channel."""
    random = np.random.default_rng(seed)
    weights = numpy_helper.from_array(random.normal(0, 0.2, (4, 3, 3, 3)).astype(np.float32), "weights")
    one = numpy_helper.from_array(np.ones(1, dtype=np.float32), "one")
    nodes = [
        helper.make_node("Conv", ["images", "weights"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Identity", ["one"], ["same"]),
        helper.make_node("Mul", ["same", "same"], ["folded"]),
        helper.make_node("Mul", ["c", "folded"], ["scaled"]),
        helper.make_node("Relu", ["scaled"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["scores"], axes=[2, 3], keepdims=0),
    ]
    if domain:
        nodes.append(helper.make_node("Strange", ["scores"], ["other"], domain=domain))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, height, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4])],
        initializer=[weights, one],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.fixture
def file(tmp_path):
    return network(tmp_path / "net.onnx")


def test_shapes_become_static_and_detours_go(file, tmp_path):
    place = import_onnx(OnnxRequest(file, SAID, {"images": (1, 3, 8, 8)}), cache=tmp_path / "cache")
    found = bundle.verify_files(place).manifest
    assert (found.schema, found.format, found.kind) == (1, "onnx", "model")
    assert [(t.name, t.dtype, t.shape) for t in found.inputs] == [("images", "FP32", (1, 3, 8, 8))]
    assert [(t.name, t.shape) for t in found.outputs] == [("scores", (1, 4))]
    operators = [node.op_type for node in onnx.load(place / "model.onnx").graph.node]
    assert "Identity" not in operators
    assert operators.count("Mul") <= 1
    golden = found.golden[0]
    session = onnx_probe.Session.of_file(place / "model.onnx")
    feeds = {t.name: np.array(t.data, dtype=np.float32).reshape(t.shape) for t in golden.inputs}
    want = np.array(golden.outputs[0].data).reshape(golden.outputs[0].shape)
    np.testing.assert_allclose(session.run(feeds)["scores"], want, atol=golden.atol, rtol=golden.rtol)
    assert set(found.provenance.tools) == {"numpy", "onnx", "onnxruntime", "onnxslim"}


def test_a_batch_may_stay_free(file, tmp_path):
    place = import_onnx(OnnxRequest(file, SAID, {"images": (-1, 3, 8, 8)}), cache=tmp_path / "cache")
    assert bundle.load(place).manifest.inputs[0].shape == (-1, 3, 8, 8)


def test_the_same_model_gives_the_same_bytes(file, tmp_path):
    request = OnnxRequest(file, SAID, {"images": (1, 3, 8, 8)})
    one, two = (bundle.load(import_onnx(request, cache=tmp_path / str(number))) for number in range(2))
    assert one.sha256 == two.sha256
    other = OnnxRequest(network(tmp_path / "net.onnx", seed=2), SAID, {"images": (1, 3, 8, 8)})
    assert bundle.load(import_onnx(other, cache=tmp_path / "0")).sha256 != one.sha256


@pytest.mark.parametrize(
    "shapes, says",
    [
        ({}, "free dimensions: n,3,height,8"),
        ({"pictures": (1,)}, "no input 'pictures'; it has images"),
        ({"images": (1, 3, 8)}, "does not fit"),
        ({"images": (1, 4, 8, 8)}, "does not fit"),
    ],
)
def test_a_shape_is_asked_for_and_held_to(file, tmp_path, shapes, says):
    with pytest.raises(UsageError, match=says) as caught:
        import_onnx(OnnxRequest(file, SAID, shapes), cache=tmp_path / "cache")
    assert caught.value.next_step
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    "fields, says",
    [({"opset": 6}, "opset 6"), ({"domain": "com.example"}, "operators of com.example")],
)
def test_what_no_device_runs_is_refused(tmp_path, fields, says):
    path = network(tmp_path / "net.onnx", **fields)
    with pytest.raises(UsageError, match=says):
        import_onnx(OnnxRequest(path, SAID, {"images": (1, 3, 8, 8)}), cache=tmp_path / "cache")


@pytest.mark.parametrize("data", [b"", b"not onnx", None])
def test_no_model_is_told(tmp_path, data):
    path = tmp_path / "x.onnx"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError):
        import_onnx(OnnxRequest(path, SAID), cache=tmp_path / "cache")


def test_a_simplification_that_changes_answers_is_caught(file, tmp_path, monkeypatch):
    def broken(model, path):
        weights = numpy_helper.to_array(model.graph.initializer[0]) * np.float32(1.01)
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "weights"))
        return model

    monkeypatch.setattr(onnx_import, "_simplified", broken)
    with pytest.raises(PublisherError, match="'scores' differs by"):
        import_onnx(OnnxRequest(file, SAID, {"images": (1, 3, 8, 8)}), cache=tmp_path / "cache")


FLOAT, WHOLE = np.ones(2, dtype=np.float32), np.ones(2, dtype=np.int64)


@pytest.mark.parametrize(
    "want, have",
    [
        (FLOAT, None),
        (FLOAT, np.ones(3, dtype=np.float32)),
        (FLOAT, np.array([1, np.nan], dtype=np.float32)),
        (FLOAT, np.array([1, 1.001], dtype=np.float32)),
        (WHOLE, np.array([1, 2])),
    ],
)
def test_comparison_refuses(tmp_path, want, have):
    with pytest.raises(PublisherError):
        onnx_import.compare({"y": want}, {} if have is None else {"y": have}, tmp_path)


def test_comparison_allows_rounding(tmp_path):
    onnx_import.compare({"y": FLOAT, "k": WHOLE}, {"y": FLOAT * np.float32(1.00001), "k": WHOLE}, tmp_path)


def test_real_inputs_are_what_is_asked(file, tmp_path):
    picture = np.full((1, 3, 8, 8), 0.5, dtype=np.float32)
    np.savez(tmp_path / "in.npz", images=picture)
    request = OnnxRequest(file, SAID, {"images": (1, 3, 8, 8)}, tmp_path / "in.npz")
    golden = bundle.load(import_onnx(request, cache=tmp_path / "cache")).manifest.golden[0]
    assert set(golden.inputs[0].data) == {0.5}
    np.savez(tmp_path / "in.npz", images=picture.astype(np.float64))
    with pytest.raises(UsageError, match="must be float32"):
        import_onnx(request, cache=tmp_path / "cache")


def test_golden_questions_may_be_given_and_are_read_strictly(tmp_path):
    path = tmp_path / "golden.json"
    question = {"kind": "text", "messages": [{"role": "user", "content": "hi"}], "expect": "hello"}
    path.write_text(json.dumps([question]))
    assert read_golden(path)[0].expect == "hello"
    for wrong in ("[]", "{}", json.dumps([question | {"expects": 1}])):
        path.write_text(wrong)
        with pytest.raises(UsageError):
            read_golden(path)


def test_more_than_a_manifest_should_carry_is_refused(tmp_path):
    values = np.zeros(onnx_probe.MOST_VALUES + 1, dtype=np.float32)
    with pytest.raises(UsageError, match="more than"):
        onnx_import.golden({"x": FLOAT}, {"y": values}, tmp_path)
    with pytest.raises(UsageError, match="more than"):
        onnx_import.golden({"x": values}, {"y": FLOAT}, tmp_path)
    assert [t.name for t in onnx_import.golden({"x": FLOAT}, {"y": values, "z": FLOAT}, tmp_path).outputs] == ["z"]
    with pytest.raises(PublisherError, match="not finite"):
        onnx_import.golden({"x": FLOAT}, {"y": FLOAT * np.float32(np.inf)}, tmp_path)
