"""Pictures into a model's input and boxes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.vision.letterbox import Letterbox

SIDE = st.integers(1, 4000)


@pytest.mark.parametrize(
    "source,target,center,inner,offset",
    [
        # YOLOv8's LetterBox of a full HD frame: 640 × 360 with 140 rows above and below.
        ((1920, 1080), (640, 640), True, (640, 360), (0, 140)),
        ((1080, 1920), (640, 640), True, (360, 640), (140, 0)),
        ((640, 640), (640, 640), True, (640, 640), (0, 0)),
        ((100, 50), (640, 480), True, (640, 320), (0, 80)),  # made larger
        # YOLOX's preproc: int(), the picture at the upper left.
        ((1920, 1080), (416, 416), False, (416, 234), (0, 0)),
        ((500, 333), (416, 416), False, (416, 277), (0, 0)),
        ((1, 4000), (64, 64), True, (1, 64), (31, 0)),  # never nothing
    ],
)
def test_known_values(source, target, center, inner, offset):
    box = Letterbox.fit(source, target, center=center)
    assert (box.inner, box.offset) == (inner, offset)


def test_padding_lies_beside_the_picture():
    box = Letterbox.fit((4, 2), (4, 4), center=True)
    padded = box.pad(np.full((2, 4, 3), 9, np.uint8), 114)
    assert padded[:, :, 0].tolist() == [[114] * 4, [9] * 4, [9] * 4, [114] * 4]
    corner = Letterbox.fit((4, 2), (4, 4), center=False).pad(np.full((2, 4, 3), 9, np.uint8), 0)
    assert corner[:, :, 2].tolist() == [[9] * 4, [9] * 4, [0] * 4, [0] * 4]


@given(
    source=st.tuples(SIDE, SIDE), target=st.tuples(st.integers(32, 1280), st.integers(32, 1280)), center=st.booleans()
)
def test_it_fits_and_the_whole_picture_comes_back(source, target, center):
    box = Letterbox.fit(source, target, center=center)
    left, top = box.offset
    assert 0 < box.inner[0] <= target[0] - left
    assert 0 < box.inner[1] <= target[1] - top
    assert target[0] == box.inner[0] or target[1] == box.inner[1], "one side is used wholly"
    whole = np.array([[left, top, left + box.inner[0], top + box.inner[1]]], np.float32)
    np.testing.assert_allclose(box.restore(whole), [[0, 0, *source]], rtol=1e-4)


def test_boxes_are_cut_at_the_edges():
    box = Letterbox.fit((200, 100), (100, 100), center=True)
    assert box.restore(np.array([[-20, 0, 500, 100]], np.float32)).tolist() == [[0, 0, 200, 100]]
