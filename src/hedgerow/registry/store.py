"""Where a registry's files lie. One small interface; a folder is the embedded default, S3 fits behind the same.

Paths are relative and ``/``-separated. A file is whole or absent: nothing that was half-written is ever seen.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from hedgerow import atomic
from hedgerow.errors import MachineError, RefusedError
from hedgerow.registry.bundle import hash_file

_COPY_BLOCK = 1 << 20
_LOCK = ".lock"


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


class FolderStore:
    """A folder that any static web server can serve."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, path: str, data: bytes) -> None:
        with _naming(self.root / path):
            atomic.write_bytes(self.root / path, data)

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

    def _sweep(self) -> None:
        """Remove what a publisher that was killed left half-written: every hidden file is one."""
        for path in self.root.rglob(".*"):
            if path.is_file() and path.name != _LOCK:
                path.unlink()


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
