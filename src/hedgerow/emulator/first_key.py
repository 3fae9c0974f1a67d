"""The key of a fleet's first contact: what an imager would have put on every card."""

from __future__ import annotations

import subprocess
from pathlib import Path


def ensure_first_contact_key(folder: Path, fleet: str) -> None:
    """Make ``first_contact_key`` and its ``.pub`` in ``folder`` unless both are there."""
    private = folder / "first_contact_key"
    if private.is_file() and private.with_suffix(".pub").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    private.unlink(missing_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"first contact, fleet {fleet}", "-f", str(private)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
