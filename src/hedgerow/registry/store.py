"""Where a registry's files lie. Two small interfaces; a folder is the embedded default, ``registry.stores`` has S3.

- ``Store`` is what publishing needs. ``ObjectStore`` adds what packing, copying, sweeping and leases need.
- Paths are relative and ``/``-separated. A file is whole or absent: nothing that was half-written is ever seen.
- Names that begin with a dot are the store's own: they are never listed.
- Whoever writes holds ``lock()``; ``put_new`` and ``put_if`` alone are safe without it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hedgerow import atomic
from hedgerow.errors import MachineError, RefusedError
from hedgerow.registry.bundle import hash_file

_COPY_BLOCK = 1 << 20
_LOCK = ".lock"
# Held for the moment of a compare-and-swap; apart from the lock, which its caller may hold for minutes.
_SWAP = ".swap"
# Of ``put_new``, which works without the lock: more than the publishers that may begin in that moment.
_ATTEMPTS = 3


@dataclass(frozen=True)
class Tagged:
    """A file's content, the tag of just this content, and the seconds since it was written, by the store's clock."""

    data: bytes
    etag: str
    age_s: float


@dataclass(frozen=True)
class Entry:
    """A file as a listing has it: ``size`` in bytes, ``age_s`` seconds since it was written, by the store's clock."""

    path: str
    size: int
    age_s: float


class Store(Protocol):
    """What publishing needs of a place."""

    def get(self, path: str) -> bytes | None:
        """The file's content; None where there is none."""

    def put(self, path: str, data: bytes) -> None:
        """Write or replace a file."""

    def put_file(self, path: str, source: Path) -> None:
        """Write or replace a file with the content of ``source``, in blocks."""

    def holds(self, path: str, *, size: int, sha256: str) -> bool:
        """Whether the file is there and has this content; a place that keeps checksums may answer from them."""

    def list(self, prefix: str) -> Iterator[str]:
        """Every path that begins with ``prefix``, sorted."""

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold off other publishers.

        Raises:
            RefusedError: somebody else publishes right now.
        """


class ObjectStore(Store, Protocol):
    """What packing, copying, sweeping and leases need besides."""

    @property
    def where(self) -> str:
        """What people call the place: a path or an address; holds no secret."""

    def put_new(self, path: str, data: bytes) -> bool:
        """Write a file that is not there yet; False where it is. Of two at the same time one gets True."""

    def get_tagged(self, path: str) -> Tagged | None:
        """The file's content with its tag; None where there is none."""

    def put_if(self, path: str, data: bytes, etag: str) -> bool:
        """Replace a file that still has this tag; False where it has changed or is gone. Of two one gets True."""

    def delete(self, path: str) -> None:
        """Remove a file; one that is gone already is fine."""

    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        """As ``list``, with sizes and ages."""

    def open(self, path: str) -> contextlib.AbstractContextManager[Iterator[bytes]]:
        """The file's content in blocks of at most 1 MiB.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; fewer only where the file ends before.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def discard_unfinished(self, older_than_s: float) -> int:
        """Remove what a writer that was killed longer ago left half-written; how many."""


class FolderStore:
    """A folder that any static web server can serve."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def where(self) -> str:
        return str(self.root)

    def get(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, path: str, data: bytes) -> None:
        with _naming(self.root / path):
            atomic.write_bytes(self.root / path, data)

    def put_new(self, path: str, data: bytes) -> bool:
        target = self.root / path
        with _naming(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            for attempt in range(_ATTEMPTS):
                try:
                    return _link_new(target, data)
                except FileNotFoundError:  # a publisher that began just now took it for a killed one's
                    if attempt == _ATTEMPTS - 1:
                        raise
        raise AssertionError("the last attempt returns or raises")

    def get_tagged(self, path: str) -> Tagged | None:
        try:
            with (self.root / path).open("rb") as file:
                data = file.read()
                age_s = time.time() - os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        return Tagged(data, _etag(data), age_s)

    def put_if(self, path: str, data: bytes, etag: str) -> bool:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / _SWAP).open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            present = self.get(path)
            if present is None or _etag(present) != etag:
                return False
            self.put(path, data)
            return True

    def delete(self, path: str) -> None:
        with _naming(self.root / path):
            (self.root / path).unlink(missing_ok=True)

    def size(self, path: str) -> int | None:
        try:
            return (self.root / path).stat().st_size
        except FileNotFoundError:
            return None

    def entries(self, prefix: str) -> Iterator[Entry]:
        now = time.time()
        for path in self.list(prefix):
            # What another process removes meanwhile is not listed.
            with contextlib.suppress(FileNotFoundError):
                status = (self.root / path).stat()
                yield Entry(path, status.st_size, now - status.st_mtime)

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Iterator[bytes]]:
        with (self.root / path).open("rb") as file:
            yield iter(lambda: file.read(_COPY_BLOCK), b"")

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        with (self.root / path).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def discard_unfinished(self, older_than_s: float) -> int:
        return self._sweep(older_than_s)

    def put_file(self, path: str, source: Path) -> None:
        target = self.root / path
        with _naming(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            fd, name = tempfile.mkstemp(dir=target.parent, prefix=".new-")
            temporary = Path(name)
            try:
                with os.fdopen(fd, "wb") as file, source.open("rb") as content:
                    os.fchmod(file.fileno(), 0o644)
                    shutil.copyfileobj(content, file, _COPY_BLOCK)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            atomic.fsync_dir(target.parent)

    def holds(self, path: str, *, size: int, sha256: str) -> bool:
        file = self.root / path
        try:
            return file.stat().st_size == size and hash_file(file) == sha256
        except FileNotFoundError:
            return False

    def list(self, prefix: str) -> Iterator[str]:
        for path in sorted(self.root.rglob("*")):
            relative = path.relative_to(self.root).as_posix()
            if path.is_file() and not path.name.startswith(".") and relative.startswith(prefix):
                yield relative

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / _LOCK).open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise RefusedError(
                    f"another publisher works on this registry: process {file.read().strip() or 'unknown'}",
                    where=str(self.root),
                    next_step="wait until it has finished, then run the command again",
                ) from error
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            self._sweep()
            yield

    def _sweep(self, older_than_s: float = 0.0) -> int:
        """Remove what a publisher that was killed left half-written: every hidden file is one."""
        found = 0
        for path in self.root.rglob(".*"):
            with contextlib.suppress(FileNotFoundError):  # its writer finished it meanwhile
                old = time.time() - path.stat().st_mtime >= older_than_s
                if path.is_file() and path.name not in {_LOCK, _SWAP} and (old or not older_than_s):
                    path.unlink()
                    found += 1
        return found


def _link_new(target: Path, data: bytes) -> bool:
    fd, name = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    temporary = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # A rename would replace what is there; a second name for the same file refuses to.
        os.link(temporary, target)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    atomic.fsync_dir(target.parent)
    return True


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"the registry cannot be written: {error.strerror}",
            where=str(path),
            next_step="free space, then run it again",
        ) from error
