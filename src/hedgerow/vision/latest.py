"""One place between a camera and a model: the newest frame, or none."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import VideoFrame

# Frames that the share of dropped ones is of.
_WINDOW = 300


@dataclass(frozen=True)
class Frame:
    """A decoded picture; ``at`` is when it was read (monotonic seconds), ``number`` counts from 1 for each camera."""

    image: VideoFrame
    at: float
    number: int


class LatestFrame:
    """A queue of one that never holds up its writer: a frame nobody took gives way to the next and counts as dropped.

    A slow model so sees fewer frames, each of them new; memory holds two pictures a camera whatever happens.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._closed = False
        # True for each frame that was dropped, False for each that was taken.
        self._fates: deque[bool] = deque(maxlen=_WINDOW)

    @property
    def drop_ratio(self) -> float:
        """Dropped of the last 300 frames; 0 before the first."""
        with self._changed:
            return sum(self._fates) / len(self._fates) if self._fates else 0.0

    def put(self, frame: Frame, *, wait: bool = False) -> bool:
        """Offer a frame; True if an older one was dropped for it. ``wait`` until that is taken instead.

        Nothing happens once it is closed.
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._frame is None or self._closed)
            if self._closed:
                return False
            dropped = self._frame is not None
            if dropped:
                self._fates.append(True)
            self._frame = frame
            self._changed.notify_all()
        return dropped

    def take(self) -> Frame | None:
        """Wait for a frame; None once it is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._closed)
            frame, self._frame = self._frame, None
            if frame is not None:
                self._fates.append(False)
            self._changed.notify_all()
        return frame

    def close(self, *, drop: bool = False) -> None:
        """No more frames will come; ``drop``: nor is the last one wanted."""
        with self._changed:
            self._closed = True
            if drop:
                self._frame = None
            self._changed.notify_all()
