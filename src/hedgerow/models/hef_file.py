"""Read from a HEF what HailoRT's public source says how to read: for which chip it is, and which compiler made it.

Twelve bytes, big endian: magic, format version, size of a protobuf message; then a part that depends on the version
(``hef__header_t`` in ``libhailort/src/hef/hef_internal.hpp``), then the message (``ProtoHEFHef`` in
``libhailort/hef.proto``), whose first field is a header with ``hw_arch`` (1), ``timestamp`` (2) and ``sdk_version``
(3). Both files are MIT-licensed at https://github.com/hailo-ai/hailort.

What a HEF does *not* say is which HailoRT runs it: the compiler's version is no range. So that is asked for. No HEF was
at hand to try this on; the message is therefore walked to its last byte, and a file that does not add up is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

from hedgerow.errors import UsageError

MAGIC: Final = 0x01484546  # the bytes 01 "HEF"
# Bytes between the common header and the message, by format version.
_DISTINCT: Final = {0: 20, 1: 16, 2: 32, 3: 44}
_MAX_MESSAGE: Final = 512 * 1024 * 1024
_HEADER_FIELD: Final = 1
_ARCHITECTURE, _COMPILER = 1, 3
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_WIDEST_VARINT: Final = 10
Architecture = Literal["hailo8", "hailo8l", "hailo10h", "hailo15h", "hailo15l", "hailo15m"]
# ProtoHEFHwArch. Numbers of chips that are on no HAT, or that the public source does not name, are not here.
ARCHITECTURES: Final[dict[int, Architecture]] = {
    0: "hailo8", 3: "hailo8l", 4: "hailo15m", 5: "hailo10h", 103: "hailo15h",
}  # fmt: skip


@dataclass(frozen=True)
class HefFacts:
    """``architecture`` None: a chip that is not known here, ``number`` is what the file has for it."""

    format: int
    number: int
    architecture: Architecture | None
    compiler: str | None


def read(path: Path) -> HefFacts:
    """Read a HEF's header.

    Raises:
        UsageError: missing, no HEF, truncated, or of a format version that is not known.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError("no file here", where=str(path), next_step="give the path of a .hef file") from error


def _read(file: BinaryIO, path: Path) -> HefFacts:
    start = file.read(12)
    if len(start) < 12 or int.from_bytes(start[:4]) != MAGIC:  # noqa: PLR2004 -- the header's own size
        raise UsageError(
            f"not a HEF: it starts with {start[:4]!r}", where=str(path), next_step="give the path of a .hef file"
        )
    version, size = struct.unpack(">II", start[4:])
    if version not in _DISTINCT:
        raise UsageError(
            f"the HEF has format version {version}; {', '.join(map(str, _DISTINCT))} are known",
            where=str(path),
            next_step="compile it with a Dataflow Compiler that this Hedgerow knows, or update Hedgerow",
        )
    if size > _MAX_MESSAGE:
        raise _damaged(path, f"it claims a message of {size:,} bytes")
    file.seek(_DISTINCT[version], 1)
    message = memoryview(file.read(size))
    if len(message) < size:
        raise _damaged(path, f"it has {len(message):,} of {size:,} bytes of its message")
    number, compiler = 0, None  # proto3 leaves out what is zero
    try:
        # To the last byte: that the fields add up is what shows that this is what it seems.
        headers = [value for field, value in _fields(message) if field == _HEADER_FIELD]
        if len(headers) != 1 or not isinstance(headers[0], memoryview):
            raise _damaged(path, "its message has no header")
        for field, value in _fields(headers[0]):
            if field == _ARCHITECTURE and isinstance(value, int):
                number = value
            elif field == _COMPILER and isinstance(value, memoryview):
                compiler = bytes(value).decode() or None
    except (ValueError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from error
    return HefFacts(version, number, ARCHITECTURES.get(number), compiler)


def _damaged(path: Path, why: str) -> UsageError:
    return UsageError(f"the HEF is truncated or damaged: {why}", where=str(path), next_step="fetch or compile it again")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protobuf message (https://protobuf.dev/programming-guides/encoding), its bytes used up exactly.

    Raises:
        ValueError: they are not.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, kind = tag >> 3, tag & 7
        value: int | memoryview
        if kind == _VARINT:
            value, at = _varint(message, at)
        elif kind in {_FIXED64, _FIXED32, _LENGTH}:
            length, at = _varint(message, at) if kind == _LENGTH else (8 if kind == _FIXED64 else 4, at)
            value = message[at : at + length]
            at += length
        else:
            raise ValueError(f"a field of kind {kind}, which protobuf 3 does not have")
        if at > len(message) or field == 0:
            raise ValueError("a field ends after the message")
        yield field, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for index in range(_WIDEST_VARINT):
        if at + index >= len(message):
            break
        byte = message[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:  # noqa: PLR2004 -- the highest bit: another byte follows
            return value, at + index + 1
    raise ValueError("a number does not end")
