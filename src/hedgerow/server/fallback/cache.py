"""Answers of endpoints, kept for a while, encrypted: AES-256-GCM, a nonce for each, bound to what they answer.

Invariants:

- The file tells neither what was asked nor what was said; only how many answers there are, how long, and until when.
- A cache that is damaged, or of another key, is an empty one.
- Time is wall-clock seconds, told by the caller: what is kept outlives a restart.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from hedgerow.errors import MachineError
from hedgerow.server.fallback.config import CacheConfig
from hedgerow.server.fallback.database import Database

log = logging.getLogger("hedgerow.server.fallback")

FILE = "answers.db"
_NONCE = 12
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
  asked BLOB PRIMARY KEY, ends REAL NOT NULL, used REAL NOT NULL, sealed BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON answers (used);
"""


class Kept(Struct, frozen=True):
    """A whole answer, as it came."""

    text: str
    finish: str
    tokens: int
    prompt_tokens: int


class Cache:
    """Answers in ``folder``; ``key`` has 32 bytes. Blocks; any thread may use it."""

    def __init__(self, folder: Path, key: bytes, config: CacheConfig) -> None:
        self._seal = AESGCM(key)
        self._config = config
        path = folder / FILE
        try:
            self._database = Database(path, _SCHEMA)
        except sqlite3.DatabaseError as error:
            log.warning("%s: %s; kept answers are forgotten", path, error)
            path.unlink(missing_ok=True)
            try:
                self._database = Database(path, _SCHEMA)
            except (OSError, sqlite3.Error) as again:
                raise MachineError(f"the cache of answers cannot be made: {again}", where=str(path)) from again
        except OSError as error:
            raise MachineError(f"the cache of answers cannot be opened: {error.strerror}", where=str(path)) from error

    def get(self, asked: bytes, now: float) -> Kept | None:
        """The answer to ``asked``, if one is kept."""
        with self._database.use() as rows:
            row = rows.execute("SELECT ends, sealed FROM answers WHERE asked = ?", (asked,)).fetchone()
            # An end further off than any can be is of a clock that was wrong.
            if row is None or not now < row[0] <= now + self._config.ttl_s:
                return None
            try:
                plain = self._seal.decrypt(row[1][:_NONCE], row[1][_NONCE:], asked)
            except InvalidTag:
                rows.execute("DELETE FROM answers WHERE asked = ?", (asked,))
                return None
            rows.execute("UPDATE answers SET used = ? WHERE asked = ?", (now, asked))
        return msgspec.json.decode(plain, type=Kept)

    def put(self, asked: bytes, answer: Kept, now: float) -> None:
        """Keep ``answer``; what has ended goes, and what was not used for longest where there is no room."""
        nonce = secrets.token_bytes(_NONCE)
        sealed = nonce + self._seal.encrypt(nonce, msgspec.json.encode(answer), asked)
        ends = now + self._config.ttl_s
        with self._database.use() as rows:
            rows.execute("DELETE FROM answers WHERE ends <= ? OR ends > ?", (now, ends))
            if len(sealed) > self._config.max_bytes:
                return
            rows.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (asked, ends, now, sealed))
            (size,) = rows.execute("SELECT SUM(LENGTH(sealed)) FROM answers").fetchone()
            while size > self._config.max_bytes:
                oldest, length = rows.execute(
                    "SELECT asked, LENGTH(sealed) FROM answers WHERE asked != ? ORDER BY used LIMIT 1", (asked,)
                ).fetchone()
                rows.execute("DELETE FROM answers WHERE asked = ?", (oldest,))
                size -= length

    def close(self) -> None:
        self._database.close()
