"""What was measured of a host before its activation: ``rollouts/<id>/baselines/<host>.json``.

A file, because the step that measures and the step that compares are two processes, and because a controller that was
killed between them must not lose what can never be measured again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hedgerow import atomic
from hedgerow.rollout.gate.samples import Window

FOLDER = "baselines"


def save(rollout: Path, host: str, window: Window) -> None:
    """Keep ``window`` for ``host`` in the folder of its rollout."""
    folder = rollout / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(folder / f"{host}.json", msgspec.json.encode(window) + b"\n", mode=0o644)


def load(rollout: Path, host: str) -> Window | None:
    """What was kept; None if nothing was, or by a release that wrote it another way: then nothing is compared."""
    try:
        return msgspec.json.decode((rollout / FOLDER / f"{host}.json").read_bytes(), type=Window)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
