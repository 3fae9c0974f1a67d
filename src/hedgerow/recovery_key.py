"""The key that opens a host's encrypted data partition when its TPM cannot: one file a host, on the controller.

It is made before the disk is encrypted, so that no run can be cut off between a disk that needs it and a file that has
it. A host that encrypts another disk later keeps its key: the first disk may still lie in a drawer.
"""

from __future__ import annotations

import base64
import re
import secrets
import stat
from pathlib import Path

from hedgerow import atomic, paths
from hedgerow.errors import RefusedError, UsageError

_BYTES = 32
_FORM = re.compile(r"[a-z2-7]{4}(-[a-z2-7]{4}){12}")


def path(fleet: str, host: str) -> Path:
    return paths.fleet_dir(fleet) / "storage" / f"{host}.recovery"


def ensure(file: Path) -> str:
    """The key in ``file``, made where there is none: 256 random bits in thirteen groups that can be typed."""
    if not file.exists():
        file.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        text = base64.b32encode(secrets.token_bytes(_BYTES)).decode().rstrip("=").lower()
        atomic.write_text(file, "-".join(text[i : i + 4] for i in range(0, len(text), 4)) + "\n", mode=0o600)
    return load(file)


def load(file: Path) -> str:
    """Read it.

    Raises:
        UsageError: it is missing or damaged.
        RefusedError: others can read it.
    """
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the recovery key cannot be read: {error}", where=str(file), next_step="restore it from your backup"
        ) from error
    if mode & 0o077:
        raise RefusedError(
            f"others can read the recovery key (mode {mode:04o})", where=str(file), next_step=f"chmod 600 {file}"
        )
    if not _FORM.fullmatch(text):
        raise UsageError("this is no recovery key", where=str(file), next_step="restore it from your backup")
    return text
