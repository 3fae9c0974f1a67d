"""Apply an image's layers to a tree. All that a layer may not do to a device is refused here, by name of a rule.

https://github.com/opencontainers/image-spec/blob/main/layer.md: "Whiteouts" (of a layer they come first, wherever they
stand in it, and touch what lower layers brought), "Changeset over existing files" (``oci_tree.Tree.put``), "Hardlinks",
"Distributable Format" (no path twice), "File Attributes" (no sparse files). ``config.md``: a layer's DiffID is the
SHA-256 of its plain tar.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

import zstandard

from hedgerow.device.application_files import MAX_ENTRIES
from hedgerow.errors import PublisherError, RefusedError
from hedgerow.models.oci_image import Image, Layer
from hedgerow.models.oci_layout import AGAIN, Layout
from hedgerow.models.oci_tree import File, Folder, Link, Node, Tree, TreeError

MAX_BYTES: Final = 1024 * 1024 * 1024
"""Of all layers together, unpacked: a device copies that twice within the time that its switch has."""
_SMALLER: Final = f"leave out what it does not need; {MAX_BYTES // 1024**2} MB and {MAX_ENTRIES} files are allowed"
_PREFIX: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_LONGEST_PATH: Final = 4000
_LONGEST_NAME: Final = 255
_LONGEST_HEADER: Final = 1024 * 1024
_CHUNK: Final = 1024 * 1024
_ZSTD_WINDOW: Final = 128 * 1024 * 1024
_UNPRINTED: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and bytes that are no UTF-8."""
_SPECIAL: Final = 0o6000
"""setuid and setgid."""
_CAPABILITIES: Final = ("SCHILY.xattr.security.capability", "LIBARCHIVE.xattr.security.capability")
_TAKE_OUT: Final = "take it out (chmod a-s FILE, setcap -r FILE, or rm), or have it packed without: --drop-setuid"


_DAMAGED: Final = (
    TreeError, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, RecursionError
)  # fmt: skip


@dataclass
class Limits:
    """What is left of what all layers together may be. ``drop_setuid``: take rights away instead of refusing them."""

    bytes: int = MAX_BYTES
    entries: int = MAX_ENTRIES
    drop_setuid: bool = False


@contextmanager
def applied(layout: Layout, image: Image, scratch: Path, limits: Limits) -> Iterator[Tree]:
    """The root file system that the layers of ``image`` make. Its contents lie in files without names in ``scratch``.

    Raises:
        PublisherError: a layer is damaged, or not what the image says.
        RefusedError: it is too large, or something in it could lead out or gain rights.
    """
    tree = Tree()
    with ExitStack() as stack:
        for layer in image.layers:
            where = f"{layout.where}, layer {layer.blob.sha256[:12]}"
            plain = stack.enter_context(tempfile.TemporaryFile(dir=scratch))
            try:
                _unpack(layout, layer, cast("IO[bytes]", plain), where, limits)
                _apply(tree, cast("IO[bytes]", plain), where, limits)
            except _DAMAGED as error:
                raise PublisherError(f"a layer is damaged: {error}", where=where, next_step=AGAIN) from error
        yield tree


def _unpack(layout: Layout, layer: Layer, plain: IO[bytes], where: str, limits: Limits) -> None:
    """Write the layer's plain tar to ``plain``: no more of it than is allowed, and what its DiffID says."""
    hasher = hashlib.sha256()
    if layer.blob.size > limits.bytes:
        raise _too_large(where)
    with layout.blob(layer.blob) as blob, _opened(blob, layer.compression) as source:
        while data := source.read(_CHUNK):
            limits.bytes -= len(data)
            if limits.bytes < 0:
                raise _too_large(where)
            hasher.update(data)
            plain.write(data)
    if hasher.hexdigest() != layer.diff_id:
        raise PublisherError("a layer is not what the image's configuration says", where=where, next_step=AGAIN)


def _too_large(where: str) -> RefusedError:
    return RefusedError("the image is larger than a device takes (rule: image-size)", where=where, next_step=_SMALLER)


def _opened(blob: IO[bytes], compression: str) -> IO[bytes]:
    if compression == "gzip":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=blob, mode="rb"))
    if compression == "zstd":
        # A frame may ask for a window of terabytes.
        unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        return cast("IO[bytes]", unpacker.stream_reader(blob, read_across_frames=True, closefd=False))
    return blob


def _apply(tree: Tree, plain: IO[bytes], where: str, limits: Limits) -> None:
    members = list(_members(plain, limits, where))
    for name, _ in members:
        above, _, base = name.rpartition("/")
        if base == _OPAQUE:
            tree.empty(above)
        elif base.startswith(_PREFIX):
            tree.white_out(f"{above}/{_hidden(base)}")
    seen: set[str] = set()
    for name, member in members:
        hidden = [each.startswith(_PREFIX) for each in name.split("/")]
        if any(hidden):
            if any(hidden[:-1]) or not member.isreg():
                raise TreeError(f"{name} has a name that only whiteouts have")
            continue
        if name in seen and not member.isdir():
            raise TreeError(f"{name} is there twice")
        seen.add(name)
        _check(member, where, limits)
        try:
            tree.put(name, _node(tree, member, plain))
        except TreeError as error:
            raise TreeError(f"{name} {error}") from error


def _hidden(base: str) -> str:
    name = base.removeprefix(_PREFIX)
    if name in {"", ".", ".."}:
        raise TreeError(f"{base} hides no name")
    return name


def _members(plain: IO[bytes], limits: Limits, where: str) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Entries and their names, without ``./``; the root itself is none."""
    plain.seek(0)
    with tarfile.open(
        fileobj=cast("IO[bytes]", _Headers(plain)), mode="r:", encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for member in archive:
            limits.entries -= 1
            if limits.entries < 0:
                raise RefusedError(
                    "the image has more files than a device takes (rule: image-size)", where=where, next_step=_SMALLER
                )
            name = _name(member, where)
            if name:
                yield name, member
        end = archive.offset
    # tarfile takes what it cannot read for the end; another program might go on.
    plain.seek(end)
    while data := plain.read(_CHUNK):
        if data.strip(b"\0"):
            raise TreeError("something stands behind its end")


class _Headers:
    """A file that ``tarfile`` finds headers in. It would take a header of a gigabyte into memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError("a header is too long")
        return self._file.read(size)


def _name(member: tarfile.TarInfo, where: str) -> str:
    """The path of an entry, as names joined by ``/``."""
    names = [name for name in member.name.split("/") if name not in {"", "."}]
    if member.name.startswith("/") or ".." in names:
        raise RefusedError(f"{member.name!r} leads out of the image (rule: stays-inside)", where=where, next_step=AGAIN)
    for text in (member.name, member.linkname):
        if _UNPRINTED.search(text) or len(text) > _LONGEST_PATH:
            raise TreeError(f"{text[:80]!r} is no path that a device could have")
    if any(len(name.encode()) > _LONGEST_NAME for name in names):
        raise TreeError(f"{member.name[:80]!r} is longer than a name can be")
    return "/".join(names)


def _check(member: tarfile.TarInfo, where: str, limits: Limits) -> None:
    """Raise RefusedError for what could gain rights. A device would drop them anyhow; here the author gets to know."""
    if member.isdev():
        kind = "pipe" if member.isfifo() else "device node"
        raise RefusedError(
            f"{member.name} is a {kind} (rule: no-devices)", where=where, next_step="build the image without it"
        )
    if limits.drop_setuid:
        return
    if not member.isdir() and not member.issym() and member.mode & _SPECIAL:
        raise RefusedError(
            f"{member.name} has mode {member.mode:04o}: whoever starts it becomes its owner (rule: no-setuid)",
            where=where,
            next_step=_TAKE_OUT,
        )
    if any(key in member.pax_headers for key in _CAPABILITIES):
        raise RefusedError(
            f"{member.name} has capabilities of its own (rule: no-capabilities)", where=where, next_step=_TAKE_OUT
        )


def _node(tree: Tree, member: tarfile.TarInfo, plain: IO[bytes]) -> Node:
    if member.isdir():
        return Folder()
    if member.issym():
        if not member.linkname:
            raise TreeError("is a link to nothing")
        return Link(member.linkname)
    if member.islnk():
        node = tree.find(f"/{member.linkname}", follow=False).node
        if node is None or isinstance(node, Folder):
            raise TreeError(f"is a hard link to {member.linkname}, which is no file of the image")
        return node
    if not member.isreg() or member.sparse is not None:
        raise TreeError("is neither file, folder nor link")
    return File(plain, member.offset_data, member.size, bool(member.mode & 0o111))
