"""Tensors in gRPC's messages: raw bytes beside the tensors, or typed values in them.

Source: KServe, "Open Inference Protocol" (gRPC), "Tensor Data". FP16 and BF16 have no typed form. Where any tensor of a
message is raw, all are, in the tensors' order.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hedgerow.server import tensors
from hedgerow.server.errors import BadRequest
from hedgerow.server.protocols.grpc import messages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hedgerow.server.backends import Arrays
    from hedgerow.server.protocols.grpc import wire

    Input = messages.ModelInferRequest.InferInputTensor

_LENGTH: Final = struct.Struct("<I")
TYPED: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Data type → the field of ``InferTensorContents`` that holds its values."""


def read(request: wire.AnyRequest) -> dict[str, NDArray[np.generic]]:
    """The inputs' arrays by name; raw ones lie over the message's bytes without copying (except BYTES).

    Raises:
        BadRequest: naming the input.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs", field="raw_input_contents"
        )
    arrays: dict[str, NDArray[np.generic]] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in arrays:
            raise BadRequest(f"input '{tensor.name}' stands twice", field=tensor.name)
        for name in tensor.parameters:
            raise BadRequest(f"input '{tensor.name}' has parameter '{name}', which is not supported", field=name)
        shape = tuple(tensor.shape)
        if not raw:
            arrays[tensor.name] = _from_typed(tensor, shape)
            continue
        if _filled(tensor):
            raise BadRequest(f"input '{tensor.name}' has contents beside raw_input_contents", field=tensor.name)
        arrays[tensor.name] = tensors.from_bytes(memoryview(raw[index]), tensor.datatype, shape, name=tensor.name)
    return arrays


def is_typed(request: wire.AnyRequest) -> bool:
    """Whether the caller sent typed values, and so wants the answer that way."""
    return not request.raw_input_contents and any(_filled(tensor) for tensor in request.inputs)


def write(answer: messages.ModelInferResponse, outputs: Arrays, *, typed: bool) -> None:
    """Put ``outputs`` into ``answer``; as typed values only if every data type has them."""
    datatypes = {name: tensors.datatype_of(array) for name, array in outputs.items()}
    typed = typed and all(datatype in TYPED for datatype in datatypes.values())
    for name, array in outputs.items():
        tensor = answer.outputs.add(name=name, datatype=datatypes[name], shape=array.shape)
        if typed:
            getattr(tensor.contents, TYPED[datatypes[name]]).extend(_values(array, datatypes[name]))
        else:
            answer.raw_output_contents.append(tensors.to_bytes(array))


def _from_typed(tensor: Input, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """An array of the one field that the data type has."""
    name, datatype = tensor.name, tensor.datatype
    dtype = tensors.dtype_of(datatype, name=name)
    wanted = TYPED.get(datatype)
    for field in _filled(tensor):
        if field != wanted:
            raise BadRequest(f"input '{name}' is {datatype}, and its values are in {field}", field=name)
    if wanted is None:
        if 0 not in shape:
            raise BadRequest(f"input '{name}' is {datatype}, which is sent in raw_input_contents alone", field=name)
        return tensors.from_bytes(memoryview(b""), datatype, shape, name=name)
    values = getattr(tensor.contents, wanted)
    if len(values) != math.prod(shape):
        raise BadRequest(
            f"input '{name}' has {len(values)} values; shape {list(shape)} wants {math.prod(shape)}", field=name
        )
    if datatype == "BYTES":
        raw = b"".join(_LENGTH.pack(len(item)) + item for item in values)
        return tensors.from_bytes(memoryview(raw), datatype, shape, name=name)
    try:
        array = np.fromiter(values, dtype, count=len(values))
    except OverflowError as error:
        raise BadRequest(f"input '{name}' does not hold {datatype} values: {error}", field=name) from error
    return tensors.from_bytes(array.view(np.uint8).data, datatype, shape, name=name)


def _filled(tensor: Input) -> list[str]:
    return [field.name for field, _ in tensor.contents.ListFields()] if tensor.HasField("contents") else []


def _values(array: NDArray[np.generic], datatype: str) -> list[Any]:
    values: list[Any] = array.reshape(-1).tolist()
    return (
        [each if isinstance(each, bytes) else str(each).encode() for each in values] if datatype == "BYTES" else values
    )
