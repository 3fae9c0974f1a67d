"""The root file system of an image as one tar, the same bytes for the same image: sorted, no owner, no time, two modes.

What a device then relies on, and checks again (``hedgerow.device.application_files``): folders stand before what is in
them, nothing twice, no link leads out, and what is mounted over by systemd is there to be mounted over.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Final

from hedgerow.device.application_files import MAX_ENTRIES
from hedgerow.device.application_unit import FILES_SEEN
from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.models.oci_tree import File, Folder, Link, Tree, TreeError

_MOUNTED: Final = ("dev", "proc", "run", "sys", "tmp", "var/tmp")
"""systemd mounts over these for a unit with a root of its own (``systemd.exec(5)``, MountAPIVFS=, PrivateTmp=)."""


def complete(tree: Tree, folders: list[str], where: str) -> None:
    """Add what is mounted over, and ``folders``: systemd would make them in a root that was placed and is whole.

    Raises:
        UsageError: something else stands there.
    """
    try:
        for path in _MOUNTED:
            tree.put(path, Folder())
        for path in FILES_SEEN:
            tree.put(path.removeprefix("/"), File(io.BytesIO(), 0, 0, executable=False))
        for path in folders:
            tree.make_folder(path)
    except TreeError as error:
        raise UsageError(
            f"the image has no place for a folder: {error}", where=where, next_step="build it with one"
        ) from error


def write(tree: Tree, target: Path, where: str) -> int:
    """Write ``tree`` to ``target``; return how many bytes its files are once unpacked.

    Raises:
        PublisherError: a link leads in a circle.
        RefusedError: a link leads out of the root, or it has more files than a device takes.
    """
    written: dict[int, str] = {}
    size = 0
    entries = tree.walk()
    if len(entries) > MAX_ENTRIES:
        raise RefusedError(
            f"the image has {len(entries)} files and folders; {MAX_ENTRIES} are allowed (rule: image-size)",
            where=where,
            next_step="leave out what it does not need",
        )
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for path, node in entries:
            entry = tarfile.TarInfo("/".join(path))
            if isinstance(node, Folder):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            elif isinstance(node, Link):
                entry.type, entry.mode, entry.linkname = tarfile.SYMTYPE, 0o777, _relative(tree, path, node, where)
                tar.addfile(entry)
            elif id(node) in written:
                entry.type, entry.mode, entry.linkname = tarfile.LNKTYPE, _mode(node), written[id(node)]
                tar.addfile(entry)
            else:
                written[id(node)] = entry.name
                entry.mode, entry.size = _mode(node), node.size
                node.source.seek(node.offset)
                tar.addfile(entry, node.source)
                size += node.size
    return size


def _mode(node: File) -> int:
    return 0o755 if node.executable else 0o644


def _relative(tree: Tree, path: tuple[str, ...], link: Link, where: str) -> str:
    """What ``link`` says, from its folder: an absolute one would lead out wherever the root lies.

    The folder of a link has no links above it, so this is the same place.
    """
    target = link.target
    if target.startswith("/"):
        target = "../" * (len(path) - 1) + (target.lstrip("/") or ".")
    try:
        outside = tree.find(target, start=path[:-1]).outside
    except TreeError as error:  # newer Pythons unpack none such
        raise PublisherError(
            f"the link {'/'.join(path)} to {link.target} {error}", where=where, next_step="build the image without it"
        ) from error
    if outside:
        raise RefusedError(
            f"{'/'.join(path)} is a link to {link.target}, out of the image (rule: stays-inside)",
            where=where,
            next_step="have it lead somewhere in the image",
        )
    return target
