"""Held to another implementation: ONNX's operator NonMaxSuppression, as ONNX Runtime computes it."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import server_support as support
from onnx import TensorProto, helper

from hedgerow.vision.nms import MOST_CANDIDATES, overlaps, suppress


@pytest.fixture(scope="module")
def onnx_nms(tmp_path_factory):
    constants = [
        helper.make_tensor("most", TensorProto.INT64, [1], [1000]),
        helper.make_tensor("least", TensorProto.FLOAT, [1], [1e-6]),
    ]
    folder = support.write_graph(
        tmp_path_factory.mktemp("nms"),
        [helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["kept"])],
        [
            ("boxes", TensorProto.FLOAT, [1, "n", 4]),
            ("scores", TensorProto.FLOAT, [1, "classes", "n"]),
            ("overlap", TensorProto.FLOAT, [1]),
        ],
        [("kept", TensorProto.INT64, ["k", 3])],
        constants,
    )
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

    def run(boxes, scores, classes, overlap):
        table = np.zeros((1, int(classes.max()) + 1, len(boxes)), np.float32)
        table[0, classes, np.arange(len(boxes))] = scores
        (kept,) = session.run(None, {"boxes": boxes[None], "scores": table, "overlap": np.array([overlap], np.float32)})
        return sorted(kept[:, 2].tolist())

    return run


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("overlap", [0.1, 0.45, 0.8])
def test_as_onnx(onnx_nms, seed, overlap):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 200))
    corners = random.uniform(0, 100, (count, 2))
    boxes = np.hstack([corners, corners + random.uniform(0, 60, (count, 2))]).astype(np.float32)
    scores = random.uniform(0.05, 1, count).astype(np.float32)
    classes = random.integers(0, 3, count)
    kept = suppress(boxes, scores, classes, overlap=overlap, most=1000)
    assert sorted(kept.tolist()) == onnx_nms(boxes, scores, classes, overlap)
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True), "the surest first"


def test_overlap_by_hand():
    box = np.array([0, 0, 10, 10], np.float32)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20], [3, 3, 3, 3]], np.float32)
    assert overlaps(box, others).tolist() == pytest.approx([1, 1 / 3, 0, 0])
    assert overlaps(others[3], others[3:]).tolist() == [0], "two empty boxes"


def test_classes_do_not_suppress_each_other():
    boxes = np.array([[0, 0, 10, 10]] * 3, np.float32)
    scores = np.array([0.5, 0.9, 0.7], np.float32)
    assert suppress(boxes, scores, np.array([0, 1, 0]), overlap=0.5, most=9).tolist() == [1, 2]
    assert suppress(boxes, scores, np.array([0, 0, 0]), overlap=0.5, most=9).tolist() == [1]


def test_bounds():
    boxes = np.array([[n * 20, 0, n * 20 + 10, 10] for n in range(MOST_CANDIDATES + 50)], np.float32)
    scores = np.linspace(0.1, 0.9, len(boxes)).astype(np.float32)
    classes = np.zeros(len(boxes), int)
    assert len(suppress(boxes, scores, classes, overlap=0.5, most=7)) == 7
    assert len(suppress(boxes, scores, classes, overlap=0.5, most=5000)) == MOST_CANDIDATES
    assert suppress(boxes[:0], scores[:0], classes[:0], overlap=0.5, most=7).tolist() == []
