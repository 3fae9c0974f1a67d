"""Run an ONNX model on the build side: its inputs and outputs, inputs made up for it, its answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from hedgerow.errors import UsageError
from hedgerow.registry.manifest import Tensor

# The wheel reports to its maker unless told not to, from the moment it is imported (docs/decisions/0005).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

Arrays = Mapping[str, NDArray[Any]]
MOST_VALUES: Final = 200_000
"""Values of golden inputs, and of a golden output, in a manifest: a picture of 224 x 224 in colour has 150,528."""
_SEED: Final = 20_240_229
# onnxruntime's names of types → numpy's, and as Open Inference Protocol v2 spells them.
TYPES: Final[dict[str, tuple[Any, str]]] = {
    "tensor(bool)": (np.bool_, "BOOL"),
    "tensor(uint8)": (np.uint8, "UINT8"),
    "tensor(uint16)": (np.uint16, "UINT16"),
    "tensor(uint32)": (np.uint32, "UINT32"),
    "tensor(uint64)": (np.uint64, "UINT64"),
    "tensor(int8)": (np.int8, "INT8"),
    "tensor(int16)": (np.int16, "INT16"),
    "tensor(int32)": (np.int32, "INT32"),
    "tensor(int64)": (np.int64, "INT64"),
    "tensor(float16)": (np.float16, "FP16"),
    "tensor(float)": (np.float32, "FP32"),
    "tensor(double)": (np.float64, "FP64"),
}


@dataclass(frozen=True)
class Session:
    """A loaded model; ``inputs`` and ``outputs`` as a manifest has them."""

    inner: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    where: str

    @classmethod
    def of(cls, model: onnx.ModelProto, path: Path) -> Session:
        """Load ``model``, which came from ``path``.

        Raises:
            UsageError: this machine's onnxruntime cannot run it; its own words are in the message.
        """
        return cls._open(model.SerializeToString(), str(path))

    @classmethod
    def of_file(cls, path: Path) -> Session:
        """Load the model at ``path`` with the weights beside it. Raises as ``of``."""
        return cls._open(path, str(path))

    @classmethod
    def _open(cls, model: bytes | Path, where: str) -> Session:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # One thread: sums are then added up in one order, whatever machine builds the bundle.
        options.intra_op_num_threads = 1
        try:
            inner = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's errors have no common base but this
            raise UsageError(
                f"onnxruntime {onnxruntime.__version__} cannot run the model: {error}",
                where=where,
                next_step="export it again, with an opset and operators that onnxruntime has",
            ) from error
        return cls(inner, _tensors(inner.get_inputs(), where), _tensors(inner.get_outputs(), where), where)

    def run(self, feeds: Arrays) -> Arrays:
        """The model's answers by name.

        Raises:
            UsageError: it cannot be run on these inputs; its own words are in the message.
        """
        names = [tensor.name for tensor in self.outputs]
        try:
            return dict(zip(names, self.inner.run(names, dict(feeds)), strict=True))
        except Exception as error:  # as above
            raise UsageError(
                f"the model cannot be run on these inputs: {error}",
                where=self.where,
                next_step="give real ones: --inputs FILE.npz with an array an input",
            ) from error


def make_up(session: Session) -> Arrays:
    """Inputs from a fixed seed: eighths between 0 and 1, bytes, zeros and ones for other whole numbers.

    Zeros and ones are what both masks and token ids may be; eighths are written exactly in four characters.
    """
    random = np.random.default_rng(_SEED)
    feeds: dict[str, NDArray[Any]] = {}
    for tensor, node in zip(session.inputs, session.inner.get_inputs(), strict=True):
        shape = tuple(1 if size < 0 else size for size in tensor.shape)
        kind = TYPES[node.type][0]
        if np.issubdtype(kind, np.floating):
            values: Any = random.integers(0, 9, shape) / 8
        elif kind is np.uint8:
            values = random.integers(0, 256, shape)
        else:
            values = random.integers(0, 2, shape)
        feeds[tensor.name] = np.asarray(values, dtype=kind)  # of shape (), a plain number came
    return feeds


def read(path: Path, session: Session) -> Arrays:
    """Read inputs from an ``.npz`` file.

    Raises:
        UsageError: no such file, or an input is missing, has another type or another shape.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, BadZipFile, AttributeError) as error:
        raise UsageError(
            f"no readable .npz file: {error}", where=str(path), next_step="write one: numpy.savez(FILE, NAME=array, …)"
        ) from error
    for tensor, node in zip(session.inputs, session.inner.get_inputs(), strict=True):
        array = found.get(tensor.name)
        kind = np.dtype(TYPES[node.type][0])
        fits = array is not None and array.dtype == kind and array.ndim == len(tensor.shape)
        if (
            array is None
            or not fits
            or any(want not in {-1, have} for want, have in zip(tensor.shape, array.shape, strict=True))
        ):
            have_text = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise UsageError(
                f"input {tensor.name!r} must be {kind}{list(tensor.shape)}, and the file has {have_text}",
                where=str(path),
                next_step="write the file again with an array for each input",
            )
    return {tensor.name: found[tensor.name] for tensor in session.inputs}


def size_of(value: onnx.ValueInfoProto) -> int:
    """Bytes of a tensor of this type; a free dimension counts once."""
    kind = value.type.tensor_type
    if not kind.elem_type or kind.elem_type == onnx.TensorProto.STRING:
        return 0
    dims = [dim.dim_value or 1 for dim in kind.shape.dim]
    return prod(dims) * int(np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).itemsize)


def _tensors(nodes: Any, where: str) -> tuple[Tensor, ...]:
    found = []
    for node in nodes:
        if node.type not in TYPES:
            raise UsageError(
                f"{node.name!r} is a {node.type}; only tensors of numbers can be imported",
                where=where,
                next_step="export the model without it",
            )
        shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
        found.append(Tensor(node.name, TYPES[node.type][1], shape))  # type: ignore[arg-type]
    return tuple(found)
