"""When an OpenPGP public key ends, read from the key itself: no gpg is needed on the controller.

Enough of RFC 9580 for that: packets in both framings, the primary key's creation time, and the key expiration time in
its self-signatures (subpacket 9). Nothing is verified: apt does that, on the host; this foresees its refusal.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator

_SIGNATURE, _PUBLIC_KEY, _SUBKEY = 2, 6, 14
# Certifications of a user id, and signatures on the key itself.
_SELF_SIGNATURES = {0x10, 0x11, 0x12, 0x13, 0x1F}
_CREATED, _KEY_EXPIRATION = 2, 9
_ARMOR = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"


def expiry(data: bytes) -> int | None:
    """Seconds since the epoch at which the first key of ``data`` ends; None where it never does.

    Raises:
        ValueError: this is no OpenPGP public key.
    """
    created: int | None = None
    newest: tuple[int, int | None] = (-1, None)
    for tag, body in _packets(_binary(data)):
        if tag == _PUBLIC_KEY:
            if created is not None:
                break  # a keyring's next key
            created = struct.unpack(">I", body[1:5])[0]
        elif tag == _SUBKEY:
            break  # signatures from here on bind subkeys
        elif tag == _SIGNATURE and created is not None:
            newest = max(newest, _self_signature(body), key=lambda one: one[0])
    if created is None:
        raise ValueError("no OpenPGP public key")
    return None if newest[1] is None else created + newest[1]


def _binary(data: bytes) -> bytes:
    if _ARMOR not in data:
        return data
    block = data.partition(_ARMOR)[2].partition(b"-----END")[0].replace(b"\r", b"")
    body = block.partition(b"\n\n")[2]
    lines = [line for line in body.split(b"\n") if line and not line.startswith(b"=")]
    try:
        return base64.b64decode(b"".join(lines), validate=True)
    except binascii.Error as error:
        raise ValueError(f"the armour is damaged: {error}") from error


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    try:
        while at < len(data):
            head = data[at]
            if not head & 0x80:
                raise ValueError("no OpenPGP packet")
            tag, size, at = _new_header(data, at) if head & 0x40 else _old_header(data, at)
            if at + size > len(data):
                raise ValueError("an OpenPGP packet is cut off")
            yield tag, data[at : at + size]
            at += size
    except (IndexError, struct.error) as error:
        raise ValueError("an OpenPGP packet is cut off") from error


def _old_header(data: bytes, at: int) -> tuple[int, int, int]:
    tag, kind = data[at] >> 2 & 0x0F, data[at] & 3
    if kind == 3:  # noqa: PLR2004 - to the end of the data
        return tag, len(data) - at - 1, at + 1
    width = 1 << kind
    return tag, int.from_bytes(data[at + 1 : at + 1 + width], "big"), at + 1 + width


def _new_header(data: bytes, at: int) -> tuple[int, int, int]:
    size, at_body = _length(data, at + 1)
    return data[at] & 0x3F, size, at_body


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length of one, two or five bytes; keys have no partial ones."""
    first = data[at]
    if first < 192:  # noqa: PLR2004 - RFC 9580, 4.2.1
        return first, at + 1
    if first < 224:  # noqa: PLR2004 - same
        return (first - 192 << 8) + data[at + 1] + 192, at + 2
    return struct.unpack(">I", data[at + 1 : at + 5])[0], at + 5


def _self_signature(body: bytes) -> tuple[int, int | None]:
    """When the signature was made and which key expiration it sets (seconds after the key's creation)."""
    if body[0] not in (4, 6) or body[1] not in _SELF_SIGNATURES:
        return -1, None
    width = 2 if body[0] == 4 else 4  # noqa: PLR2004 - version 6 has wider counts
    size = int.from_bytes(body[4 : 4 + width], "big")
    made, lasts = -1, None
    at, end = 4 + width, 4 + width + size
    while at < end:
        length, start = _length(body, at)
        kind, value = body[start] & 0x7F, body[start + 1 : start + length]
        if kind == _CREATED:
            made = struct.unpack(">I", value)[0]
        elif kind == _KEY_EXPIRATION:
            lasts = struct.unpack(">I", value)[0] or None  # 0: never
        at = start + length
    return made, lasts
