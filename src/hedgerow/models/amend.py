"""Write a bundle that is made from another: a new folder, or files added to the one that is there.

Adding keeps an order: new files first, ``manifest.json`` last. Cut off between, the folder is refused
(``bundle.verify_files`` finds a file that nobody listed, or another content) until the same command is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hedgerow import atomic
from hedgerow.errors import PublisherError, UsageError
from hedgerow.models import place as places
from hedgerow.registry import bundle, manifest
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.manifest import File, Manifest


@contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """Yield a folder beside ``place`` that becomes ``place`` once the block ends well; otherwise nothing is left.

    Raises:
        UsageError: ``place`` exists and is no empty folder.
        MachineError: the disk is full.
    """
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError("the output folder is not empty", where=str(place), next_step="name another one, or remove it")
    place.parent.mkdir(parents=True, exist_ok=True)
    with places.full_disk_is_an_error(place), places.temporary_folder(place) as folder:
        yield folder
        places.make_durable(folder)
        if place.exists():
            place.rmdir()
        folder.rename(place)
    atomic.fsync_dir(place.parent)


def add_files(
    folder: Path,
    contents: Mapping[str, bytes],
    change: Callable[[Manifest], Manifest],
    *,
    drop: frozenset[str] = frozenset(),
) -> Bundle:
    """Put files into a bundle and write its manifest anew; return the bundle as it is then.

    ``change`` gets the manifest with the new list of files. ``drop`` names files that are removed unless they are in
    ``contents``. Files that stay are not read: whoever calls has verified them.

    Raises:
        UsageError: no bundle there.
        PublisherError: what would be written is no valid manifest.
        MachineError: the disk is full.
    """
    before = bundle.load(folder)
    kept = {file.path: file for file in before.manifest.files if file.path not in drop}
    files = kept | {path: _described(path, data) for path, data in contents.items()}
    listed = tuple(files[path] for path in sorted(files))
    # Not a Manifest of its own yet: it may name files that are listed only now, or no longer.
    bare = msgspec.structs.replace(before.manifest, files=listed, **_unnamed(before.manifest, drop - set(contents)))
    data = encode(change(bare), where=str(folder))
    with places.full_disk_is_an_error(folder):
        for path, content in sorted(contents.items()):
            atomic.write_bytes(folder / path, content)
        for path in sorted(drop - set(contents)):
            (folder / path).unlink(missing_ok=True)
        atomic.write_bytes(folder / manifest.FILE_NAME, data)
    return bundle.load(folder)


def encode(document: Manifest, *, where: str) -> bytes:
    """The bytes of ``document``.

    Raises:
        PublisherError: values that make no valid manifest.
    """
    try:
        return manifest.encode(document)
    except (msgspec.ValidationError, ValueError) as error:
        raise PublisherError(
            f"these values make no valid manifest: {error}", where=where, next_step="see: hedgerow model --help"
        ) from error


def _unnamed(document: Manifest, gone: frozenset[str]) -> dict[str, object]:
    """The fields that name files, without those that go: a manifest never names what it does not list."""
    return {
        "sbom": None if document.sbom in gone else document.sbom,
        "proofs": tuple(proof for proof in document.proofs if proof.path not in gone),
    }


def _described(path: str, data: bytes) -> File:
    return File(path=path, sha256=manifest.digest(data), size=len(data))
