"""What was measured of a host before its activation: ``rollouts/<id>/baselines/<host>.json``.

Beside it, in ``<host>.controls.json``, is what hosts without the release have answered in the same time, by name.

A file, because the step that measures and the step that compares are two processes, and because a controller that was
killed between them must not lose what can never be measured again.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def save_controls(rollout: Path, host: str, windows: Mapping[str, Window]) -> None:
    """Keep what the hosts that ``host`` is compared with have answered."""
    (rollout / FOLDER).mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(_controls(rollout, host), msgspec.json.encode(windows) + b"\n", mode=0o644)


def load_controls(rollout: Path, host: str) -> dict[str, Window]:
    """What was kept of them; {} as ``load`` has None."""
    try:
        return msgspec.json.decode(_controls(rollout, host).read_bytes(), type=dict[str, Window])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def _controls(rollout: Path, host: str) -> Path:
    return rollout / FOLDER / f"{host}.controls.json"


def load(rollout: Path, host: str) -> Window | None:
    """What was kept; None if nothing was, or by a release that wrote it another way: then nothing is compared."""
    try:
        return msgspec.json.decode((rollout / FOLDER / f"{host}.json").read_bytes(), type=Window)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
