"""An inference in the protocol's REST form: JSON, and tensors as bytes behind it where the caller wants them so.

Source: KServe, "Open Inference Protocol" (REST); binary tensors: Triton, "Binary Tensor Data Extension".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hedgerow.server import tensors
from hedgerow.server.errors import BadRequest, TooLarge
from hedgerow.server.inference import InferRequest, InferResponse, Wanted
from hedgerow.server.protocols import bodies
from hedgerow.server.protocols.http import JSON, decode
from hedgerow.server.replying import GIVEN, REPLY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hedgerow.server.config import Limits
    from hedgerow.server.replying import Reply

HEADER_LENGTH = "inference-header-content-length"
_HEADER_LENGTH = HEADER_LENGTH.encode("ascii")
_BINARY = b"application/octet-stream"
_JSON = JSON.encode("ascii")
# More than this is turned from JSON or BYTES into tensors on a thread, so that others are answered meanwhile.
_INLINE = 256 * 1024
# Less than this is joined and sent at once.
_JOINED = 64 * 1024
_MICRO = 1e-6
# What 64 bits with a sign hold, so that arithmetic with it cannot overflow.
_Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class InputParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Of an input: the size of its bytes behind the JSON."""

    binary_data_size: int | None = None


class InputTensor(Struct, frozen=True, forbid_unknown_fields=True):
    """One input; ``data`` unless the values follow as bytes."""

    name: str
    shape: list[int]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)  # a value could not be shown in the schema


class OutputParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Of an output: whether its answer should be bytes, and whether its best classes instead of its values."""

    binary_data: bool | None = None
    classification: _Size = 0


class OutputTensor(Struct, frozen=True, forbid_unknown_fields=True):
    """One requested output."""

    name: str
    parameters: OutputParameters = OutputParameters()


class Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Of the whole request; ``timeout`` in microseconds."""

    binary_data_output: bool = False
    priority: _Size = 0
    timeout: _Size | None = None


class Body(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON part."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: Parameters = Parameters()
    outputs: list[OutputTensor] = []

    def binary(self, output: str) -> bool:
        """Whether the answer's ``output`` should be bytes."""
        for each in self.outputs:
            if each.name == output and each.parameters.binary_data is not None:
                return each.parameters.binary_data
        return self.parameters.binary_data_output


async def read(request: Request, model: str, version: str | None, limits: Limits) -> tuple[Body, InferRequest]:
    """The request's body, and what it asks for.

    Raises:
        BadRequest, TooLarge, UnsupportedCoding.
    """
    head = _header_length(bodies.heads(request).get(_HEADER_LENGTH))
    unpacked = limits.body_bytes if head is not None else limits.json_body_bytes
    data = await bodies.read(request, limit=limits.body_bytes, unpacked=unpacked, head=head)
    asked = parse(data, head, json_limit=limits.json_bytes)
    laid = slices(asked, data[len(data) if head is None else head :])
    if _cost(laid) > _INLINE:
        arrays = await asyncio.to_thread(to_arrays, laid)
    else:
        arrays = to_arrays(laid)
    timeout = asked.parameters.timeout
    return asked, InferRequest(
        model,
        arrays,
        version,
        tuple([Wanted(each.name, each.parameters.classification) for each in asked.outputs]),
        asked.id,
        asked.parameters.priority,
        timeout * _MICRO if timeout else None,
    )


def parse(data: memoryview, head: int | None, *, json_limit: int) -> Body:
    """The JSON part, whose length is ``head`` where tensors stand behind it.

    Raises:
        BadRequest: it is not what a request says.
        TooLarge: it has more than ``json_limit`` bytes; values in JSON take many times their memory.
    """
    if head is not None and head > len(data):
        raise BadRequest(f"{HEADER_LENGTH} is {head}; the body has {len(data)} bytes")
    length = len(data) if head is None else head
    if length > json_limit:
        raise TooLarge(f"the JSON has {length} bytes; {json_limit} are allowed: send large tensors as binary data")
    return decode(data[:length], Body)


def slices(asked: Body, binary: memoryview) -> list[tuple[InputTensor, memoryview | None]]:
    """Each input with its bytes of ``binary``, None where it has its values in the JSON.

    Raises:
        BadRequest: an input stands twice, or the sizes do not add up.
    """
    found: dict[str, tuple[InputTensor, memoryview | None]] = {}
    place = 0
    for tensor in asked.inputs:
        size = tensor.parameters.binary_data_size
        if tensor.name in found:
            raise BadRequest(f"input '{tensor.name}' stands twice", field=tensor.name)
        if (size is None) == (not tensor.data):
            which = "neither data nor" if size is None else "both data and"
            raise BadRequest(f"input '{tensor.name}' has {which} binary_data_size", field=tensor.name)
        if size is None:
            found[tensor.name] = tensor, None
            continue
        if size < 0 or place + size > len(binary):
            raise BadRequest(
                f"input '{tensor.name}' wants {size} bytes; {len(binary) - place} are left", field=tensor.name
            )
        found[tensor.name] = tensor, binary[place : place + size]
        place += size
    if place != len(binary):
        raise BadRequest(f"{len(binary) - place} bytes behind the last tensor belong to none")
    return list(found.values())


def to_arrays(laid: Sequence[tuple[InputTensor, memoryview | None]]) -> dict[str, NDArray[np.generic]]:
    """The inputs.

    Raises:
        BadRequest: values or bytes do not fit type and shape.
    """
    return {
        tensor.name: tensors.from_json(tensor.data, tensor.datatype, tensor.shape, name=tensor.name)
        if raw is None
        else tensors.from_bytes(raw, tensor.datatype, tensor.shape, name=tensor.name)
        for tensor, raw in laid
    }


async def answer(request: Request, asked: Body, done: InferResponse) -> ASGIApp:
    """The answer in the forms that were asked for."""
    described: list[dict[str, Any]] = []
    blobs: list[bytes | memoryview] = []
    for output, array in done.outputs.items():
        entry: dict[str, Any] = {"name": output, "datatype": tensors.datatype_of(array), "shape": list(array.shape)}
        if asked.binary(output):
            blobs.append(tensors.to_buffer(array))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = tensors.to_json(array, name=output)
        described.append(entry)
    said: dict[str, Any] = {"model_name": done.model, "model_version": done.version, "outputs": described}
    if done.id is not None:
        said["id"] = done.id
    head = msgspec.json.encode(said)
    # An output of no bytes is binary all the same: its reader looks for the header.
    headers = [(b"content-type", _BINARY if blobs else _JSON)]
    if blobs:
        headers.append((_HEADER_LENGTH, b"%d" % len(head)))
    parts = [head, *blobs]
    accepted = bodies.heads(request).get(b"accept-encoding")
    coding = None if accepted is None else bodies.coding_for(accepted.decode("latin-1"))
    if coding is not None:
        headers.append((b"content-encoding", coding.encode("ascii")))
        parts = [await bodies.compressed(parts, coding)]
    return _InParts(parts, headers)


class _InParts:
    """Parts sent one after the other, from where they lie; together where they are small."""

    __slots__ = ("_headers", "_parts")

    def __init__(self, parts: list[bytes | memoryview], headers: list[tuple[bytes, bytes]]) -> None:
        size = sum(map(len, parts))
        headers.append((b"content-length", b"%d" % size))
        self._headers = headers
        self._parts = [b"".join(parts)] if size <= _JOINED else parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        reply: Reply | None = scope.get(REPLY)
        if reply is not None and len(self._parts) == 1:
            given = (scope[GIVEN],) if GIVEN in scope else ()
            if reply((*self._headers, *given), self._parts[0]):
                return
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        *before, last = self._parts
        for part in before:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": last})


def _header_length(stated: bytes | None) -> int | None:
    if stated is None:
        return None
    text = stated.decode("latin-1")
    # As long as any body's length may be; int() itself takes far more, and other scripts' digits.
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(2**63))):
        raise BadRequest(f"{HEADER_LENGTH} is {text!r}, which is no length")
    return int(text)


def _cost(laid: Sequence[tuple[InputTensor, memoryview | None]]) -> int:
    """Bytes that are read value by value."""
    cost = 0
    for tensor, raw in laid:
        if raw is None:
            cost += len(memoryview(tensor.data))
        elif tensor.datatype == "BYTES":
            cost += len(raw)
    return cost
