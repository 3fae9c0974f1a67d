"""The gateway's part of dropping what its web server has kept of an origin.

The standard library alone: ``hedgerow.remote_script`` sends this file's source. nginx writes the key of each file of
its cache into the file's own head, a line ``KEY: /targets/packs/ab/…bytes=0-1048575`` or
``KEY: https://ORIGIN /metadata/…``; a file that is removed under a running nginx is fetched again when it is asked for.
"""

from __future__ import annotations

import re
from pathlib import Path

_HEAD = 4096
_KEY = re.compile(rb"\nKEY: ([^\n]*)\n")
_SLICE = re.compile(r"bytes=\d+-\d+$")


class PurgeError(Exception):
    """What a person should read; ``remote_script`` carries the three parts to the controller."""

    def __init__(self, what: str, where: str, next_step: str) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


def purge(root: str, path: str) -> dict[str, object]:
    """Remove what is kept of ``path`` (``targets/packs/ab/…``, or a folder with ``/`` at its end; ``/``: all of it).

    Returns ``changed`` and what was removed: ``files`` of the cache, their ``bytes``, and the ``paths`` they held.
    """
    top = Path(root)
    if not top.is_dir():
        raise PurgeError("this gateway caches no origin", where=root, next_step="set registry_mirror_origin, converge")
    wanted = "/" + path.lstrip("/")
    found = [(file, held) for file in sorted(top.rglob("*")) if (held := _held(file)) and _matches(held, wanted)]
    removed = 0
    for file, _ in found:
        try:
            size = file.stat().st_size
            file.unlink()
        except FileNotFoundError:  # nginx needed the room meanwhile
            continue
        removed += size
    return {
        "changed": bool(found),
        "files": len(found),
        "bytes": removed,
        "paths": sorted({held for _, held in found}),
    }


def _matches(held: str, wanted: str) -> bool:
    return held.startswith(wanted) if wanted.endswith("/") else held == wanted


def _held(file: Path) -> str | None:
    """The path whose bytes a file of the cache has; None for one that is no file of it, or is gone."""
    try:
        if not file.is_file():
            return None
        with file.open("rb") as opened:
            found = _KEY.search(opened.read(_HEAD))
    except FileNotFoundError:
        return None
    if found is None:
        return None
    return _SLICE.sub("", found[1].decode("utf-8", "replace").rpartition(" ")[2])
