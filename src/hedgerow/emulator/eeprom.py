"""Bootloader images for emulated boards: the layout of the real ones, and nothing of Raspberry Pi's code in them.

Tools find in an image what they find in a real one: ``BUILD_TIMESTAMP=``, ``VERSION:`` and ``MFG_VER:`` as text, and
``bootconf.txt`` as a section that can be replaced (facts §2.6; ``guest/eeprom/rpi-eeprom-config`` reads the layout).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from datetime import UTC, datetime

SIZE = 2 * 1024 * 1024  # of BCM2712
_SECTOR = 4096  # a modifiable file has a sector of its own; the last one is the bootloader's
_MAGIC, _FILE_MAGIC = 0x55AAF00F, 0x55AAF11F
_NAME = b"bootconf.txt"

# Image date → the real build's timestamp, where it is known (facts §2.6, §9, a field capture of 2026-05-26).
_BUILDS: Mapping[str, int] = {
    "2024-06-05": 1717602109,
    "2025-03-10": 1741626637,
    "2025-05-08": 1746713597,
    "2026-05-26": 1779807685,
}
FACTORY_CONFIG = "[all]\nBOOT_UART=1\nPOWER_OFF_ON_HALT=0\nBOOT_ORDER=0xf461\n"


def build_timestamp(date: str) -> int:
    """Seconds since the epoch of the image that is named after ``date``; noon where the real one is not known."""
    known = _BUILDS.get(date)
    return (
        known if known is not None else int(datetime.fromisoformat(f"{date}T12:00:00").replace(tzinfo=UTC).timestamp())
    )


def released(date: str) -> bytes:
    """The image as it was released: those before May 2026 say no manufacturing version."""
    return image(date, mfg_version=1 if date >= "2026-05" else None)


def image(date: str, *, mfg_version: int | None = None, config: str = FACTORY_CONFIG) -> bytes:
    """The image ``pieeprom-<date>.bin`` with a configuration of one's own."""
    timestamp = build_timestamp(date)
    commit = hashlib.sha256(date.encode()).hexdigest()[:8]  # plainly none of theirs
    told = [f"BUILD_TIMESTAMP={timestamp}", f"VERSION:{commit}", f"DATE: {date.replace('-', '/')}"]
    told += [] if mfg_version is None else [f"MFG_VER: {mfg_version}"]
    code = b"\0".join([b"stand-in of a bootloader: no code", *(line.encode() for line in told), b""])
    data = bytearray(b"\xff" * SIZE)
    struct.pack_into(">LL", data, 0, _MAGIC, _SECTOR - 8)
    data[8:_SECTOR] = code.ljust(_SECTOR - 8, b"\0")
    content = config.encode()
    struct.pack_into(">LL", data, _SECTOR, _FILE_MAGIC, len(_NAME) + 4 + len(content))
    data[_SECTOR + 8 : _SECTOR + 24] = _NAME + b"\0" * 4
    data[_SECTOR + 24 : _SECTOR + 24 + len(content)] = content
    return bytes(data)
