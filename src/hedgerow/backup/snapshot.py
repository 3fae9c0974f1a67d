"""What goes into a backup, as it is at one moment, while nobody signs.

- Everything in the fleet's folder goes, so that what a later release adds is not forgotten. Left out are hidden files
  (locks, half-written ones), who holds the rollouts' lease, one-use challenges, and large files of bundles.
- Links go as links; those that lead out of the folder (variables that inventories share, a registry on another disk)
  as what they lead to: a restored controller has nothing at the other end.
- CA, SSH CA and registries are held by their own locks until the backup is written. Logs are append-only: their anchors
  are read first, then their lengths, and of each exactly that much goes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

from hedgerow.backup.manifest import FLEET, INVENTORY, Item, LeftOut, leads_out
from hedgerow.errors import MachineError
from hedgerow.registry.store import FolderStore

_HELD: Final = ("ca", "ssh-ca")
_LEFT: Final = re.compile(r"(^|/)\.|^rollouts/lease\.json$|^ssh-ca/challenges/")
_BUNDLES: Final = re.compile(r"^(stages/[^/]+/)?registry/(targets|staged)/")
_LARGE_BYTES: Final = 1 << 20
_CHUNK: Final = 1 << 20


class Entry(NamedTuple):
    """An item and where it comes from; ``content`` stands for what was read already."""

    item: Item
    source: Path
    content: bytes | None = None


class Snapshot(NamedTuple):
    """All entries by path, and what was left out."""

    entries: list[Entry]
    left_out: list[LeftOut]


@contextmanager
def taken(fleet_dir: Path, inventory: Path, *, with_blobs: bool) -> Iterator[Snapshot]:
    """The fleet as it is, and stays until this ends.

    Raises:
        RefusedError: somebody publishes right now.
        MachineError: a file cannot be read.
    """
    with ExitStack() as held:
        for folder in (fleet_dir / name for name in _HELD):
            if folder.is_dir():
                _hold(held, folder)
        stores = {*fleet_dir.glob("stages/*/registry"), fleet_dir / "registry"}
        for store in sorted(path for path in stores if (path / "metadata").is_dir()):
            held.enter_context(FolderStore(store).lock())
        try:
            found = _look(fleet_dir, inventory, with_blobs=with_blobs)
        except OSError as error:
            where = str(error.filename or fleet_dir)
            raise MachineError(
                f"the backup cannot be made: {error.strerror}",
                where=where,
                next_step=f"mend or remove it: ls -l {where}",
            ) from error
        yield found


def _hold(held: ExitStack, folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    held.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def _look(fleet_dir: Path, inventory: Path, *, with_blobs: bool) -> Snapshot:
    entries: list[Entry] = []
    left_out: list[LeftOut] = []
    files = _walk(fleet_dir, FLEET)
    # An anchor may lag behind its log, never run ahead of it.
    anchors = {each.path: each.path.read_bytes() for each in files if each.path.suffix == ".head"}
    for each in files:
        size = 0 if each.link else each.path.stat().st_size
        large = size > _LARGE_BYTES and _BUNDLES.search(each.name.removeprefix(FLEET))
        if each.path not in anchors and not with_blobs and large:
            left_out.append(LeftOut(each.name, size))
        else:
            entries.append(_entry(each, anchors.get(each.path)))
    if inventory.is_dir():
        entries += [_entry(each) for each in _walk(inventory, INVENTORY)]
    elif inventory.is_file():
        entries.append(_entry(_Found(inventory, INVENTORY + inventory.name)))
    return Snapshot(entries, left_out)


class _Found(NamedTuple):
    """A file, or a ``link`` that stays in the folder; ``name`` is what it is called in the backup."""

    path: Path
    name: str
    link: bool = False


def _walk(folder: Path, top: str) -> list[_Found]:
    """What of ``folder`` goes, sorted; what is no file (sockets) is nothing that a person could restore."""
    found: list[_Found] = []
    # Each with the folders that it lies in, and whether a link was followed to it.
    waiting = [(folder, frozenset({folder.resolve()}), False)]
    while waiting:
        here, above, elsewhere = waiting.pop()
        for path in here.iterdir():
            below = path.relative_to(folder).as_posix()
            if _LEFT.search(below):
                continue
            mode = path.lstat().st_mode
            follow = stat.S_ISLNK(mode) and (elsewhere or leads_out(top + below, str(path.readlink())))
            if follow:
                mode = path.stat().st_mode
            if stat.S_ISDIR(mode):
                home = path.resolve()
                if home in above:
                    raise OSError(errno.ELOOP, "a link leads to a folder that it lies in", str(path))
                waiting.append((path, above | {home}, elsewhere or follow))
            elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
                found.append(_Found(path, top + below, link=stat.S_ISLNK(mode)))
    return sorted(found)


def _entry(each: _Found, content: bytes | None = None) -> Entry:
    name, path = each.name, each.path
    if each.link:
        return Entry(Item(name, link=str(path.readlink())), path)
    mode = stat.S_IMODE(path.stat().st_mode) & 0o777
    if content is not None:
        return Entry(Item(name, len(content), hashlib.sha256(content).hexdigest(), mode), path, content)
    with path.open("rb") as file:
        length = whole_lines(file) if path.suffix == ".jsonl" else os.fstat(file.fileno()).st_size
        digest = hashlib.sha256()
        for data in parts(file, length):
            digest.update(data)
    return Entry(Item(name, length, digest.hexdigest(), mode), path)


def whole_lines(file: IO[bytes]) -> int:
    """How many bytes of a log are whole lines; its writer may be at the next one."""
    end = os.fstat(file.fileno()).st_size
    start = end
    while start > 0:
        start = max(0, start - _CHUNK)
        found = os.pread(file.fileno(), end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0


def parts(file: IO[bytes], length: int) -> Iterator[bytes]:
    """The first ``length`` bytes in pieces; fewer where the file has fewer."""
    while length > 0 and (data := file.read(min(_CHUNK, length))):
        length -= len(data)
        yield data
