"""A bundle on disk: read its manifest, and check every file against it.

A folder is a bundle when it holds ``manifest.json``, exactly the files that this
lists, and each has the size and SHA-256 that stand there. A file nobody listed
is an error too: what is not vouched for must not lie beside what is.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hedgerow.errors import PublisherError, UsageError
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import FILE_NAME, File, Manifest

# Large enough that hashing, not system calls, is the cost; small enough for a device with little free memory.
BLOCK = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder with its decoded manifest and its identity (SHA-256 of the manifest's bytes)."""

    directory: Path
    manifest: Manifest
    sha256: str


def load(directory: Path) -> Bundle:
    """Read ``directory/manifest.json``; the files are not looked at.

    Raises:
        UsageError: no bundle there.
        PublisherError: the manifest breaks a rule.
    """
    path = directory / FILE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(manifests.MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise UsageError(
            f"no bundle here: {FILE_NAME} is missing",
            where=str(directory),
            next_step="name a folder that `hedgerow model` built",
        ) from error
    return Bundle(directory, manifests.decode(data, where=str(path)), manifests.digest(data))


def verify_files(directory: Path, *, on_bytes: Callable[[int], None] | None = None) -> Bundle:
    """Check every file of the bundle in ``directory``; each is read once, in blocks.

    ``on_bytes`` is called with the number of bytes read since its last call.

    Raises:
        UsageError, PublisherError: as ``load``.
        PublisherError: a file is missing, extra, no regular file, or has another size or hash than the manifest says.
    """
    bundle = load(directory)
    listed = {file.path for file in bundle.manifest.files}
    for path in sorted(_present(directory) - listed - {FILE_NAME}):
        raise PublisherError(
            f"{path} is in the folder but not in the manifest",
            where=str(directory / path),
            next_step="remove the file, or build the bundle again",
        )
    for file in bundle.manifest.files:
        verify_file(directory, file, on_bytes=on_bytes)
    return bundle


def verify_file(directory: Path, file: File, *, on_bytes: Callable[[int], None] | None = None) -> None:
    """Check one file of a bundle; the size first, because that costs nothing.

    Raises:
        PublisherError: with the expected and the actual size or hash.
    """
    path = directory / file.path
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PublisherError(f"{file.path} is missing", where=str(path), next_step=_AGAIN) from error
    if not stat.S_ISREG(status.st_mode):
        raise PublisherError(f"{file.path} is no regular file", where=str(path), next_step=_AGAIN)
    if status.st_size != file.size:
        kind = "truncated" if status.st_size < file.size else "too long"
        raise PublisherError(
            f"{file.path} is {kind}: {status.st_size} bytes, the manifest says {file.size}",
            where=str(path),
            next_step=_AGAIN,
        )
    actual = hash_file(path, on_bytes=on_bytes)
    if actual != file.sha256:
        raise PublisherError(
            f"{file.path} was altered: sha256 {actual}, the manifest says {file.sha256}",
            where=str(path),
            next_step=_AGAIN,
        )


def describe_file(directory: Path, path: str) -> File:
    """Return the manifest's entry for ``directory/path``; what a builder calls once all files are written."""
    absolute = directory / path
    return File(path=path, sha256=hash_file(absolute), size=absolute.stat().st_size)


def describe_files(directory: Path) -> tuple[File, ...]:
    """Return the entries of every file below ``directory`` except the manifest, sorted by path."""
    return tuple(describe_file(directory, path) for path in sorted(_present(directory) - {FILE_NAME}))


def hash_file(path: Path, *, on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 (hex) of a file, read in blocks."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
            if on_bytes is not None:
                on_bytes(len(block))
    return hasher.hexdigest()


def _present(directory: Path) -> set[str]:
    """Every path below ``directory`` that is not a real folder, ``/``-separated; symbolic links are not followed."""
    return set(_walk(directory, ""))


def _walk(directory: Path, prefix: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}"


_AGAIN = "build or fetch the bundle again"
