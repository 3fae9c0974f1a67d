"""Outputs whose boxes are known, by family."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hedgerow.vision.decode import UnexpectedOutput, decode

SIZE = (64, 32)


def test_yolov8():
    output = np.zeros((1, 4 + 2, 3), np.float32)
    output[0, :, 0] = [10, 8, 4, 2, 0.2, 0.7]
    output[0, :, 1] = [20, 20, 10, 10, 0.9, 0.1]
    output[0, :, 2] = [5, 5, 5, 5, 0.1, 0.2]  # not sure enough
    found = decode("yolov8", {"out": output}, SIZE, confidence=0.25)
    assert found.boxes.tolist() == [[8, 7, 12, 9], [15, 15, 25, 25]]
    assert found.scores.tolist() == pytest.approx([0.7, 0.9])
    assert found.classes.tolist() == [1, 0]


def test_yolox():
    # 64 × 32 has 8 × 4 cells of 8 pixels, 4 × 2 of 16 and 2 × 1 of 32: 42 in all.
    output = np.zeros((1, 42, 5 + 2), np.float32)
    output[0, 8 + 3] = [0.5, 0.25, math.log(2), math.log(1), 0.5, 0.0, 0.8]  # cell (3, 1) of the finest
    output[0, 32 + 8 + 1] = [0.5, 0.5, 0, 0, 1.0, 0.9, 0.2]  # cell (1, 0) of the coarsest
    found = decode("yolox", {"out": output}, SIZE, confidence=0.25)
    np.testing.assert_allclose(found.boxes, [[28 - 8, 10 - 4, 28 + 8, 10 + 4], [48 - 16, 0, 48 + 16, 32]], atol=1e-5)
    assert found.scores.tolist() == pytest.approx([0.4, 0.9])
    assert found.classes.tolist() == [1, 0]


def test_hailo_nms():
    output = np.zeros((1, 3, 5, 4), np.float32)  # three classes, room for four boxes each
    output[0, 2, :, 0] = [0.25, 0.5, 0.75, 1.0, 0.6]  # y1, x1, y2, x2, score
    output[0, 0, :, 0] = [0, 0, 0.5, 0.5, 0.9]
    found = decode("hailo_nms", {"nms": output}, SIZE, confidence=0.25)
    assert found.boxes.tolist() == [[0, 0, 32, 16], [32, 8, 64, 24]]
    assert found.classes.tolist() == [0, 2]
    assert found.scores.tolist() == pytest.approx([0.9, 0.6])


def test_what_is_no_number_is_no_detection():
    output = np.full((1, 42, 6), np.nan, np.float32)
    output[0, 0] = [0, 0, 200, 0, 1, 1]  # e to the 200th: an infinite box
    assert len(decode("yolox", {"out": output}, SIZE, confidence=0.1).boxes) == 0


@pytest.mark.parametrize(
    "decoder,shape,text",
    [
        ("yolov8", (1, 4, 100), r"4 \+ classes, boxes"),
        ("yolov8", (1, 6, 5, 2), r"4 \+ classes, boxes"),
        ("yolov8", (2, 6, 5), "one frame"),
        ("yolox", (1, 41, 7), "42, 5"),
        ("yolox", (1, 42, 5), "42, 5"),
        ("hailo_nms", (1, 3, 6, 4), "classes, 5, boxes"),
    ],
)
def test_another_family_is_refused(decoder, shape, text):
    with pytest.raises(UnexpectedOutput, match=text):
        decode(decoder, {"out": np.zeros(shape, np.float32)}, SIZE, confidence=0.5)


def test_several_outputs_are_refused():
    with pytest.raises(UnexpectedOutput, match="boxes, scores"):
        decode("yolov8", {"boxes": np.zeros((1, 6, 2)), "scores": np.zeros((1, 2))}, SIZE, confidence=0.5)
