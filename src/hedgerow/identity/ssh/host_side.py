"""The host's half of its SSH certificate: what it has, and putting a new one in place. Standard library only.

The controller sends this module (``plugins/action/hedgerow_ssh_host.py``). The host's private key is never read.

- A certificate is put in place only if ``ssh-keygen`` reads it as one for this host's key, beside the old one and by
  one rename: with a full disk, or a certificate that is wrong, the old one stays.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

KEY = "ssh_host_ed25519_key"


class HostSideError(Exception):
    """What a person must read; ``hedgerow.remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


def status(*, directory: str, certificate: str) -> dict[str, Any]:
    """The host's public key and the certificate at the path ``certificate``; None where there is none."""
    public = Path(directory, f"{KEY}.pub")
    try:
        key = public.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise HostSideError(
            f"the host's SSH key cannot be read: {error}",
            where=str(public),
            next_step="dpkg-reconfigure openssh-server makes the host's keys; first contact pins the new one",
        ) from error
    try:
        present: str | None = Path(certificate).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        present = None
    return {"public_key": key, "certificate": present}


def install(*, directory: str, certificate: str, text: str) -> dict[str, Any]:
    """Put the certificate ``text`` at the path ``certificate`` (root's, 0644).

    Raises:
        HostSideError: it is none for this host's key, or the disk does not take it; the old one is as it was.
    """
    target = Path(certificate)
    temporary = None
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        temporary = Path(name)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        _require_ours(temporary, Path(directory, f"{KEY}.pub"))
        temporary.replace(target)
    except OSError as error:
        raise HostSideError(
            f"the certificate cannot be written: {error.strerror}",
            where=str(target),
            next_step="make room on the disk, then run again; the old certificate is in place",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return {"changed": True}


def _require_ours(certificate: Path, public: Path) -> None:
    shown = [_fingerprint(path) for path in (certificate, public)]
    if shown[0] is None or shown[0] != shown[1]:
        raise HostSideError(
            "the certificate is not for this host's key",
            where=str(public),
            next_step="run again; if it stays, find out who else answers at this host's address",
        )


def _fingerprint(path: Path) -> str | None:
    """``SHA256:…`` of a key, and of the key that a certificate is for."""
    try:
        done = subprocess.run(
            ["ssh-keygen", "-l", "-f", str(path)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    return words[1] if done.returncode == 0 and len(words) > 1 else None
