"""The gateway's part of publishing: say what is there, put one file in its place.

The standard library alone: ``hedgerow.remote_script`` sends this file's source.
A reader (nginx) sees an old file or a new one, never a part; what arrived is
hashed again before it gets its name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

_NAMED_BY_CONTENT = "targets/packs/"


class MirrorError(Exception):
    """What a person should read; ``remote_script`` carries the three parts to the controller."""

    def __init__(self, what: str, where: str, next_step: str) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


def listing(root: str) -> dict[str, list[int | str | None]]:
    """Path below ``root`` → ``[size, sha256]``; packs are not read, their hash is None."""
    top = Path(root)
    found: dict[str, list[int | str | None]] = {}
    for path in sorted(top.rglob("*")):
        if path.name.startswith(".") or not path.is_file():
            continue
        name = path.relative_to(top).as_posix()
        if name.startswith(_NAMED_BY_CONTENT):
            digest = None
        else:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[name] = [path.stat().st_size, digest]
    return found


def place(root: str, path: str, staged: str, sha256: str) -> dict[str, bool]:
    """Move the file ``staged`` to ``path`` below ``root``, readable by all, atomically and durably."""
    target = Path(root) / path
    for parent in reversed(target.parents):
        if not parent.exists():
            parent.mkdir()
            parent.chmod(0o755)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        arrived = _copy(Path(staged), temporary)
        if arrived == sha256:
            temporary.replace(target)
            _fsync_folder(target.parent)
    except OSError as error:
        free = shutil.disk_usage(target.parent).free // 1_000_000
        raise MirrorError(
            f"{path} cannot be written: {error.strerror}", where=f"{target} ({free} MB free)", next_step="make room"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    if arrived != sha256:
        raise MirrorError(
            f"{path} arrived with another content than it was sent with",
            where=staged,
            next_step="run the playbook again; if it stays, look at the disk and at what else writes the store",
        )
    Path(staged).unlink()
    return {"changed": True}


def _copy(source: Path, target: Path) -> str:
    """Write a durable copy of ``source``, readable by all; return the SHA-256 of what was written."""
    digest = hashlib.sha256()
    with target.open("wb") as new, source.open("rb") as old:
        while block := old.read(1 << 20):
            digest.update(block)
            new.write(block)
        os.fchmod(new.fileno(), 0o644)
        new.flush()
        os.fsync(new.fileno())
    return digest.hexdigest()


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
