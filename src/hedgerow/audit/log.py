"""Where the audit log is, and how a line comes into it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hedgerow.audit.events import Event
from hedgerow.chainlog import ChainLog, Head
from hedgerow.errors import MachineError

FOLDER: Final = "audit"
FILE: Final = "audit.jsonl"


def of_fleet(fleet_dir: Path) -> ChainLog[Event]:
    """The audit log of the fleet whose state is in ``fleet_dir``; it need not be there yet."""
    return ChainLog(fleet_dir / FOLDER / FILE, Event, name="audit log")


def record(fleet_dir: Path, event: Event) -> Head:
    """Write ``event``; it is on the disk when this returns.

    Raises:
        MachineError: it could not be written; what it announces must not be done.
        ChainError: the log was tampered with.
    """
    log = of_fleet(fleet_dir)
    try:
        log.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise MachineError(f"the audit log cannot be made: {error.strerror}", where=str(log.path.parent)) from error
    return log.append(event)


def timestamp(now: datetime | None = None) -> str:
    """``now`` (the present if None) as RFC 3339 in UTC, to the millisecond."""
    moment = datetime.now(UTC) if now is None else now.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
