"""From a picture to detections: letterbox, the model, its family's decoder, non-maximum suppression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from hedgerow.server import tensors
from hedgerow.vision.client import Answer, Metadata, Refused, Spec
from hedgerow.vision.config import Model
from hedgerow.vision.decode import HABITS, UnexpectedOutput, decode
from hedgerow.vision.letterbox import Letterbox, Size
from hedgerow.vision.nms import suppress

if TYPE_CHECKING:
    from av import VideoFrame

_COLOURS = 3
_RANK = 4
_INTEGER = "UINT8"
_FLOATS = frozenset({"FP16", "FP32", "FP64"})


@dataclass(frozen=True)
class Detection:
    """``box`` is x1, y1, x2, y2 in the picture's own pixels."""

    label: str
    confidence: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Result:
    """A frame's detections, the surest first, and the version that found them."""

    version: str
    detections: tuple[Detection, ...]


class Asked(Protocol):
    """Who answers for the model; ``hedgerow.vision.client.ModelClient``."""

    def metadata(self) -> Metadata: ...
    def infer(self, name: str, tensor: NDArray[np.generic]) -> Answer: ...


class Detector:
    """One camera's way through the model. What the model takes is asked again when it answers in another version."""

    def __init__(self, model: Model, client: Asked) -> None:
        self._model = model
        self._client = client
        self._habit = HABITS[model.decoder]
        self._input: ModelInput | None = None
        self._version: str | None = None

    def detect(self, image: VideoFrame) -> Result:
        """The detections of a picture.

        Raises:
            Unavailable: worth another try, with another frame.
            Refused: the server will not, or the model is not what the configuration says.
        """
        given = self._input = self._input or ModelInput.of(self._client.metadata(), self._model)
        align = self._model.preprocess.align or self._habit.align
        box = Letterbox.fit((image.width, image.height), given.size, center=align == "center")
        try:
            answer = self._client.infer(given.name, self._tensor(image, box, given))
        except Refused:
            self._input = None  # another version may be in service now, which takes another size
            raise
        if self._version not in {None, answer.version}:
            self._input = None
        self._version = answer.version
        return Result(answer.version, self._detections(answer.outputs, box))

    def _tensor(self, image: VideoFrame, box: Letterbox, given: ModelInput) -> NDArray[np.generic]:
        order = self._model.preprocess.order or self._habit.order
        scaled = image.reformat(*box.inner, format=f"{order}24", interpolation=Interpolation.BILINEAR)
        pixels = np.asarray(scaled.to_ndarray(), np.uint8)
        return given.tensor(box.pad(pixels, self._model.preprocess.pad), self._model, self._habit.divide)

    def _detections(self, outputs: Mapping[str, NDArray[np.generic]], box: Letterbox) -> tuple[Detection, ...]:
        model = self._model
        try:
            found = decode(model.decoder, outputs, box.target, confidence=model.confidence)
        except UnexpectedOutput as error:
            raise Refused(str(error)) from error
        kept = suppress(found.boxes, found.scores, found.classes, overlap=model.overlap, most=model.most)
        boxes = box.restore(found.boxes[kept])
        return tuple(
            Detection(self._label(int(each)), float(score), (float(x1), float(y1), float(x2), float(y2)))
            for each, score, (x1, y1, x2, y2) in zip(found.classes[kept], found.scores[kept], boxes, strict=True)
        )

    def _label(self, number: int) -> str:
        labels = self._model.labels
        if not labels:
            return str(number)
        if number >= len(labels):
            raise Refused(
                f"the model found class {number}; model.labels has {len(labels)} names: is model.decoder right?"
            )
        return labels[number]


@dataclass(frozen=True)
class ModelInput:
    """The one picture that a model takes; ``planar``: colours before rows and columns."""

    name: str
    datatype: str
    size: Size
    planar: bool

    @classmethod
    def of(cls, metadata: Metadata, model: Model) -> ModelInput:
        """Read it from the server's metadata.

        Raises:
            Refused: it takes no picture, or leaves its size free and the configuration does so, too.
        """
        if len(metadata.inputs) != 1:
            raise Refused(f"model '{model.name}' takes {len(metadata.inputs)} tensors; a detector takes one picture")
        spec = metadata.inputs[0]
        if spec.datatype != _INTEGER and spec.datatype not in _FLOATS:
            raise Refused(f"input '{spec.name}' is {spec.datatype}; pictures are UINT8 or a float")
        planar, sides = _layout(spec)
        if -1 in sides:
            if model.preprocess.size is None:
                raise Refused(f"input '{spec.name}' leaves its size free: write model.preprocess.size")
            return cls(spec.name, spec.datatype, model.preprocess.size, planar)
        return cls(spec.name, spec.datatype, (sides[1], sides[0]), planar)

    def tensor(self, picture: NDArray[np.uint8], model: Model, divide: float) -> NDArray[np.generic]:
        """A picture (rows, columns, colours) as the model takes it, a batch of one."""
        values: NDArray[np.generic] = picture
        if self.datatype != _INTEGER:
            wanted = model.preprocess
            mean, std = (np.array(each, np.float32) for each in (wanted.mean, wanted.std))
            scaled = (picture.astype(np.float32) / np.float32(wanted.divide or divide) - mean) / std
            values = scaled.astype(tensors.dtype_of(self.datatype, name=self.name), copy=False)
        return np.ascontiguousarray(values.transpose(2, 0, 1) if self.planar else values)[None]


def _layout(spec: Spec) -> tuple[bool, tuple[int, int]]:
    """Whether colours come first, and rows and columns."""
    if len(spec.shape) == _RANK and spec.shape[0] in {-1, 1}:
        _, first, second, third = spec.shape
        if first == _COLOURS:
            return True, (second, third)
        if third == _COLOURS:
            return False, (first, second)
    raise Refused(f"input '{spec.name}' has shape {list(spec.shape)}; a picture is [1, 3, H, W] or [1, H, W, 3]")
