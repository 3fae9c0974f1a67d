"""A version that is complete takes its place: checked as a whole, flushed, and there by one rename."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hedgerow import atomic
from hedgerow.device.store import disk
from hedgerow.device.store.collect import empty_trash, move_to_trash
from hedgerow.device.store.layout import Layout, make_folder
from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.reference import Reference

_FOLDER_MODE, _FILE_MODE = 0o755, 0o644


def tidy(files: Path, manifest: Manifest) -> None:
    """Remove from an unfinished download what the manifest does not name: what a kill left of temporary files."""
    wanted = {files / file.path for file in manifest.files}
    for folder, _, names in os.walk(files):
        for name in names:
            if (path := Path(folder) / name) not in wanted:
                path.unlink()


def place(
    files: Path, data: bytes, manifest: Manifest, layout: Layout, on_bytes: Callable[[int], None] | None = None
) -> None:
    """Let ``files`` become the version that ``manifest`` (``data`` are its bytes) describes.

    Raises:
        PublisherError: a file as a whole is not what the manifest says, though its chunks are what the recipe says.
        OSError: the disk.
    """
    for file in manifest.files:
        bundles.verify_file(files, file, on_bytes=on_bytes)
    atomic.write_bytes(files / manifests.FILE_NAME, data, mode=_FILE_MODE)
    _flush(files)
    final = layout.version(Reference(manifest.name, manifest.version))
    make_folder(final.parent)
    atomic.fsync_dir(layout.models_dir)
    # One that is there is damaged, or it would not have been built again; it may be the one in service all the same.
    if not (final.exists() and disk.exchange(files, final)):
        if final.exists():
            move_to_trash(layout, final)
        files.rename(final)
    atomic.fsync_dir(final.parent)
    atomic.fsync_dir(files.parent)
    empty_trash(layout)


def _flush(files: Path) -> None:
    """Contents and names reach the disk before the name that makes them appear; all may be read by the server."""
    for folder, _, names in os.walk(files):
        for name in names:
            fd = os.open(Path(folder) / name, os.O_RDONLY)
            try:
                os.fchmod(fd, _FILE_MODE)
                os.fsync(fd)
            finally:
                os.close(fd)
        Path(folder).chmod(_FOLDER_MODE)
        atomic.fsync_dir(Path(folder))
