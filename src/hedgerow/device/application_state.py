"""How applications were when they were last looked at: what the application switch wrote down, for the health report.

Below ``/run``, so that it is gone with the boot it belongs to. The switch writes it with everything that it does; the
agent asks it to look every few seconds.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hedgerow.device.health import ApplicationState

FILE = Path("/run/hedgerow-applications/state.json")


class _Seen(msgspec.Struct, frozen=True):
    """One, as ``application_switch.Switch.look`` has it."""

    name: str
    version: str | None
    active: bool
    started: bool
    restarts: int
    silent: tuple[str, ...]
    state: str


class _File(msgspec.Struct, frozen=True):
    applications: tuple[_Seen, ...]


_FILES: msgspec.json.Decoder[_File] = msgspec.json.Decoder(_File)


def read(path: Path = FILE) -> tuple[ApplicationState, ...] | None:
    """All that this device runs; None where it runs none, or nobody has looked since boot."""
    try:
        found = _FILES.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return tuple(_state(each) for each in found.applications)


def _state(seen: _Seen) -> ApplicationState:
    installed = seen.version is not None
    return ApplicationState(
        name=seen.name,
        version=seen.version,
        active=seen.active and seen.started,
        restarts=seen.restarts,
        answers=not seen.silent if installed and seen.active else None,
        trouble=_trouble(seen) if installed else None,
    )


def _trouble(seen: _Seen) -> str | None:
    if not seen.started:
        return f"{seen.version} is in place and was not started"
    if not seen.active:
        return seen.state
    return f"nobody answers at {', '.join(seen.silent)}" if seen.silent else None
