"""ONNX Runtime: arrays in, arrays out."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from hedgerow.server.backends import TensorSpec, providers, the_one
from hedgerow.server.errors import BadRequest
from hedgerow.server.tensors import BF16

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hedgerow.server.backends import Arrays, RunHandle
    from hedgerow.server.computing import Provider

log = logging.getLogger("hedgerow.server")
_BF16 = "tensor(bfloat16)"
_ONNX_BF16 = 16  # onnx.TensorProto.BFLOAT16
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
    _BF16: "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxBackend:
    """One session; ``InferenceSession.run`` may be called from several threads.

    ``providers`` are those that the session has, best first; a node is computed by the first that can.
    """

    platform = "onnx_onnxv1"

    def __init__(self, path: Path, *, threads: int, wanted: Sequence[Provider] = ()) -> None:
        ort.disable_telemetry_events()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads fight with whatever else runs on these cores (bench/README.md has the figures).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = _session(path, options, providers.choose(wanted))
        self.providers = tuple(self._session.get_providers())
        # On the CPU a run's own threads only help the one that calls, which takes its part of whatever there is to do;
        # another provider may have the caller wait for a device.
        self.inline = self.providers == (providers.CPU,)
        self.inputs = tuple(_spec(each) for each in self._session.get_inputs())
        self.outputs = tuple(_spec(each) for each in self._session.get_outputs())
        # What ``InferenceSession.run`` calls behind checks of its own, which take longer than a small model's run:
        # names, types and shapes have been held to the model's by then.
        self._run = self._session._sess.run  # noqa: SLF001 - see above
        self._bf16 = any(each.datatype == "BF16" for each in (*self.inputs, *self.outputs))

    def begin_run(self) -> ort.RunOptions:
        """What one run can be stopped by: the runtime looks at it between two nodes, and in loops."""
        return ort.RunOptions()

    def infer(self, inputs: Arrays, outputs: Sequence[str], run: RunHandle | None = None) -> Arrays:
        names = list(outputs) or [each.name for each in self.outputs]
        try:
            if self._bf16:
                return self._infer_values(inputs, names, run)
            feeds = {name: _as_runtime_wants(array) for name, array in inputs.items()}
            return dict(zip(names, self._run(names, feeds, run), strict=True))
        except Exception as error:  # a value that the graph cannot take is the caller's fault; there is no class for it
            raise BadRequest(f"the model refuses these inputs: {error}") from error

    def _infer_values(self, inputs: Arrays, names: list[str], run: RunHandle | None) -> Arrays:
        """The same through ``OrtValue``: NumPy has no bfloat16."""
        feeds = {name: _value(array) for name, array in inputs.items()}
        values = self._session.run_with_ort_values(names, feeds, run)
        return {
            name: _bits(value) if value.data_type() == _BF16 else value.numpy()
            for name, value in zip(names, values, strict=True)
        }

    def close(self) -> None:
        del self._session, self._run


def open_folder(folder: Path, *, threads: int, wanted: Sequence[Provider] = ()) -> OnnxBackend:
    """The folder's one graph, on the first of the ``wanted`` execution providers that there are."""
    path = the_one(folder, ".onnx")
    if path is None:
        raise FileNotFoundError(f"{folder} holds no single .onnx file")
    return OnnxBackend(path, threads=threads, wanted=wanted)


def _session(path: Path, options: ort.SessionOptions, chosen: Sequence[Provider]) -> ort.InferenceSession:
    """On the ``chosen`` providers; on the CPU alone where these cannot be had: their library or device is missing.

    Raises whatever onnxruntime does of a model that the CPU cannot compute either.
    """
    pairs = [(each.name, each.options) for each in chosen]
    if len(pairs) > 1:
        try:
            session = ort.InferenceSession(str(path), options, providers=pairs)
        except Exception as error:  # noqa: BLE001 - providers raise their own classes
            log.warning("%s: not on %s, so on the CPU: %s", path, chosen[0].name, error)
        else:
            log.info("%s: on %s", path, ", ".join(session.get_providers()))
            return session
    return ort.InferenceSession(str(path), options, providers=[pairs[-1]])


def _spec(node: ort.NodeArg) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, DATATYPES.get(node.type, node.type), shape)


def _as_runtime_wants(array: NDArray[np.generic]) -> NDArray[np.generic]:
    # Bytes arrive as an object array; the runtime wants str there.
    if array.dtype == np.object_:
        return np.array([_text(item) for item in array.ravel()], dtype=np.object_).reshape(array.shape)
    return array


def _value(array: NDArray[np.generic]) -> ort.OrtValue:
    if array.dtype != BF16:
        return ort.OrtValue.ortvalue_from_numpy(_as_runtime_wants(array))
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view("<u2"), _ONNX_BF16)


def _bits(value: ort.OrtValue) -> NDArray[np.generic]:
    """A copy of the tensor's memory, which the runtime hands out by address alone."""
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, dtype=BF16).reshape(value.shape())


def _text(item: object) -> str:
    return item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)
