"""Golden inputs: what a bundle must answer before it is served. Runs on any backend; knows no HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from numpy.typing import NDArray

from hedgerow.registry.manifest import GoldenTensor, GoldenTensors, GoldenText, Manifest
from hedgerow.server import tensors
from hedgerow.server.backends import TensorSpec, TextRequest

if TYPE_CHECKING:
    from hedgerow.server.backends import Arrays, Backend, StoppableBackend, TensorBackend, TextBackend

WITHIN_S: Final = 120.0
"""For one golden input of tensors: a graph with a loop that never ends must not hold its device up for ever."""


def failures(manifest: Manifest, backend: Backend) -> list[str]:
    """Put every golden input to ``backend``; a sentence for each wrong answer."""
    return [text for golden in manifest.golden for text in _try(golden, backend)]


def _try(golden: GoldenText | GoldenTensors, backend: Backend) -> Iterable[str]:
    if isinstance(golden, GoldenText):
        if not hasattr(backend, "begin"):
            yield "the golden input is a conversation, and this model takes tensors"
        elif (wrong := _text(golden, cast("TextBackend", backend))) is not None:
            yield wrong
    elif not hasattr(backend, "infer"):
        yield "the golden input is tensors, and this model takes a conversation"
    else:
        yield from _tensors(golden, cast("TensorBackend", backend))


def _text(golden: GoldenText, backend: TextBackend) -> str | None:
    if golden.adapter is not None and golden.adapter not in getattr(backend, "adapters", ()):
        return f"the golden input is for adapter {golden.adapter!r}, which this model has not loaded"
    messages = [{"role": each.role, "content": each.content} for each in golden.messages]
    asked = TextRequest(messages=messages, max_tokens=golden.max_tokens, temperature=0, adapter=golden.adapter)
    decoding = backend.begin(asked)
    pieces: list[str] = []
    try:
        while not decoding.read():
            pass
        while len(pieces) < golden.max_tokens and (text := decoding.step()) is not None:
            pieces.append(text)
    finally:
        decoding.close()
    got, want = "".join(pieces).strip(), golden.expect.strip()
    fits = {"exact": got == want, "prefix": got.startswith(want), "contains": want in got}[golden.match]
    return None if fits else f"asked {golden.messages[-1].content!r}, it said {got!r}; wanted ({golden.match}) {want!r}"


def _tensors(golden: GoldenTensors, backend: TensorBackend) -> Iterable[str]:
    inputs = {each.name: _array(each, backend.inputs) for each in golden.inputs}
    outputs = _infer(backend, inputs, [each.name for each in golden.outputs])
    for want in golden.outputs:
        got = np.asarray(outputs[want.name])
        if got.shape != want.shape:
            yield f"output {want.name} has shape {got.shape}, not {want.shape}"
        elif not _close(got, _array(want, backend.outputs), golden):
            yield f"output {want.name} differs from the golden one (atol {golden.atol:g}, rtol {golden.rtol:g})"


def _infer(backend: TensorBackend, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
    """The outputs, or the runtime's error after ``WITHIN_S`` where the backend can be stopped."""
    if not hasattr(backend, "begin_run"):
        return backend.infer(inputs, outputs)
    stoppable = cast("StoppableBackend", backend)
    run = stoppable.begin_run()
    clock = threading.Timer(WITHIN_S, lambda: setattr(run, "terminate", True))
    clock.daemon = True
    clock.start()
    try:
        return stoppable.infer(inputs, outputs, run)
    finally:
        clock.cancel()


def _array(tensor: GoldenTensor, specs: Sequence[TensorSpec]) -> NDArray[np.generic]:
    datatype = next((spec.datatype for spec in specs if spec.name == tensor.name), "FP32")
    return tensors.from_values(tensor.data, datatype, tensor.shape, name=tensor.name)


def _close(got: NDArray[np.generic], want: NDArray[np.generic], golden: GoldenTensors) -> bool:
    if got.dtype.kind in "OSUb":
        return bool(np.array_equal(got, want))
    # In double, so that the bound itself is not rounded.
    return bool(np.allclose(got.astype(np.float64), want.astype(np.float64), atol=golden.atol, rtol=golden.rtol))
