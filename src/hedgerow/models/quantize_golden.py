"""Golden answers of a quantized model: asked of itself, with tolerances that its own steps give.

A float model's outputs move by rounding in the last bit between processors. A model of int8 activations moves in
steps: where a value lies between two of them, another kernel takes the other one, and the next layers carry that on.
A quantized model's answers are therefore held to two steps of its output's range (2 / 255 of it), or to what the float
model was held to, if that is more. Text needs no such figure: golden text ends where a step could tip it
(``models.golden``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import PublisherError, UsageError
from hedgerow.models import golden
from hedgerow.models.golden import Question
from hedgerow.registry.manifest import GoldenTensor, GoldenTensors, GoldenText

Golden = GoldenText | GoldenTensors
STEPS: Final = 2 / 255


def ask_again(model: Path, questions: Sequence[Golden], *, quantized: bool) -> tuple[Golden, ...]:
    """Put a bundle's golden questions to another build of its model, the file ``model``, and keep what that answers.

    Raises:
        UsageError: there is no question.
        PublisherError: an answer is not finite, or empty: this build is broken.
    """
    if not questions:
        raise UsageError("the bundle has no golden input", next_step="import the model again: hedgerow model import")
    texts = tuple(
        Question(each.messages[-1].content, max_tokens=each.max_tokens)
        for each in questions
        if isinstance(each, GoldenText) and len(each.messages) == 1
    )
    found: list[Golden] = [*golden.record(model.parent, texts)] if texts else []
    tensors = [each for each in questions if isinstance(each, GoldenTensors)]
    if tensors:
        found += _tensors(model, tensors, quantized=quantized)
    if not found:
        raise UsageError(
            "the bundle's golden conversations have several messages; quantize can ask single questions only",
            next_step="put a golden question of one message into the bundle",
        )
    return tuple(found)


def _tensors(model: Path, questions: Sequence[GoldenTensors], *, quantized: bool) -> list[GoldenTensors]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    types = {each.name: NUMPY_TYPES.get(each.type, np.float32) for each in session.get_inputs()}
    found = []
    for question in questions:
        feeds = {each.name: np.array(each.data, types[each.name]).reshape(each.shape) for each in question.inputs}
        names = [each.name for each in question.outputs]
        outputs = [np.asarray(each) for each in session.run(names, feeds)]
        for name, output in zip(names, outputs, strict=True):
            if output.dtype.kind == "f" and not np.isfinite(output).all():
                raise PublisherError(
                    f"output {name!r} holds NaN or infinity",
                    where=str(model),
                    next_step="try another scheme, or calibrate with inputs nearer to real ones",
                )
        atol = max([question.atol, *(STEPS * _range(each) for each in outputs)]) if quantized else question.atol
        answers = tuple(_golden_tensor(name, output) for name, output in zip(names, outputs, strict=True))
        found.append(GoldenTensors(question.inputs, answers, atol=atol, rtol=question.rtol))
    return found


# onnxruntime's names of the types that a golden input may have.
NUMPY_TYPES: Final[dict[str, Any]] = {
    "tensor(bool)": np.bool_,
    "tensor(double)": np.float64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(uint8)": np.uint8,
}


def _range(values: NDArray[Any]) -> float:
    return float(values.max() - values.min()) if values.dtype.kind == "f" and values.size else 0.0


def _golden_tensor(name: str, values: NDArray[Any]) -> GoldenTensor:
    return GoldenTensor(name, tuple(values.shape), tuple(values.ravel().tolist()))
