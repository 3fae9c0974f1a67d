"""Non-maximum suppression: of boxes that show one thing, the surest. No IO."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Boxes looked at before any is suppressed: bounds the work that a frame of noise can cause.
MOST_CANDIDATES = 1000


def overlaps(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of ``box`` with each of ``boxes`` (x1, y1, x2, y2); of two empty ones 0."""
    upper = np.maximum(box[:2], boxes[:, :2])
    lower = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(lower - upper, 0, None), axis=1)
    union = _area(box[None])[0] + _area(boxes) - shared
    result: NDArray[np.float32] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


def suppress(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.intp],
    *,
    overlap: float,
    most: int,
) -> NDArray[np.intp]:
    """Indices of what stays, the surest first: at most ``most``.

    Greedy and class by class, as ONNX's NonMaxSuppression: a box goes where its overlap with a surer one that stays is
    above ``overlap``. Of equals the earlier is the surer.
    """
    order = np.argsort(-scores, kind="stable")[:MOST_CANDIDATES]
    kept: list[int] = []
    while order.size and len(kept) < most:
        best, others = order[0], order[1:]
        kept.append(int(best))
        same = classes[others] == classes[best]
        order = others[~(same & (overlaps(boxes[best], boxes[others]) > overlap))]
    return np.array(kept, np.intp)


def _area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    area: NDArray[np.float32] = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    return area
