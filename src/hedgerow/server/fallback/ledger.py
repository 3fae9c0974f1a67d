"""What requests cost, before they are sent and after. Money is whole millionths of the policy's currency.

Invariants:

- A request is reserved at the most it can cost, on the disk, before it is sent; so requests at the same time, and a
  process that dies, cannot pass the cap.
- Any 3,600 seconds cost no more than the cap. Time is wall-clock seconds, told by the caller. What lies in the future
  (the clock was wrong) counts from now on.
- What left and was not settled is still there at the next start, so that its audit line can be written.
"""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hedgerow.errors import MachineError
from hedgerow.server.fallback.audit import Departure
from hedgerow.server.fallback.config import Price
from hedgerow.server.fallback.database import Database

FILE = "spend.db"
HOUR_S = 3600.0
MILLION = 1_000_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS spend (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, model TEXT NOT NULL, micros INTEGER NOT NULL, departure BLOB
);
CREATE INDEX IF NOT EXISTS by_model ON spend (model, at);
"""


def cost(price: Price, *, prompt_tokens: int, tokens: int) -> int:
    """Millionths, rounded up."""
    thousands = prompt_tokens * price.prompt_per_1k + tokens * price.completion_per_1k
    return math.ceil(round(thousands * MILLION / 1000, 6))


@dataclass(frozen=True)
class Reservation:
    """Room in the hour's cap for one request."""

    id: int
    micros: int


class Ledger:
    """Spending in ``folder``. Blocks; any thread may use it. ``departure`` of a row is None once it is settled.

    Raises:
        MachineError: it cannot be opened. Nothing may leave without it, so it is not made anew.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / FILE
        try:
            self._database = Database(path, _SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise MachineError(
                f"the ledger of spending cannot be opened: {error}",
                where=str(path),
                next_step=f"if it is damaged, look up what was spent within the hour, then: rm {path}",
            ) from error

    def reserve(self, departure: Departure, micros: int, *, cap: int, now: float) -> Reservation | None:
        """Room for ``micros`` millionths; None where the hour's ``cap`` has not so much left."""
        with self._database.use() as rows:
            rows.execute("UPDATE spend SET at = ? WHERE at > ?", (now, now))
            rows.execute("DELETE FROM spend WHERE at <= ? AND departure IS NULL", (now - HOUR_S,))
            if _spent(rows, departure.model, now) + micros > cap:
                return None
            row = rows.execute(
                "INSERT INTO spend (at, model, micros, departure) VALUES (?, ?, ?, ?)",
                (now, departure.model, micros, msgspec.json.encode(departure)),
            )
            return Reservation(int(row.lastrowid or 0), micros)

    def settle(self, reservation: Reservation, micros: int) -> None:
        """What it cost in the end."""
        with self._database.use() as rows:
            rows.execute("UPDATE spend SET micros = ?, departure = NULL WHERE id = ?", (micros, reservation.id))

    def spent(self, model: str, now: float) -> int:
        """Millionths within the hour that ends now, reservations included."""
        with self._database.use() as rows:
            return _spent(rows, model, now)

    def unsettled(self) -> list[tuple[Reservation, Departure]]:
        """What left and never came back: the process ended meanwhile."""
        with self._database.use() as rows:
            found = rows.execute("SELECT id, micros, departure FROM spend WHERE departure IS NOT NULL").fetchall()
        return [
            (Reservation(number, micros), msgspec.json.decode(data, type=Departure)) for number, micros, data in found
        ]

    def close(self) -> None:
        self._database.close()


def _spent(rows: sqlite3.Connection, model: str, now: float) -> int:
    query = "SELECT COALESCE(SUM(micros), 0) FROM spend WHERE model = ? AND at > ?"
    return int(rows.execute(query, (model, now - HOUR_S)).fetchone()[0])
