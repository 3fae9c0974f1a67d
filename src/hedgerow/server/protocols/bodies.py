"""Bodies of requests with tensors: bounded, decompressed, and laid so that the tensors behind the JSON are aligned.

How often a tensor's bytes are copied before the model reads them, besides the kernel's copy to this process:

- never, where the body's length is known: it is read into the buffer that the model then computes from, past the HTTP
  parser (``intake``);
- a body in chunks, the part that came with the head, one that is compressed: by the parser or the decompressor first,
  and then into that buffer;
- once more where a tensor that is not the first begins at an address that its type may not have, behind others of odd
  sizes (``tensors.from_bytes``).
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from starlette.requests import ClientDisconnect, Request

from hedgerow.server.errors import BadRequest, TimedOut, TooLarge, UnsupportedCoding
from hedgerow.server.intake import FILL, IDLE_S, TOO_SLOW, allowed_s
from hedgerow.server.replying import HEADS

# A cache line; more than any kernel of the runtimes asks for.
_ALIGNMENT = 64
# What every block of malloc(3) has, where the machine's longest plain type has so many bytes: enough for any tensor's.
_ALLOCATED = 16
# Of a small body an address takes longer to ask for than its kernels could win by a better one.
_SMALL = 16 * 1024
# What is decompressed at a time, so that a small body that grows large is found out early.
_STEP = 1024 * 1024
# zlib's window bits: with gzip's head, with zlib's own (which HTTP calls deflate).
_WINDOWS = {"gzip": 31, "deflate": 15}
# Compression of less is not worth a thread.
_INLINE = 32 * 1024
# Pieces below this are joined as they come: a million of one byte each would take forty times their size.
_PIECE = 64 * 1024
_FAST = 1


def heads(request: Request) -> Mapping[bytes, bytes]:
    """The head's fields by their names in lower case, the first of several; made once for a request."""
    found: Mapping[bytes, bytes] | None = request.scope.get(HEADS)
    if found is None:
        found = request.scope[HEADS] = dict(reversed(request.scope["headers"]))
    return found


async def read(request: Request, *, limit: int, head: int | None, unpacked: int | None = None) -> memoryview:
    """The body, decompressed. ``head``: the length of the JSON, where tensors stand behind it.

    A compressed one may have ``unpacked`` bytes when it is decompressed, by default as many as one that is not.

    Raises:
        TooLarge: over ``limit`` bytes, as sent or decompressed; the rest is not read.
        BadRequest: the caller hung up before its end, or it is not compressed as it says.
        TimedOut: nothing came for a while, or all of it too slowly.
        UnsupportedCoding: compressed otherwise than by gzip or deflate.
    """
    given = heads(request)
    coding = given.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
    if coding != "identity" and coding not in _WINDOWS:
        raise UnsupportedCoding(f"content-encoding is {coding}; known: gzip, deflate, identity")
    declared = given.get(b"content-length", b"").decode("latin-1")
    size = int(declared) if declared.isdecimal() else None
    if size is not None and size > limit:
        raise TooLarge(f"the body has {declared} bytes; {limit} are allowed")
    fill = request.scope.get(FILL)
    if coding == "identity" and size is not None and fill is not None:
        buffer = _buffer(size, head or 0)
        try:
            whole = await fill(buffer)
        except TimeoutError as error:
            raise TimedOut(TOO_SLOW) from error
        if not whole:
            raise BadRequest("the connection ended before the body did")
        return buffer
    parts = await _parts(request, limit=limit)
    if coding != "identity":
        if sum(map(len, parts)) < _INLINE:
            parts = _decompressed(parts, coding, limit=unpacked or limit)
        else:
            parts = await asyncio.to_thread(_decompressed, parts, coding, limit=unpacked or limit)
    buffer = _buffer(sum(map(len, parts)), head or 0)
    place = 0
    for part in parts:
        buffer[place : place + len(part)] = part
        place += len(part)
    return buffer


def coding_for(accepted: str) -> str | None:
    """The coding of the answer: the one that is asked for alone.

    A list of several is what HTTP libraries send unasked; compressing tensors for them would cost more than it saves.
    """
    if not accepted:
        return None
    named = [each.partition(";") for each in accepted.lower().split(",") if each.strip()]
    wanted = [name.strip() for name, _, weight in named if weight.replace(" ", "") not in {"q=0", "q=0.0"}]
    return wanted[0] if len(wanted) == 1 and wanted[0] in _WINDOWS else None


async def compressed(parts: Sequence[bytes | memoryview], coding: str) -> bytes:
    """The answer in ``coding``, at the fastest level: tensors hardly shrink more at any other."""

    def work() -> bytes:
        engine = zlib.compressobj(_FAST, zlib.DEFLATED, _WINDOWS[coding])
        return b"".join([*(engine.compress(part) for part in parts), engine.flush()])

    return work() if sum(map(len, parts)) < _INLINE else await asyncio.to_thread(work)


def _buffer(size: int, head: int) -> memoryview:
    """``size`` bytes in which the one at ``head`` is aligned. Memory is taken as it is written, not before."""
    if size <= _SMALL:
        start = -head % _ALLOCATED
        return np.empty(size + _ALLOCATED, dtype=np.uint8)[start : start + size].data
    memory = np.empty(size + _ALIGNMENT, dtype=np.uint8)
    address: int = memory.__array_interface__["data"][0]  # a third of the time that memory.ctypes.data takes
    start = -(address + head) % _ALIGNMENT
    return memory[start : start + size].data


async def _parts(request: Request, *, limit: int) -> Sequence[bytes | bytearray]:
    parts: list[bytearray] = []
    size = 0
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with asyncio.timeout(IDLE_S) as idle:
            async for part in request.stream():
                size += len(part)
                idle.reschedule(min(loop.time() + IDLE_S, started + allowed_s(size)))
                if size > limit:
                    raise TooLarge(f"the body has more than {limit} bytes")
                if parts and len(parts[-1]) < _PIECE:
                    parts[-1] += part
                else:
                    parts.append(bytearray(part))
    except ClientDisconnect as error:
        raise BadRequest("the connection ended before the body did") from error
    except TimeoutError as error:
        raise TimedOut(TOO_SLOW) from error
    return parts


def _decompressed(parts: Sequence[bytes | bytearray], coding: str, *, limit: int) -> Sequence[bytes | bytearray]:
    engine = zlib.decompressobj(_WINDOWS[coding])
    found: list[bytes] = []
    size = 0
    try:
        for part in parts:
            rest: bytes | bytearray = part
            while rest and not engine.eof:
                found.append(engine.decompress(rest, _STEP))
                rest = engine.unconsumed_tail
                size += len(found[-1])
                if size > limit:
                    raise TooLarge(f"the body has more than {limit} bytes when decompressed")
            if engine.unused_data or (rest and engine.eof):
                raise BadRequest(f"bytes stand behind the end of the {coding} body")
        found.append(engine.flush())
    except zlib.error as error:
        raise BadRequest(f"the body is not {coding}: {error}") from error
    if not engine.eof:
        raise BadRequest(f"the {coding} body ends too early")
    return found
