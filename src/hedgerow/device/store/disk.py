"""Files as a store writes them: ranges verified when read, flushed in portions, and errors that name the disk."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hedgerow.errors import DeviceError

FULL = (errno.ENOSPC, errno.EDQUOT)
FATAL = (*FULL, errno.EROFS)
"""What no other way of writing gets around."""
# What may lie in memory unwritten: a flush of hundreds of megabytes at the end would hold up the server's own reads.
_PORTION = 32 << 20
# linux/fcntl.h and linux/fs.h; Python has no name for them.
_HERE, _EXCHANGE = -100, 2


@contextmanager
def naming(where: Path) -> Iterator[None]:
    """Turn what a disk refuses into an error for a person.

    Raises:
        DeviceError: full, read-only or failing.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DeviceError(
                "the disk became full; the unfinished download was removed, so that nothing else starves",
                where=str(where),
                next_step="see what takes the space: hedgerow-device cache list; then run it again",
            ) from error
        if error.errno == errno.EROFS:
            raise DeviceError(
                "the disk is read-only; nothing was changed",
                where=str(error.filename or where),
                next_step="see why in dmesg: a card that turns read-only is at its end; what is served stays",
            ) from error
        raise DeviceError(
            f"the disk fails: {error.strerror or error}",
            where=str(error.filename or where),
            next_step="see dmesg; what was there before still is, and the same command goes on",
        ) from error


def read_exactly(path: Path, offset: int, size: int, sha256: str) -> bytes | None:
    """The range if it has this SHA-256; None if it has not, or is not there."""
    try:
        with path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), size, offset)
    except OSError:
        # A file that is gone, or a block that the card cannot read any more: either way it is fetched instead.
        return None
    return data if len(data) == size and hashlib.sha256(data).hexdigest() == sha256 else None


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step (renameat2(2)); False where that cannot be, and nothing has changed."""
    try:
        # Loading it wants memory that is writable and executable, which a hardened unit may not have.
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        done = libc.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE)
    except (AttributeError, ImportError, MemoryError, OSError):
        return False
    return bool(done == 0)


class Output:
    """One file under construction, written at any place; ``size`` is its final one.

    What is written is flushed in portions and then dropped from the page cache, so that neither the memory nor the
    last flush grows with the file.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._unflushed = 0
        if os.fstat(self._fd).st_size != size:
            os.ftruncate(self._fd, size)

    def write(self, offset: int, data: bytes) -> None:
        """Put ``data`` there."""
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done
        self._count(len(data))

    def copy(self, source: Path, from_: int, offset: int, size: int) -> None:
        """Take a range of another file; a file system that can share blocks between files does so (no write at all).

        Raises:
            OSError: as ``os.copy_file_range``; the caller has the bytes and may ``write`` them.
        """
        with source.open("rb", buffering=0) as file:
            left = size
            while left:
                done = os.copy_file_range(file.fileno(), self._fd, left, from_ + size - left, offset + size - left)
                if done == 0:
                    raise OSError(errno.EIO, "the file became shorter", str(source))
                left -= done
        self._count(size)

    def has(self, offset: int, size: int, sha256: str) -> bool:
        """Whether this range is in its place already."""
        try:
            # A hole was never written; looking for data first costs nothing where there is none.
            if os.lseek(self._fd, offset, os.SEEK_DATA) >= offset + size:
                return False
        except OSError:
            return False
        data = os.pread(self._fd, size, offset)
        return len(data) == size and hashlib.sha256(data).hexdigest() == sha256

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def flush(self) -> None:
        """Have it on the disk."""
        if self._unflushed:
            os.fdatasync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            self._unflushed = 0

    def close(self) -> None:
        os.close(self._fd)

    def _count(self, size: int) -> None:
        self._unflushed += size
        if self._unflushed >= _PORTION:
            self.flush()
