"""The other logs of a fleet: where they are, and their bytes up to the last whole line.

They belong to the modules that write them; here they are only read.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from hedgerow.audit import reading
from hedgerow.audit.reading import Line, Reader
from hedgerow.errors import HedgerowError

_FILES: Final[tuple[tuple[str, Reader], ...]] = (
    ("ca/issued.jsonl", reading.issued),
    ("ca/issuing/*/issued.jsonl", reading.issued),
    ("ca/revocations.jsonl", reading.revocations),
    ("ssh-ca/issued.jsonl", reading.plain),
    ("lifecycle.jsonl", reading.plain),
    ("rollouts/holds.jsonl", reading.plain),
    ("rollouts/*/journal.jsonl", reading.rollout),
)


class Source(NamedTuple):
    """One log as it is now: its path below the fleet's folder, and its whole lines (None: not read)."""

    name: str
    data: bytes | None
    reader: Reader


def files(fleet_dir: Path, unchanged: Callable[[str, int], bool]) -> Iterator[Source]:
    """Logs of JSON lines. What lies behind a link is read once, under its own name.

    ``unchanged`` is asked by name and size in bytes: those are named, their data not read.
    """
    for pattern, reader in _FILES:
        for path in sorted(fleet_dir.glob(pattern)):
            name = str(path.relative_to(fleet_dir))
            if path.parent.is_symlink():
                continue
            if unchanged(name, path.stat().st_size):
                yield Source(name, None, reader)
                continue
            with path.open("rb") as file:
                # Who appends holds the lock: nothing is read that it takes back.
                fcntl.flock(file, fcntl.LOCK_SH)
                data = file.read()
            yield Source(name, data[: data.rfind(b"\n") + 1], reader)


def stages(fleet_dir: Path, *, remote: bool) -> Iterator[Source]:
    """Promotion logs of the registry's stages, as far as their snapshot's signature covers them.

    A store behind an address is asked only if ``remote``. One that cannot be read gives nothing: the registry's own
    commands say why.
    """
    for described in sorted(fleet_dir.glob("stages/*/authority.yml")):
        # Here: it brings the registry's whole library along, which a fleet without stages does not need.
        from hedgerow.registry.authority import log, repository
        from hedgerow.registry.authority.session import Session

        try:
            session = Session.open(described.parent)
            if "://" in session.settings.store and not remote:
                continue
            loaded = repository.load(session.store)
            if loaded is None:
                continue
            entries = log.read(session.store, log.anchor(loaded.state.snapshot.signed))
        except HedgerowError:
            continue
        data = b"".join(msgspec.json.encode(entry, order="sorted") + b"\n" for entry in entries)
        yield Source(f"stages/{described.parent.name}/log", data, reading.promotions)


def objects(data: bytes) -> Iterator[Line]:
    """The JSON objects among the lines; what a power cut tore is passed over."""
    for raw in data.splitlines():
        try:
            found = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            continue
        if isinstance(found, dict):
            yield found
