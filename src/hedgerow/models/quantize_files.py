"""Read an ONNX model whole, and write it so that the same model gives the same bytes.

Weights of 1 KiB or more leave the graph for ``<name>.data`` beside it once they amount to 1 MiB: each at a page
boundary, as ``hedgerow.models.onnx_file`` writes them, so that onnxruntime maps the file instead of copying it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from hedgerow.errors import UsageError

_PAGE: Final = 4096
_EXTERNAL_FROM: Final = 1024
_EXTERNAL_TOTAL: Final = 1 << 20
# A protobuf message cannot be larger than 2 GiB; what is near that would fail late and without a reason.
MAX_BYTES: Final = (1 << 31) - (1 << 20)


def load(path: Path) -> onnx.ModelProto:
    """Read ``path`` with its external weights.

    Raises:
        UsageError: no such file, no ONNX model, weights missing, or more than 2 GiB.
    """
    try:
        total = sum(each.stat().st_size for each in files_of(path))
        if total > MAX_BYTES:
            raise UsageError(
                f"the model has {total / 1e9:.1f} GB; quantization here stops at 2 GiB, protobuf's bound",
                where=str(path),
                next_step="quantize it where it comes from, and import the result: hedgerow model import",
            )
        model = onnx.load(path)
    except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise UsageError(
            f"no readable ONNX model: {error or type(error).__name__}", where=str(path), next_step="name a .onnx file"
        ) from error
    if not model.graph.node:
        raise UsageError("this ONNX model has no nodes", where=str(path), next_step="name a whole .onnx file")
    return model


def files_of(path: Path) -> list[Path]:
    """The model's file and those of its external weights, in the order of their names.

    Raises:
        OSError, DecodeError, ValueError: the file cannot be read, or weights lie outside its folder.
    """
    model = onnx.load(path, load_external_data=False)
    names = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    folder = path.parent.resolve()
    found = [path]
    for name in sorted(names):
        data = (folder / name).resolve()
        if not data.is_relative_to(folder):
            raise ValueError(f"weights {name!r} lie outside the model's folder")
        found.append(data)
    return found


def digest(path: Path) -> str:
    """SHA-256 (hex) of the model's file followed by its external weights'."""
    hasher = hashlib.sha256()
    for each in files_of(path):
        with each.open("rb") as file:
            hasher.update(hashlib.file_digest(file, "sha256").digest())
    return hasher.hexdigest()


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model`` to ``path``; weights leave for ``<path>.data`` where they are many. ``model`` is changed."""
    for tensor in model.graph.initializer:
        if not tensor.HasField("raw_data") and tensor.data_type != TensorProto.STRING:
            # float_data, int32_data …: four bytes and more a value, and another form of the same model.
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    large = [each for each in model.graph.initializer if len(each.raw_data) >= _EXTERNAL_FROM]
    if sum(len(each.raw_data) for each in large) >= _EXTERNAL_TOTAL:
        _move_out(large, path.with_name(path.name + ".data"))
    path.write_bytes(model.SerializeToString(deterministic=True))


def _move_out(tensors: list[onnx.TensorProto], data: Path) -> None:
    with data.open("wb") as file:
        for tensor in tensors:
            file.write(b"\0" * (-file.tell() % _PAGE))
            place = {"location": data.name, "offset": file.tell(), "length": len(tensor.raw_data)}
            file.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            del tensor.external_data[:]
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            tensor.data_location = TensorProto.EXTERNAL


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all weights of the main graph, as their types have them."""
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)


def drop_unused_weights(model: onnx.ModelProto) -> None:
    """Remove initializers that no node, subgraph or output names any more."""
    used = {output.name for output in model.graph.output}
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        for node in graph.node:
            used.update(node.input)
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += list(attribute.graphs)
    kept = [each for each in model.graph.initializer if each.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def float_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The float32 initializers of the main graph by name."""
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }


def input_shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    """Shapes of the inputs that are no weights; a free dimension is its name, or an empty text."""
    weights = {each.name for each in model.graph.initializer}
    return {
        each.name: [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in each.type.tensor_type.shape.dim
        ]
        for each in model.graph.input
        if each.name not in weights
    }
