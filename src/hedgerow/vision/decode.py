"""A model's output as boxes, scores and classes, by the family it is of. No IO.

Sources: the ``yolov8`` layout is that of Ultralytics' ONNX export without its own NMS; ``yolox`` that of Megvii's
export without ``--decode_in_inference`` (``demo_postprocess`` in yolox/utils); ``hailo_nms`` that of HailoRT's
HAILO_NMS_BY_CLASS as ``hedgerow.server.backends.hailo`` hands it on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hedgerow.vision.letterbox import Size

_YOLOX_STRIDES = (8, 16, 32)
_BOX = 4


class UnexpectedOutput(ValueError):
    """The model is not of the family that the configuration says."""


@dataclass(frozen=True)
class Habit:
    """How a family's models are fed unless the configuration says otherwise."""

    align: Literal["center", "corner"]
    order: Literal["rgb", "bgr"]
    divide: float


HABITS = {
    "yolov8": Habit("center", "rgb", 255.0),
    "yolox": Habit("corner", "bgr", 1.0),
    "hailo_nms": Habit("center", "rgb", 255.0),
}


@dataclass(frozen=True)
class Candidates:
    """Boxes (x1, y1, x2, y2) in the input's pixels, each with its score and class."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.intp]


def decode(decoder: str, outputs: Mapping[str, NDArray[np.generic]], size: Size, *, confidence: float) -> Candidates:
    """What a model of ``decoder``'s family says of the one frame it was given, at least as sure as ``confidence``.

    Raises:
        UnexpectedOutput: it is not of that family.
    """
    if len(outputs) != 1:
        raise UnexpectedOutput(f"decoder {decoder} reads one output; the model has {', '.join(outputs)}")
    ((name, output),) = outputs.items()
    if not output.shape or output.shape[0] != 1:
        raise UnexpectedOutput(f"output '{name}' has shape {list(output.shape)}; one frame was asked for")
    found = _DECODERS[decoder](np.asarray(output[0], np.float32), size)
    # A comparison with NaN is false: what is no number is no detection.
    sure = (found.scores >= confidence) & np.isfinite(found.boxes).all(axis=1)
    return Candidates(found.boxes[sure], found.scores[sure], found.classes[sure])


def _yolov8(output: NDArray[np.float32], size: Size) -> Candidates:
    """[4 + classes, boxes]: centre, width and height in pixels; scores are probabilities."""
    del size
    if output.ndim != 2 or output.shape[0] <= _BOX:  # noqa: PLR2004 - a matrix
        raise UnexpectedOutput(f"decoder yolov8 wants [1, 4 + classes, boxes]; the model gives {[1, *output.shape]}")
    rows = output.T
    return _best(_corners(rows[:, :_BOX]), rows[:, _BOX:])


def _yolox(output: NDArray[np.float32], size: Size) -> Candidates:
    """[boxes, 5 + classes]: offsets within cells, logarithms of sizes, objectness times class probabilities."""
    cells, strides = _grid(size)
    if output.ndim != 2 or output.shape[1] <= _BOX + 1 or len(output) != len(cells):  # noqa: PLR2004 - a matrix
        raise UnexpectedOutput(
            f"decoder yolox wants [1, {len(cells)}, 5 + classes] for {size[0]} × {size[1]} pixels; "
            f"the model gives {[1, *output.shape]}"
        )
    with np.errstate(over="ignore"):  # an infinite box is dropped with what is no number
        boxes = np.hstack([(output[:, :2] + cells) * strides, np.exp(output[:, 2:_BOX]) * strides])
    return _best(_corners(boxes), output[:, _BOX : _BOX + 1] * output[:, _BOX + 1 :])


def _hailo_nms(output: NDArray[np.float32], size: Size) -> Candidates:
    """[classes, 5, boxes]: (y1, x1, y2, x2, score) as shares of the input; a score of 0 is no box."""
    if output.ndim != 3 or output.shape[1] != _BOX + 1:  # noqa: PLR2004 - classes, 5, boxes
        raise UnexpectedOutput(f"decoder hailo_nms wants [1, classes, 5, boxes]; the model gives {[1, *output.shape]}")
    rows = output.transpose(0, 2, 1).reshape(-1, _BOX + 1)
    classes = np.repeat(np.arange(output.shape[0]), output.shape[2])
    scale = np.array(size * 2, np.float32)
    return Candidates(rows[:, [1, 0, 3, 2]] * scale, rows[:, _BOX], classes)


_DECODERS: dict[str, Callable[[NDArray[np.float32], Size], Candidates]] = {
    "yolov8": _yolov8,
    "yolox": _yolox,
    "hailo_nms": _hailo_nms,
}


def _best(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> Candidates:
    """Each box as its likeliest class."""
    classes = scores.argmax(axis=1)
    return Candidates(boxes, scores[np.arange(len(scores)), classes], classes)


def _corners(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    half = boxes[:, 2:] / 2
    return np.hstack([boxes[:, :2] - half, boxes[:, :2] + half])


@functools.lru_cache(maxsize=8)
def _grid(size: Size) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """YOLOX's cells, finest first, row by row: their columns and rows, and the pixels a cell is wide."""
    cells, strides = [], []
    for stride in _YOLOX_STRIDES:
        columns, rows = np.meshgrid(np.arange(size[0] // stride), np.arange(size[1] // stride))
        cells.append(np.stack([columns, rows], axis=2).reshape(-1, 2))
        strides.append(np.full((len(cells[-1]), 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)
