"""What a device is given first of a stage: its first root, as a file on the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hedgerow import atomic
from hedgerow.errors import UsageError
from hedgerow.registry.authority import settings

FIRST_ROOT: Final = "metadata/1.root.json"


def first_root(fleet: str, stage: str) -> Path:
    """Where the first root lies; in the stage's own folder where the registry lies in no folder.

    A stage that is not founded has none: the path is where it will be.

    Raises:
        HedgerowError: the registry lies elsewhere, and cannot be asked.
    """
    folder = settings.folder(fleet, stage)
    try:
        found = settings.load(folder)
    except UsageError:
        return folder / settings.STORE / FIRST_ROOT
    if "://" not in found.store:
        return (folder / found.store).resolve() / FIRST_ROOT
    kept = folder / Path(FIRST_ROOT).name
    if not kept.exists():
        from hedgerow.registry.authority.session import store_of  # signing libraries, which a play's filter can spare

        data = store_of(folder, found).get(FIRST_ROOT)
        if data is not None:
            atomic.write_bytes(kept, data)
    return kept
