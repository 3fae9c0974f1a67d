"""Write an hour of video in which nothing moves, a frame a second, to the file that the argument names."""

from __future__ import annotations

import sys
from fractions import Fraction
from typing import Any

import av
import numpy as np

SECONDS = 3600


def main(path: str) -> None:
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        image = np.full((240, 320, 3), 90, np.uint8)
        for number in range(SECONDS):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main(sys.argv[1])
