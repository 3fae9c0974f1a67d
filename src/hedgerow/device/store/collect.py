"""Making room: versions and unfinished downloads go, the longest unused first, and nothing that ``keep`` names.

- A version leaves by one rename into the trash, under the lock of activations: ``current`` never names a part of one.
- What is in the trash is gone: the next command empties it, whoever killed this one.
- Debris goes without being asked for: downloads of versions that are here or were overtaken, recipes of what is gone,
  temporary files, and what a runtime from before this store has left of a download.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from hedgerow import atomic
from hedgerow.device.store import keep, records
from hedgerow.device.store.keep import Places
from hedgerow.device.store.layout import Layout, make_folder
from hedgerow.device.store.records import Used
from hedgerow.registry.reference import Reference

# Runtimes that fetched whole files put them here, beside the version; a killed one of theirs has left it.
_BEFORE = "*/.staging-*"
_SECTOR = 512  # st_blocks counts these, whatever the file system's blocks are (stat(2))


class Holding(Struct, frozen=True):
    """A version, or a download that was not finished: its ``bytes`` on disk, number of its last use, why it is kept."""

    reference: Reference
    finished: bool
    bytes: int
    used: int
    kept: str | None = None


class Collected(Struct, frozen=True):
    """What went, and what is left (bytes). ``over``: bytes beyond the budget that may not be removed."""

    removed: tuple[Holding, ...]
    left: int
    over: int


def choose(holdings: Iterable[Holding], *, budget: int | None, needed: int = 0) -> list[Holding]:
    """What has to go so that all take ``budget`` bytes at the most and ``needed`` bytes become free. Pure.

    The longest unused goes first, of equals the unfinished one. It stops where only kept ones are left.
    """
    everything = list(holdings)
    excess = max(0 if budget is None else sum(each.bytes for each in everything) - budget, needed)
    gone: list[Holding] = []
    for each in sorted(everything, key=lambda each: (each.used, each.finished, str(each.reference))):
        if excess <= 0:
            break
        if each.kept is None:
            gone.append(each)
            excess -= each.bytes
    return gone


def survey(places: Places, why: Mapping[Reference, str] | None = None) -> list[Holding]:
    """Everything that takes space here, the latest used first. ``why``: who is kept, where that is known already."""
    layout = places.layout
    found = keep.kept(places) if why is None else why
    used = records.read_used(layout)
    holdings = [
        Holding(each, finished=True, bytes=size(layout.version(each)), used=used.rank(each), kept=found.get(each))
        for each in layout.versions()
    ]
    holdings += [
        Holding(each, finished=False, bytes=size(layout.partial(each)), used=used.rank(each))
        for each in layout.unfinished()
    ]
    return sorted(holdings, key=lambda each: (-each.used, str(each.reference), each.finished))


def collect(
    places: Places,
    *,
    budget: int | None,
    needed: int = 0,
    staying: Collection[Reference] = (),
    dry_run: bool = False,
) -> Collected:
    """Remove what ``choose`` says; the caller holds the store's lock. ``staying`` is kept, too: what is being staged.

    Raises:
        DeviceError: what must stay cannot be told; nothing was removed.
        OSError: the disk.
    """
    layout = places.layout
    if not dry_run:
        sweep(layout, staying)
    with places.still():
        why = keep.kept(places) | dict.fromkeys(staying, "being staged")
        holdings = [
            each if each.finished or each.reference not in why else _kept(each, why[each.reference])
            for each in survey(places, why)
        ]
        gone = choose(holdings, budget=budget, needed=needed)
        if not dry_run:
            for each in gone:
                _move_out(layout, each)
    if not dry_run:
        empty_trash(layout)
        _forget(layout, gone)
    left = sum(each.bytes for each in holdings) - sum(each.bytes for each in gone)
    return Collected(tuple(gone), left, 0 if budget is None else max(0, left - budget))


def sweep(layout: Layout, staying: Collection[Reference] = ()) -> None:
    """Remove debris but the downloads of ``staying``; the caller holds the store's lock."""
    empty_trash(layout)
    here = set(layout.versions())
    used = records.read_used(layout)
    unfinished = {str(reference): reference for reference in layout.unfinished()}
    for folder in layout.partials.glob("*"):
        reference = unfinished.get(folder.name)
        if reference is None or (reference not in staying and (reference in here or _overtaken(reference, used))):
            shutil.rmtree(folder)
    memories = [folder for memory in layout.memories for folder in memory.glob("*")]
    for folder in memories:
        for file in folder.glob("*"):
            if Reference(folder.name, file.name) not in here and not _under_way(layout, file):
                file.unlink()
        with suppress(OSError):
            folder.rmdir()  # only an empty one goes
    for folder in (layout.folder, *memories, *layout.partials.glob("*")):
        for path in folder.glob(".*"):  # the temporary names of `hedgerow.atomic`
            if path.is_file():
                path.unlink()
    for folder in layout.models_dir.glob(_BEFORE):
        shutil.rmtree(folder)


def _overtaken(reference: Reference, used: Used) -> bool:
    """Whether another version of the bundle was staged after this download began."""
    staged = used.staged.get(reference.name)
    return staged is not None and used.rank(Reference(reference.name, staged)) > used.rank(reference)


def empty_trash(layout: Layout) -> None:
    """Remove what has left."""
    if layout.trash.is_dir():
        shutil.rmtree(layout.trash)


def move_to_trash(layout: Layout, path: Path) -> None:
    """Let a folder disappear from its place in one step."""
    make_folder(layout.trash)
    number = 0
    while (target := layout.trash / f"{path.name}.{number}").exists():
        number += 1
    path.rename(target)
    atomic.fsync_dir(path.parent)


def size(folder: Path) -> int:
    """Bytes that the files below ``folder`` take on disk; holes take none."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += (Path(root) / name).lstat().st_blocks * _SECTOR
    return total


def _move_out(layout: Layout, holding: Holding) -> None:
    place = layout.version if holding.finished else layout.partial
    move_to_trash(layout, place(holding.reference))


def _forget(layout: Layout, gone: Iterable[Holding]) -> None:
    for each in gone:
        if each.finished:
            layout.recipe(each.reference).unlink(missing_ok=True)
            layout.signed(each.reference).unlink(missing_ok=True)
            with suppress(OSError):
                layout.home(each.reference.name).rmdir()  # only an empty one goes
    records.write_used(layout, records.read_used(layout))


def _kept(holding: Holding, why: str) -> Holding:
    return Holding(holding.reference, holding.finished, holding.bytes, holding.used, why)


def _under_way(layout: Layout, memory: Path) -> bool:
    return layout.partial(Reference(memory.parent.name, memory.name)).is_dir()
