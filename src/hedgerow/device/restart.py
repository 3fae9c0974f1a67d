"""Reboot a host and say how it is before and after, for whoever waits elsewhere.

Sent to the host by ``hedgerow.remote_script``: standard library only. A boot is told from another by the kernel's boot
id, not by the time that passed: a Pi without a battery may come back with the clock of an hour ago.
"""

from __future__ import annotations

import contextlib
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

_TIMEOUT_S = 20
_HEALTH = "http://127.0.0.1:8000/health/live"
_SERVER = "hedgerow-server.service"


class RestartError(Exception):
    """What a person must read; ``hedgerow.remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


def state() -> dict[str, Any]:
    """``boot_id``, systemd's verdict, failed units, and whether the server answers (None: it is not wanted to run)."""
    return {
        "boot_id": boot_id(),
        "system": _output("systemctl", "is-system-running").strip(),
        "failed": failed_units(_output("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager")),
        "server": _server_answers() if _output("systemctl", "is-enabled", _SERVER).strip() == "enabled" else None,
    }


def reboot(delay_s: int = 1) -> dict[str, Any]:
    """Reboot a moment after this returned; returns ``state`` as it was."""
    before = state()
    done = subprocess.run(
        [
            "systemd-run",
            "--collect",
            f"--on-active={delay_s}",
            "--timer-property=AccuracySec=100ms",
            "systemctl",
            "reboot",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RestartError(f"the reboot could not be asked for: {done.stderr.strip()}", next_step="systemctl status")
    return before


def boot_id(root_file: Path = Path("/etc/hedgerow/hardware-root")) -> str | None:
    """This boot's, below the hardware root where there is one (``hedgerow.device.hardware``)."""
    root = Path("/")
    with contextlib.suppress(OSError):
        lines = root_file.read_text(encoding="utf-8").split()
        root = Path(lines[0]) if lines else root
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def failed_units(listing: str) -> list[str]:
    return sorted(line.split()[0] for line in listing.splitlines() if line.strip())


def _server_answers() -> bool:
    try:
        with urllib.request.urlopen(_HEALTH, timeout=_TIMEOUT_S) as answer:
            return bool(answer.status == 200)  # noqa: PLR2004 - HTTP's "OK"
    except (OSError, urllib.error.URLError):
        return False


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
