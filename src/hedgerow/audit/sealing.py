"""Collecting: what other logs say anew comes into the audit log, with a seal on all that they said so far.

- Idempotent: a log that says nothing new adds nothing. Who collects takes a log of the size of its seal for unchanged;
  who verifies (``unsealed``) reads every byte.
- A log that is not as its last seal says (cut, changed, gone) is recorded as disturbed, once, and sealed anew: the line
  stays for ever. Restoring an older backup does that, too; the line before it then says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from hedgerow import filelock
from hedgerow.audit import log as logs
from hedgerow.audit import sources
from hedgerow.audit.events import Disturbed, Event, Sealed
from hedgerow.audit.reading import merged
from hedgerow.audit.sources import Source

_WAIT_S = 30.0


class Seal(NamedTuple):
    """What the audit log knows of another log; ``size`` None: it was gone."""

    size: int | None
    sha256: str


def collect(fleet_dir: Path, *, by: str, remote: bool = False) -> list[Event]:
    """Bring what is new into the audit log; what was written.

    ``remote`` asks registries behind an address as well.

    Raises:
        MachineError: the log cannot be written.
        ChainError: it was tampered with.
        DeviceError: another process has been collecting for half a minute.
    """
    if not fleet_dir.is_dir():
        return []
    folder = fleet_dir / logs.FOLDER
    folder.mkdir(exist_ok=True, mode=0o700)
    with filelock.exclusive(folder / ".collecting", wait_s=_WAIT_S, work="collecting for the audit log"):
        found = list(_new(fleet_dir, by=by, remote=remote, trust_sizes=True))
        if found:
            logs.of_fleet(fleet_dir).append_all(found)
    return found


def unsealed(fleet_dir: Path, *, remote: bool = False) -> list[Disturbed]:
    """Logs that are not as their last seal says, now; nothing is written."""
    return [event for event in _new(fleet_dir, by="", remote=remote) if isinstance(event, Disturbed)]


def disturbed(fleet_dir: Path) -> list[Disturbed]:
    """Every disturbance that was ever recorded."""
    return [each.value for each in logs.of_fleet(fleet_dir).entries() if isinstance(each.value, Disturbed)]


def seals(fleet_dir: Path) -> dict[str, Seal]:
    """The last seal of each log, by its name."""
    known = {}
    for entry in logs.of_fleet(fleet_dir).entries():
        if isinstance(entry.value, Sealed | Disturbed):
            known[entry.value.source] = Seal(entry.value.bytes, entry.value.sha256)
    return known


def _new(fleet_dir: Path, *, by: str, remote: bool, trust_sizes: bool = False) -> Iterator[Event]:
    known = seals(fleet_dir)
    at = logs.timestamp()
    present = set()

    def unchanged(name: str, size: int) -> bool:
        return trust_sizes and name in known and known[name].size == size

    for source in chain(sources.files(fleet_dir, unchanged), sources.stages(fleet_dir, remote=remote)):
        present.add(source.name)
        if source.data is None:
            continue
        event = _judge(source, source.data, known.get(source.name), at=at, by=by)
        if event is not None:
            yield event
    for name, seal in known.items():
        # A stage's log may be out of reach today; a file is here or gone.
        if name not in present and seal.size is not None and not name.startswith("stages/"):
            yield Disturbed(at=at, by=by, source=name, what="it is gone")


def _judge(source: Source, data: bytes, seal: Seal | None, *, at: str, by: str) -> Event | None:
    start = 0 if seal is None or seal.size is None else seal.size
    size, digest = len(data), _digest(data)
    if seal is not None and start and (size < start or _digest(data[:start]) != seal.sha256):
        what = "it was cut" if size < start else "what it said was changed"
        return Disturbed(at=at, by=by, source=source.name, what=what, bytes=size, sha256=digest)
    if size == start:
        return None
    before = sum(1 for _ in sources.objects(data[:start]))
    said = islice(source.reader(sources.objects(data)), before, None)
    return Sealed(at=at, by=by, source=source.name, bytes=size, sha256=digest, did=merged(said))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
