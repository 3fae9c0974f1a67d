"""Read an OCI image layout, a folder or an archive of one, and hold every blob to its descriptor.

https://github.com/opencontainers/image-spec: ``image-layout.md`` (``oci-layout``, ``index.json``, ``blobs/sha256/…``),
``descriptor.md`` (size before digest, digest before use), ``media-types.md`` (Docker's names for the same). What
``podman save --format oci-archive``, ``skopeo copy … oci-archive:`` and ``docker save`` (from version 25) write.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol

from hedgerow.errors import PublisherError, UsageError

AGAIN: Final = "write it again: podman save --format oci-archive -o FILE IMAGE"
MAX_DOCUMENT: Final = 4 * 1024 * 1024
"""Bytes of an index, a manifest or a configuration."""
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Descriptor:
    """Names a blob: ``sha256`` (hex) and ``size`` in bytes of its content, and of what ``media_type`` that is."""

    media_type: str
    sha256: str
    size: int


class Files(Protocol):
    """The files of a layout, by their paths in it."""

    def open(self, name: str) -> IO[bytes]:
        """Raises KeyError where it is no file."""


class Layout:
    """A layout that was opened. ``where`` is the path that messages name."""

    def __init__(self, files: Files, where: str) -> None:
        self._files = files
        self.where = where
        version = self._json("oci-layout").get("imageLayoutVersion")
        if not str(version).startswith("1."):
            raise UsageError(f"its layout has version {version}; version 1 is read", where=where, next_step=AGAIN)

    def index(self) -> dict[str, Any]:
        """``index.json``."""
        return self._json("index.json")

    def _json(self, name: str) -> dict[str, Any]:
        try:
            with self._files.open(name) as file:
                return self._document(file.read(MAX_DOCUMENT + 1), name)
        except KeyError as error:
            raise UsageError(f"this is no OCI image: it has no {name}", where=self.where, next_step=AGAIN) from error

    def document(self, descriptor: Descriptor) -> dict[str, Any]:
        """The JSON that ``descriptor`` names.

        Raises:
            UsageError: it is too large, or no JSON object.
            PublisherError: as ``blob``.
        """
        if descriptor.size > MAX_DOCUMENT:
            raise UsageError(f"{descriptor.sha256} is too large for what it is", where=self.where, next_step=AGAIN)
        with self.blob(descriptor) as file:
            return self._document(file.read(MAX_DOCUMENT + 1), descriptor.sha256)

    def _document(self, data: bytes, name: str) -> dict[str, Any]:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name} is no JSON: {error}", where=self.where, next_step=AGAIN) from error
        if not isinstance(found, dict) or len(data) > MAX_DOCUMENT:
            raise UsageError(f"{name} is not what an image has there", where=self.where, next_step=AGAIN)
        return found

    @contextmanager
    def blob(self, descriptor: Descriptor) -> Iterator[IO[bytes]]:
        """The content that ``descriptor`` names, once all of it is what the descriptor says.

        Raises:
            PublisherError: it is not here, or not that.
        """
        name = f"blobs/sha256/{descriptor.sha256}"
        try:
            file = self._files.open(name)
        except KeyError as error:
            raise PublisherError(f"the image lacks {name}", where=self.where, next_step=AGAIN) from error
        with file:
            size = file.seek(0, 2)
            if size != descriptor.size:
                raise PublisherError(
                    f"{name} has {size} bytes; the image says {descriptor.size}", where=self.where, next_step=AGAIN
                )
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() != descriptor.sha256:  # type: ignore[arg-type]
                raise PublisherError(f"{name} is not what its name says", where=self.where, next_step=AGAIN)
            file.seek(0)
            yield file

    def descriptor(self, said: object) -> Descriptor:
        """``said`` in a document, as ``descriptor.md`` has it.

        Raises:
            UsageError: it is none, or names its blob by another hash than SHA-256.
        """
        given = said if isinstance(said, dict) else {}
        match given.get("digest"), given.get("size"), given.get("mediaType"):
            case str(digest), int(size), str(media_type) if (name := _DIGEST.fullmatch(digest)) and size >= 0:
                return Descriptor(media_type, name[1], size)
        raise UsageError("the image names a blob by no SHA-256, size and type", where=self.where, next_step=AGAIN)


@contextmanager
def open_layout(path: Path) -> Iterator[Layout]:
    """Open the layout at ``path``: a folder, or a plain tar of one.

    Raises:
        UsageError: it is none.
    """
    if path.is_dir():
        yield Layout(_Folder(path), str(path))
        return
    try:
        archive = tarfile.open(path, "r:", encoding="utf-8")  # noqa: SIM115 -- closed below; only opening is caught
    except (tarfile.TarError, FileNotFoundError, OSError) as error:
        raise UsageError(f"no image archive here: {error}", where=str(path), next_step=AGAIN) from error
    with archive:
        yield Layout(_Archive(archive, str(path)), str(path))


def is_layout(path: Path) -> bool:
    """Whether ``path`` is a folder that says it is an image layout."""
    return (path / "oci-layout").is_file()


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, name: str) -> IO[bytes]:
        path = self._path / name
        # No link, for what it names is not of this image; no pipe, for it would wait for ever.
        if path.is_symlink() or not path.is_file():
            raise KeyError(name)
        return path.open("rb")


class _Archive:
    def __init__(self, archive: tarfile.TarFile, where: str) -> None:
        self._archive = archive
        try:
            members = archive.getmembers()
        except (tarfile.TarError, EOFError, OSError, RecursionError) as error:
            raise UsageError(f"the archive is damaged: {error}", where=where, next_step=AGAIN) from error
        # Of a sparse one a few bytes could be exabytes.
        plain = (member for member in members if member.isreg() and member.sparse is None)
        self._members = {member.name.removeprefix("./"): member for member in plain}

    def open(self, name: str) -> IO[bytes]:
        file = self._archive.extractfile(self._members[name])
        assert file is not None  # noqa: S101 -- of a regular file
        return file
