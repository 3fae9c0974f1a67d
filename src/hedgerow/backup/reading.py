"""Read a backup as a stream, each file held to its manifest. Whoever reads to the end has a whole one."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

from hedgerow.backup.age import Reader
from hedgerow.backup.age_keys import OTHER_COPY, DamagedError, Opener
from hedgerow.backup.manifest import MAX_BYTES, NAME, Item, Manifest, ManifestError, decode
from hedgerow.errors import UsageError

_CHUNK: Final = 1 << 20

Take = Callable[[Item, Iterator[bytes]], None]
"""Called for each item in turn with its content in pieces, which must be read to their end; nothing of a link."""


def manifest_of(path: Path, openers: Sequence[Opener]) -> Manifest:
    """The manifest alone, from the file's beginning; the rest is not looked at.

    Raises as ``read`` does.
    """
    with _opened(path, openers) as (archive, _):
        return _manifest(archive, path)


def read(path: Path, openers: Sequence[Opener], take: Callable[[Manifest], Take]) -> Manifest:
    """Read the whole backup. ``take`` gets the manifest and gives what is called for each item.

    Raises:
        UsageError: there is no such file, or the key or passphrase is not its.
        DamagedError: it was cut off or altered.
        ManifestError: its files are not what its manifest says.
    """
    with _opened(path, openers) as (archive, reader):
        manifest = _manifest(archive, path)
        expected = iter(manifest.items)
        each = take(manifest)
        # Not by iterating, which would begin at the archive's first member again.
        while (member := archive.next()) is not None:
            item = next(expected, None)
            if item is None or member.name != item.path:
                raise ManifestError("a file is in the backup that its manifest does not name", where=member.name[:200])
            _one(archive, member, item, each)
        missing = next(expected, None)
        if missing is not None:
            raise ManifestError("a file of the manifest is not in the backup", where=missing.path)
        # The archive ends before the file does; that the file is whole shows only at its own end.
        reader.drain()
    return manifest


def verify(path: Path, openers: Sequence[Opener]) -> Manifest:
    """Read it all and keep nothing; raises as ``read`` does."""

    def drop(_item: Item, content: Iterator[bytes]) -> None:
        for _ in content:
            pass

    return read(path, openers, lambda _manifest: drop)


@contextmanager
def _opened(path: Path, openers: Sequence[Opener]) -> Iterator[tuple[tarfile.TarFile, Reader]]:
    try:
        with path.open("rb") as file:
            reader = Reader(file, openers)
            with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|gz") as archive:
                yield archive, reader
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError("there is no such backup", where=str(path)) from error
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise DamagedError(
            f"the backup's archive is damaged: {error}", where=str(path), next_step=OTHER_COPY
        ) from error
    except DamagedError as error:
        raise DamagedError(error.what, where=str(path), next_step=error.next_step) from error


def _manifest(archive: tarfile.TarFile, path: Path) -> Manifest:
    member = archive.next()
    file = archive.extractfile(member) if member is not None and member.name == NAME else None
    if member is None or file is None or member.size > MAX_BYTES:
        raise ManifestError("this is no backup of a fleet", where=str(path), next_step="see what it is: age -d | tar t")
    return decode(file.read())


def _one(archive: tarfile.TarFile, member: tarfile.TarInfo, item: Item, take: Take) -> None:
    if item.link is not None:
        if not member.issym() or member.linkname != item.link:
            raise ManifestError("a link is not what the manifest says", where=item.path)
        take(item, iter(()))
        return
    file = archive.extractfile(member) if member.isreg() else None
    if file is None or member.size != item.size:
        raise ManifestError("a file is not what the manifest says", where=item.path)
    digest = hashlib.sha256()

    def content() -> Iterator[bytes]:
        while data := file.read(_CHUNK):
            digest.update(data)
            yield data

    take(item, content())
    if digest.hexdigest() != item.sha256:
        raise ManifestError("a file has not the hash that the manifest says", where=item.path)
