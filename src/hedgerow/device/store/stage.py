"""Bring a version to this device in deltas: plan, receive, assemble, check, place.

- Nothing counts before the registry's signatures have vouched for manifest and recipe; after that every chunk, every
  file and the whole are held to them.
- A version appears by one rename, whole. What is cut off, by a line, a kill or a power cut, stays as an unfinished
  download and is gone on with; its segments are found again by their hashes, so there is no note that could be wrong.
- Room is made before the first byte comes, and never from what ``keep`` names.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hedgerow import filelock
from hedgerow.device.store import collect, disk, offers, planner, wanted
from hedgerow.device.store.assemble import Assembly
from hedgerow.device.store.build import Build, remember
from hedgerow.device.store.layout import FILES, Layout, make_folder
from hedgerow.device.store.planner import Plan
from hedgerow.device.store.receive import Ranges, Receiver
from hedgerow.device.store.terms import Device, Registry, Staged
from hedgerow.device.store.wanted import Wanted
from hedgerow.device.store.written import Counter
from hedgerow.errors import HedgerowError, RefusedError
from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry.reference import Reference

LOCK_WAIT_S = 30.0


def look(registry: Registry, source: Ranges, reference: Reference, device: Device) -> Plan:
    """The plan, as ``stage`` would carry it out now; nothing is fetched but metadata and what patches there are.

    Raises:
        RefusedError, PublisherError, NetworkError, DeviceError: as ``stage``.
    """
    layout = device.layout
    with disk.naming(layout.models_dir), only_one(layout), tempfile.TemporaryDirectory() as scratch:
        route = _find(registry, reference, device).route(registry)
        recipe = route.recipe
        done = Assembly(recipe, layout.partial(reference) / FILES, layout, Counter(layout.written)).done()
        known = offers.known(recipe, layout, Receiver(source, Path(scratch)), done, numbers=route.numbers)
        return planner.plan(recipe, known, device.costs)


def stage(
    registry: Registry,
    source: Ranges,
    reference: Reference,
    device: Device,
    *,
    at_once: bool = False,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Staged:
    """Make ``models/<name>/<version>`` a verified bundle. ``at_once``: whatever the window says.

    Raises:
        RefusedError: the registry's signatures do not vouch for it, no variant fits, or it is not the hour to fetch.
        PublisherError: what is published is not what was signed.
        NetworkError: the registry cannot be reached, or the line was cut; what came stays.
        PartialError: the window has closed; what came stays.
        DeviceError: no space, or the disk fails.
    """
    layout = device.layout
    with disk.naming(layout.models_dir), only_one(layout):
        collect.sweep(layout, {reference})
        found = _find(registry, reference, device)
        if _is_here(layout.version(reference), found.data):
            shutil.rmtree(layout.partial(reference), ignore_errors=True)
            remember(layout, reference)
            return Staged(str(reference), changed=False)
        if not at_once:
            device.check_window(RefusedError)
        route = found.route(registry)
        try:
            with Counter(layout.written) as written:
                build = Build(device, source, found, route, written=written, limited=not at_once, on_bytes=on_bytes)
                return build.run()
        except OSError as error:
            if error.errno in disk.FULL:
                shutil.rmtree(layout.partial(reference), ignore_errors=True)
            raise


def _find(registry: Registry, reference: Reference, device: Device) -> Wanted:
    found = wanted.find(registry, reference, device.pick, kind=device.places.kind)
    device.accepts(found.manifest)
    return found


def _is_here(folder: Path, data: bytes) -> bool:
    """Whether the version is here, every byte of it."""
    try:
        if (folder / manifests.FILE_NAME).read_bytes() != data:
            return False
        bundles.verify_files(folder)
    except (OSError, HedgerowError):
        return False
    return True


@contextmanager
def only_one(layout: Layout) -> Iterator[None]:
    """One command at a time changes the store."""
    make_folder(layout.folder)
    with filelock.exclusive(layout.lock, wait_s=LOCK_WAIT_S, work="fetching to this device, or making room on it"):
        yield
