"""Bring a backup back onto a controller. The fleet's folder appears whole, by one rename, or not at all.

- What is there is never lost: with ``replace`` it is moved aside, and refused if it knows of more than the backup.
- Nothing is written outside the two folders that are named, whatever the file says.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from hedgerow import atomic, audit
from hedgerow.audit.events import BackedUp
from hedgerow.audit.log import timestamp
from hedgerow.backup import reading
from hedgerow.backup.age_keys import Opener
from hedgerow.backup.manifest import FLEET, INVENTORY, Item, Manifest
from hedgerow.backup.snapshot import whole_lines
from hedgerow.chainlog import Head
from hedgerow.errors import HedgerowError, MachineError, RefusedError

_FOLDER_MODE: Final = 0o700


class Restored(NamedTuple):
    """Where it is now; ``aside`` is where what was there before was moved, None where nothing was."""

    manifest: Manifest
    fleet_dir: Path
    inventory: Path
    aside: Path | None


def restore(
    path: Path, openers: Sequence[Opener], var_dir: Path, inventory: Path | None = None, *, by: str, sha256: str,
    replace: bool = False,
) -> Restored:  # fmt: skip
    """Restore into ``var_dir/fleets/<fleet>``, the inventory into ``inventory`` (or beside the fleet's state).

    The file is read twice: it must be whole before the first of its bytes is written.

    Raises:
        RefusedError: there is a fleet already, or one that is newer than the backup.
        MachineError: the disk is full; nothing was changed.
        DamagedError, ManifestError, UsageError: as ``reading.read``.
    """
    manifest = reading.verify(path, openers)
    fleet_dir = var_dir / "fleets" / manifest.fleet
    target = fleet_dir / "restored-inventory" if inventory is None else inventory
    _require_room_for(manifest, fleet_dir, inventory, replace=replace)
    try:
        fleet_dir.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=fleet_dir.parent, prefix=f".{manifest.fleet}.restoring."))
    except OSError as error:
        raise _unwritable(error, fleet_dir) from error
    try:
        reading.read(path, openers, lambda _: _Writer(temporary).take)
        fresh = temporary / FLEET
        fresh.mkdir(exist_ok=True, mode=_FOLDER_MODE)
        done = BackedUp(
            at=timestamp(), by=by, what="restored", file=path.name, sha256=sha256, files=len(manifest.items)
        )
        # Before the rename: a restore that cannot be written down does not happen.
        audit.record(fresh, done)
        aside = _exchange(fresh, fleet_dir, temporary / INVENTORY, target)
    except OSError as error:
        raise _unwritable(error, fleet_dir) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Restored(manifest, fleet_dir, target, aside)


class _Writer:
    """Writes items below a new folder. Folders are the owner's alone."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def take(self, item: Item, content: Iterator[bytes]) -> None:
        target = self._root / item.path
        target.parent.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
        if item.link is not None:
            target.symlink_to(item.link)
            return
        # Exclusive, and never through a link: what the archive put there before cannot lead elsewhere.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(target, flags, item.mode & 0o777), "wb") as file:
            for data in content:
                file.write(data)
            file.flush()
            os.fchmod(file.fileno(), item.mode & 0o777)
            os.fsync(file.fileno())


def _exchange(fresh: Path, fleet_dir: Path, fresh_inventory: Path, inventory: Path) -> Path | None:
    for folder in (path for path in fresh.rglob("*") if path.is_dir() and not path.is_symlink()):
        atomic.fsync_dir(folder)
    beside = None
    if fresh_inventory.is_dir() and inventory.is_relative_to(fleet_dir):
        fresh_inventory.rename(fresh / inventory.relative_to(fleet_dir))
    elif fresh_inventory.is_dir():
        # Another file system, perhaps: copied beside its place first, so that it appears whole, too.
        inventory.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=inventory.parent, prefix=f".{inventory.name}.restoring."))
    aside = None
    try:
        if beside is not None:
            shutil.copytree(fresh_inventory, beside, symlinks=True, dirs_exist_ok=True)
        if fleet_dir.exists():
            aside = fleet_dir.with_name(f".{fleet_dir.name}.before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
            fleet_dir.rename(aside)
        fresh.rename(fleet_dir)
    except BaseException:
        if aside is not None:
            aside.rename(fleet_dir)
        if beside is not None:
            shutil.rmtree(beside)
        raise
    if beside is not None:
        beside.rename(inventory)
        inventory.chmod(0o755)
    atomic.fsync_dir(fleet_dir.parent)
    return aside


def _require_room_for(manifest: Manifest, fleet_dir: Path, inventory: Path | None, *, replace: bool) -> None:
    if inventory is not None and inventory.exists() and any(inventory.iterdir()):
        raise RefusedError(
            "there is an inventory already", where=str(inventory), next_step="name another folder: --inventory-to"
        )
    if not fleet_dir.exists() or not any(fleet_dir.iterdir()):
        return
    newer = _newer(manifest, fleet_dir)
    if newer is not None:
        raise RefusedError(
            f"this controller's fleet {manifest.fleet} knows of more than the backup of {manifest.at[:19]}: {newer}",
            where=f"{fleet_dir}; rule: a restore overwrites nothing newer",
            next_step=f"if it is to go all the same, move it away: mv {fleet_dir} {fleet_dir}.old",
        )
    if not replace:
        raise RefusedError(
            f"this controller has a fleet {manifest.fleet} already",
            where=str(fleet_dir),
            next_step="--replace moves it aside; --to FOLDER restores elsewhere",
        )


def _newer(manifest: Manifest, fleet_dir: Path) -> str | None:
    """What this controller knows of and the backup does not, by the length of its logs; None: nothing."""
    try:
        known = Head.parse(manifest.audit_head).entries
        later = [each.value for each in audit.of_fleet(fleet_dir).entries() if each.number > known]
    except (HedgerowError, ValueError):
        return "its audit log cannot be read"
    # Every backup is noted when it is done, in the log that it has taken along before.
    if any(not isinstance(event, BackedUp) for event in later):
        return f"its audit log has {len(later)} entries more"
    sizes = {item.path: item.size for item in manifest.items}
    for path in sorted(fleet_dir.rglob("*.jsonl")):
        name = path.relative_to(fleet_dir).as_posix()
        with path.open("rb") as file:
            length = whole_lines(file)
        if not name.startswith("audit/") and length > sizes.get(FLEET + name, 0):
            return f"{name} is longer than the backup's"
    return None


def _unwritable(error: OSError, fleet_dir: Path) -> MachineError:
    return MachineError(
        f"the backup cannot be restored: {error.strerror}",
        where=str(error.filename or fleet_dir),
        next_step="make room or correct the rights, then run the command again; what was there is as it was",
    )
