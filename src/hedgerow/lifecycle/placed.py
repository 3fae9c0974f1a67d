"""Which files converging writes, as the roles' own tasks say: literal paths alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# Folders that nobody else has; and files that roles extend, which keep every foreign line.
_OURS = ("/etc/hedgerow/", "/var/lib/hedgerow/", "/usr/local/lib/hedgerow/", "/opt/hedgerow/")
_EXTENDED = frozenset({"/boot/firmware/config.txt", "/boot/firmware/cmdline.txt"})
_ACTIONS = ("hedgerow_files", "hedgerow_guarded")
_NESTED = ("block", "rescue", "always")


def paths(roles: Path) -> list[str]:
    """Every path at which a role below ``roles`` may replace somebody's file, sorted.

    Left out: paths with a variable in them, folders that are ours alone, files that are extended.
    """
    found = {
        path
        for file in roles.glob("*/tasks/*.yml")
        for task in _flat(yaml.safe_load(file.read_text(encoding="utf-8")) or [])
        for path in _of(task)
    }
    return sorted(path for path in found - _EXTENDED if "{{" not in path and not path.startswith(_OURS))


def _flat(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in tasks:
        yield task
        for key in _NESTED:
            yield from _flat(task.get(key) or [])


def _of(task: dict[str, Any]) -> Iterator[str]:
    for action in _ACTIONS:
        files = (task.get(action) or {}).get("files")
        for entry in files if isinstance(files, list) else []:
            if isinstance(entry, dict) and not {"directory", "link", "absent"} & entry.keys():
                place = entry.get("dest") or entry.get("template") or entry.get("file")
                yield f"/{str(place).removesuffix('.j2').lstrip('/')}"
