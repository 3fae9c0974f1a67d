"""Which edition of the time zone database local times are read by: two machines may differ by a change of the law."""

from __future__ import annotations

import importlib
import zoneinfo
from pathlib import Path

PACKAGE = "tzdata"
"""Python's own copy, which ``zoneinfo`` takes where the system has none."""
_MARK = "# version "


def version(folders: tuple[str, ...] | None = None) -> str | None:
    """As ``2025b``; None where the database does not say. ``folders``: None are those that ``zoneinfo`` searches."""
    for folder in zoneinfo.TZPATH if folders is None else folders:
        try:
            with (Path(folder) / "tzdata.zi").open(encoding="utf-8") as file:
                first = file.readline(100)
        except (OSError, UnicodeDecodeError):
            continue
        return first.removeprefix(_MARK).strip() if first.startswith(_MARK) else None
    try:
        found: object = importlib.import_module(PACKAGE).IANA_VERSION
    except (ImportError, AttributeError):
        return None
    return str(found)
