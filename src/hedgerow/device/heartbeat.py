"""What the agent says of itself, for the health report and the exporter: one small file in memory.

It lies below ``/run``, so that a beat wears no card and none outlives a reboot.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from hedgerow import atomic

FILE = Path("/run/hedgerow-agent/heartbeat.json")


class Heartbeat(msgspec.Struct, frozen=True):
    """``at``: the agent's last sign of life; ``last_answer``: when the model in service last answered as it should.

    ``failures`` in a row; ``failing`` is why, once they are as many as the configuration puts up with. Times are UTC.
    """

    at: datetime
    last_answer: datetime | None = None
    failures: int = 0
    failing: str | None = None


def write(beat: Heartbeat, path: Path = FILE) -> None:
    """Put it in place of the last one; readable for all."""
    atomic.write_bytes(path, msgspec.json.encode(beat))


def read(path: Path = FILE) -> Heartbeat | None:
    """The last one; None where no agent has run since boot."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Heartbeat)
    except (OSError, msgspec.DecodeError):
        return None
