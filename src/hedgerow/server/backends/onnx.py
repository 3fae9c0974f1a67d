"""ONNX Runtime: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from hedgerow.server.backends import TensorSpec
from hedgerow.server.errors import BadRequest

if TYPE_CHECKING:
    from hedgerow.server.backends import Arrays

# ONNX Runtime's type names → Open Inference Protocol v2 (KServe, "Tensor Data Types").
DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxBackend:
    """One session; ``InferenceSession.run`` may be called from several threads."""

    platform = "onnx_onnxv1"

    def __init__(self, path: Path, *, threads: int) -> None:
        ort.disable_telemetry_events()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads fight with whatever else runs on these cores (bench/README.md has the figures).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(_spec(each) for each in self._session.get_inputs())
        self.outputs = tuple(_spec(each) for each in self._session.get_outputs())

    def infer(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        names = list(outputs) or [each.name for each in self.outputs]
        feeds = {name: _as_runtime_wants(array) for name, array in inputs.items()}
        try:
            results = self._session.run(names, feeds)
        except Exception as error:  # an invalid shape or type is the caller's fault; the runtime has no class for it
            raise BadRequest(f"the model refuses these inputs: {error}") from error
        return dict(zip(names, results, strict=True))

    def close(self) -> None:
        del self._session


def _spec(node: ort.NodeArg) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, DATATYPES.get(node.type, node.type), shape)


def _as_runtime_wants(array: NDArray[np.generic]) -> NDArray[np.generic]:
    # Bytes arrive as an object array; the runtime wants str there.
    if array.dtype == np.object_:
        return np.array([_text(item) for item in array.ravel()], dtype=np.object_).reshape(array.shape)
    return array


def _text(item: object) -> str:
    return item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)
