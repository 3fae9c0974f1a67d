"""What the server and a model's process say to each other: one message at a time, over a pair of sockets.

A frame is the sizes of its two parts, the message (MessagePack) and the bytes of the tensors that it names, in the form
of the protocol's binary extension (``hedgerow.server.tensors``), each from an aligned place on.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from hedgerow.server import errors, tensors
from hedgerow.server.backends import TensorSpec, TextRequest
from hedgerow.server.computing import Provider

if TYPE_CHECKING:
    from hedgerow.server.backends import Arrays

_SIZES: Final = struct.Struct("<QQ")
_ALIGNED: Final = 64
# As many buffers as one sendmsg(2) surely takes (IOV_MAX is 1,024 on Linux).
_BUFFERS: Final = 512

T = TypeVar("T")


class Tensor(Struct, frozen=True):
    """One of a frame's. ``text``: its elements are str where they were made, not bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int
    text: bool = False


class Message(Struct, frozen=True, tag=True, kw_only=True):
    """Base; ``tensors`` are those whose bytes follow."""

    tensors: tuple[Tensor, ...] = ()


class Load(Message, frozen=True):
    """The first message: load the model in ``folder``."""

    folder: str
    threads: int | None
    providers: tuple[Provider, ...]


class Loaded(Message, frozen=True):
    """Its answer: what the backend says of itself, and the bytes that the process took for it."""

    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    text: bool
    stoppable: bool
    generations: int | None
    adapters: tuple[str, ...] | None
    logprobs: bool
    memory: int


class Infer(Message, frozen=True):
    """Run the model on the tensors. ``run`` is a number by which it can be stopped, 0 where it need not."""

    outputs: tuple[str, ...]
    run: int = 0


class Stop(Message, frozen=True):
    """On the control socket: end this run."""

    run: int


class Inferred(Message, frozen=True):
    """The outputs follow."""


class Begin(Message, frozen=True):
    """Begin a generation."""

    request: TextRequest


class Begun(Message, frozen=True):
    """It has this number from now on."""

    number: int
    prompt_tokens: int


class Read(Message, frozen=True):
    """Read a part of the prompt."""

    number: int


class HasRead(Message, frozen=True):
    """``whole``: all of it."""

    whole: bool
    prompt_tokens: int


class Step(Message, frozen=True):
    """Generate one token."""

    number: int


class Stepped(Message, frozen=True):
    """As ``Decoding.step`` and its attributes."""

    text: str | None
    truncated: bool
    prompt_tokens: int
    logprob: float | None


class End(Message, frozen=True):
    """Give the generation's memory back."""

    number: int


class Ended(Message, frozen=True):
    """It has been."""


class Failure(Message, frozen=True):
    """What was raised instead, by the name of its class in ``hedgerow.server.errors``."""

    kind: str
    text: str
    field: str | None = None
    code: str | None = None
    retry_after_s: int | None = None


Asked = Infer | Begin | Read | Step | End
Answered = Inferred | Begun | HasRead | Stepped | Ended | Failure

_KINDS: Final = {
    each.__name__: each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, errors.ServingError)
}


def failure(error: Exception) -> Failure:
    """``error`` as a message; one that is none of ours, as the base of ours."""
    if not isinstance(error, errors.ServingError):
        return Failure(kind=errors.ServingError.__name__, text=f"{type(error).__name__}: {error}")
    return Failure(
        kind=type(error).__name__,
        text=error.text,
        field=error.field,
        code=getattr(error, "code", None),
        retry_after_s=getattr(error, "retry_after_s", None),
    )


def raised(said: Failure) -> errors.ServingError:
    """The error that ``said`` stands for."""
    kind = _KINDS.get(said.kind, errors.ServingError)
    if issubclass(kind, errors.Unusable):
        return kind(said.code or "load_failed", said.text)
    if issubclass(kind, errors.Overloaded):
        return kind(said.text, retry_after_s=said.retry_after_s or 1)
    return kind(said.text, field=said.field)


def described(arrays: Arrays) -> tuple[tuple[Tensor, ...], list[bytes | memoryview]]:
    """What a message says of ``arrays``, and their bytes."""
    said: list[Tensor] = []
    parts: list[bytes | memoryview] = []
    for name, array in arrays.items():
        whole = np.asarray(array)
        part = tensors.to_buffer(whole)
        text = whole.dtype.hasobject and all(isinstance(item, str) for item in whole.ravel())
        said.append(Tensor(name, tensors.datatype_of(whole), whole.shape, len(part), text))
        parts.append(part)
    return tuple(said), parts


def send(to: socket.socket, message: Message, parts: Sequence[bytes | memoryview] = ()) -> None:
    """Write a frame. Raises OSError."""
    head = msgspec.msgpack.encode(message)
    body: list[bytes | memoryview] = []
    size = 0
    for part in parts:
        body.append(part)
        gap = -len(part) % _ALIGNED
        if gap:
            body.append(bytes(gap))
        size += len(part) + gap
    left = [memoryview(each) for each in (_SIZES.pack(len(head), size) + head, *body) if len(each)]
    while left:
        sent = to.sendmsg(left[:_BUFFERS])
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if sent:
            left[0] = left[0][sent:]


def receive(source: socket.socket, kind: Any) -> tuple[Any, dict[str, np.ndarray[Any, Any]]] | None:
    """The next frame: a message of ``kind``, and arrays over its tensors' bytes; None where there will be no more.

    Raises:
        OSError: the connection broke. ValueError (also of msgspec): these bytes are no such frame.
    """
    sizes = _exactly(source, _SIZES.size)
    if sizes is None:
        return None
    head_size, body_size = _SIZES.unpack(sizes)
    head = _exactly(source, head_size)
    if head is None:
        raise ConnectionError("a message ends in its middle")
    message: Message = msgspec.msgpack.decode(head, type=kind)
    body = memoryview(b"")
    if body_size:
        body = np.empty(body_size, np.uint8).data  # aligned, and not filled with zeros first
        _fill(source, body)
    return message, _arrays(message.tensors, body)


def _arrays(said: Sequence[Tensor], body: memoryview) -> dict[str, np.ndarray[Any, Any]]:
    arrays: Mapping[str, Any] = {}
    place = 0
    found = dict(arrays)
    for each in said:
        part = body[place : place + each.size]
        array = tensors.from_bytes(part, each.datatype, each.shape, name=each.name)
        if each.text:
            texts = np.empty(array.size, dtype=np.object_)
            texts[:] = [item.decode() if isinstance(item, bytes) else item for item in array.ravel().tolist()]
            array = texts.reshape(array.shape)
        found[each.name] = array
        place += each.size + -each.size % _ALIGNED
    return found


def _exactly(source: socket.socket, size: int) -> bytearray | None:
    """So many bytes; None where there are none at all."""
    data = bytearray(size)
    got = source.recv_into(data) if size else 0
    if size and not got:
        return None
    _fill(source, memoryview(data)[got:])
    return data


def _fill(source: socket.socket, memory: memoryview) -> None:
    while memory:
        got = source.recv_into(memory)
        if not got:
            raise ConnectionError("a message ends in its middle")
        memory = memory[got:]
