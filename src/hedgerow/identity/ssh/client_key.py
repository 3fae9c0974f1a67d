"""An operator's key: made fresh for each certificate, in a file or in the SSH agent alone.

A key that lives as long as its certificate is one key less to lose. The agent gets it through standard input and
forgets it when the certificate ends: then it never was on a disk.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hedgerow import atomic
from hedgerow.errors import MachineError

# Not ssh-keygen's own name: a folder of the operator's may hold a key of that name.
NAME = "hedgerow_ed25519"


@dataclass(frozen=True)
class Files:
    """Where an operator's key and certificates are, below one folder (0700); ``key`` may be in the agent alone."""

    folder: Path

    @property
    def key(self) -> Path:
        return self.folder / NAME

    @property
    def public(self) -> Path:
        return self.folder / f"{NAME}.pub"

    @property
    def certificate(self) -> Path:
        return self.folder / f"{NAME}-cert.pub"

    @property
    def jump(self) -> Path:
        return self.folder / f"{NAME}-jump-cert.pub"


def folder(fleet_dir: Path, name: str) -> Path:
    """Where the files of an operator on this controller are."""
    return fleet_dir / "ssh" / "operators" / name


def fresh() -> tuple[bytes, str]:
    """A new key (OpenSSH's format, no passphrase) and its public line."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def write(files: Files, private: bytes | None, public: str, certificate: str, jump: str | None) -> None:
    """Put what was signed in place; without ``private`` the key is elsewhere: in an agent, on another machine."""
    files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.folder.chmod(0o700)
    if private is not None:
        atomic.write_bytes(files.key, private, mode=0o600)
    else:
        files.key.unlink(missing_ok=True)
    atomic.write_text(files.public, f"{public}\n")
    atomic.write_text(files.certificate, f"{certificate}\n")
    if jump is None:
        files.jump.unlink(missing_ok=True)
    else:
        atomic.write_text(files.jump, f"{jump}\n")


def to_agent(private: bytes, life: dt.timedelta) -> None:
    """Give the key to the SSH agent for ``life``.

    Raises:
        MachineError: there is no agent, or it refuses.
    """
    seconds = str(max(1, int(life.total_seconds())))
    try:
        done = subprocess.run(
            ["ssh-add", "-q", "-t", seconds, "-"], input=private, capture_output=True, timeout=30, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"ssh-add cannot be run: {error}", next_step="apt-get install openssh-client") from error
    if done.returncode != 0:
        raise MachineError(
            f"the SSH agent did not take the key: {done.stderr.decode('utf-8', 'replace').strip()}",
            where=f"SSH_AUTH_SOCK={os.environ.get('SSH_AUTH_SOCK', '')}",
            next_step='eval "$(ssh-agent)", or leave --agent out',
        )
