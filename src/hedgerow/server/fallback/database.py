"""SQLite files of the fallback: one connection each, used by any thread, one at a time."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path


class Database:
    """``path`` with ``schema``, which is applied at every start. Every ``use`` is one transaction.

    Raises:
        sqlite3.Error: it cannot be opened, or is damaged.
    """

    def __init__(self, path: Path, schema: str) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            # Space that is given up is given back, and what is deleted is overwritten.
            self._connection.execute("PRAGMA auto_vacuum = FULL")
            self._connection.execute("PRAGMA secure_delete = ON")
            self._connection.executescript(schema)
        except sqlite3.Error:
            self._connection.close()
            raise

    @contextlib.contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on the disk when it ends, or none."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._connection.close()
