"""Fit a picture into a model's input without changing its proportions, and bring boxes back. No IO."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Letterbox:
    """How a picture of size ``source`` lies in ``target``: scaled to ``inner``, its corner at ``offset``."""

    source: Size
    target: Size
    inner: Size
    offset: Size

    @classmethod
    def fit(cls, source: Size, target: Size, *, center: bool) -> Letterbox:
        """The largest ``inner`` of ``source``'s proportions, in the middle of ``target`` or at its upper left corner.

        Rounded as YOLOv8 does it (round) for the middle and YOLOX (down) for the corner.
        """
        ratio = min(target[0] / source[0], target[1] / source[1])
        # A hair above: 416/640*640 may come out as 415.99.
        width, height = (size * ratio for size in source)
        inner = (round(width), round(height)) if center else (int(width + 1e-6), int(height + 1e-6))
        inner = (max(1, inner[0]), max(1, inner[1]))
        offset = ((target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2) if center else (0, 0)
        return cls(source, target, inner, offset)

    def pad(self, scaled: NDArray[np.uint8], value: int) -> NDArray[np.uint8]:
        """``scaled`` (height, width, 3) of size ``inner`` in a picture of size ``target``."""
        padded = np.full((self.target[1], self.target[0], 3), value, np.uint8)
        left, top = self.offset
        padded[top : top + self.inner[1], left : left + self.inner[0]] = scaled
        return padded

    def restore(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes (x1, y1, x2, y2) in ``target``'s pixels as ``source``'s, cut at its edges."""
        scale = np.array([self.source[0] / self.inner[0], self.source[1] / self.inner[1]] * 2, np.float32)
        restored = (boxes - np.array(self.offset * 2, np.float32)) * scale
        edges = np.array(self.source * 2, np.float32)
        cut: NDArray[np.float32] = np.clip(restored, np.float32(0), edges)
        return cut
