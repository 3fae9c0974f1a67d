"""A request off the wire, with its large raw tensors left where they lie.

Protobuf copies a field of bytes when it parses the message and once more when Python looks at it. So those of a large
message are cut out before: what is parsed is the rest, and they are memory over the call's own bytes. Source: protobuf,
"Encoding".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from hedgerow.server.protocols.grpc import messages

# Below this, copying costs less than looking.
_LARGE: Final = 64 * 1024
_RAW: Final = messages.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
# The wire types; 3 and 4 are groups, which nobody sends: protobuf may skip those.
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_FIXED: Final = {_I64: 8, _I32: 4}
_VARINT_BYTES: Final = 10


class Request:
    """What ``messages.ModelInferRequest`` says, by the same names."""

    __slots__ = ("id", "inputs", "model_name", "model_version", "outputs", "parameters", "raw_input_contents")

    def __init__(self, message: messages.ModelInferRequest, raw: Sequence[bytes | memoryview]) -> None:
        self.model_name = message.model_name
        self.model_version = message.model_version
        self.id = message.id
        self.parameters = message.parameters
        self.inputs = message.inputs
        self.outputs = message.outputs
        self.raw_input_contents = raw


AnyRequest = Request | messages.ModelInferRequest


def parsed(data: bytes) -> Request:
    """The request in ``data``.

    Raises:
        DecodeError: there is none.
    """
    apart = cut(data) if len(data) >= _LARGE else None
    if apart is None:
        message = messages.ModelInferRequest.FromString(data)
        return Request(message, message.raw_input_contents)
    rest, raw = apart
    message = messages.ModelInferRequest.FromString(rest)
    return Request(message, raw)


def cut(data: bytes) -> tuple[bytes, list[memoryview]] | None:
    """The message without its raw tensors, and these; None where it is left to protobuf to say what it is."""
    view = memoryview(data)
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    place = begun = 0
    try:
        while place < len(data):
            field = place
            tag, place = _varint(data, place)
            kind = tag & 7
            if kind == _LEN:
                size, place = _varint(data, place)
            elif kind == _VARINT:
                (_, place), size = _varint(data, place), 0
            else:
                size = _FIXED[kind]
            if place + size > len(data):
                return None
            if kind == _LEN and tag >> 3 == _RAW:
                rest.append(view[begun:field])
                raw.append(view[place : place + size])
                begun = place + size
            place += size
    except (IndexError, KeyError, DecodeError):
        return None
    rest.append(view[begun:])
    return b"".join(rest), raw


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number at ``place``, and where the next thing begins."""
    value = data[place]
    if value < 0x80:  # noqa: PLR2004 - the bit that says that more follow
        return value, place + 1
    value &= 0x7F
    for count in range(1, _VARINT_BYTES):
        byte = data[place + count]
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:  # noqa: PLR2004 - see above
            return value, place + count + 1
    raise DecodeError("a number is too long")
