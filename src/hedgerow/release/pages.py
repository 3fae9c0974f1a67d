"""Which compiled files of wheels a kernel's page size breaks (F12): read from the files, nothing is run.

- The loader refuses a library whose segments are aligned to less than a page.
- jemalloc fixes the page size when it is built and aborts on a larger one (facts §2.4); the file does not say which
  one, so a file that holds it counts as built for 4 KiB.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from hedgerow.errors import UsageError

SMALL = 4096
_JEMALLOC = b"<jemalloc>: Unsupported system page size"
_LOAD = 1
_ELF64 = b"\x7fELF\x02\x01"  # 64 bit, little-endian: every board


def odd(path: Path) -> dict[str, int]:
    """``wheel: file`` → largest page size that it bears, of those that bear less than 64 KiB.

    ``path`` is a folder of wheels or a runtime's archive.

    Raises:
        UsageError: there are no wheels.
    """
    found: dict[str, int] = {}
    count = 0
    for wheel, data in _wheels(path):
        count += 1
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                bears = largest_page(archive.read(name)) if ".so" in name else None
                if bears is not None and bears < 16 * SMALL:
                    found[f"{wheel}: {name}"] = bears
    if not count:
        raise UsageError(
            "there are no wheels", where=str(path), next_step="hedgerow runtime build --arch aarch64 --python 3.13"
        )
    return found


def largest_page(data: bytes) -> int | None:
    """The largest page size that an ELF file bears; None where it is none."""
    if not data.startswith(_ELF64):
        return None
    if _JEMALLOC in data:
        return SMALL
    table, size, count = (
        struct.unpack_from("<Q", data, 32)[0],
        struct.unpack_from("<H", data, 54)[0],
        struct.unpack_from("<H", data, 56)[0],
    )
    aligned = [
        struct.unpack_from("<Q", data, table + number * size + 48)[0]
        for number in range(count)
        if struct.unpack_from("<I", data, table + number * size)[0] == _LOAD
    ]
    return min(aligned, default=None)


def _wheels(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in sorted(path.glob("*.whl")):
            yield file.name, file.read_bytes()
        return
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.name.endswith(".whl") else None
                if stream is not None:
                    yield member.name, stream.read()
    except (OSError, tarfile.TarError) as error:
        raise UsageError(f"this is no archive of wheels: {error}", where=str(path)) from error
