"""The authority's folder: its state, its lock, its keys, and the public files that follow from them.

``trust/`` is made from the state and the log alone, so it may be lost. Hosts get:

- ``user_ca.pub``: the user CA's trusted keys;
- ``revoked.krl``: what counts no longer, of users and hosts; there even if empty, because sshd refuses every key where
  ``RevokedKeys`` names no file;
- ``break_glass.pub``: the key in the safe; empty where there is none.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from hedgerow import atomic
from hedgerow.chainlog import ChainLog
from hedgerow.errors import UsageError
from hedgerow.identity.ssh import events, generations, keygen, publickey
from hedgerow.identity.ssh.generations import Authority, CaKey

FOLDER: Final = "ssh-ca"
STATE: Final = "authority.json"
KEYS: Final = "keys"
TRUST: Final = "trust"
CHALLENGES: Final = "challenges"
USER_CA: Final = "user_ca.pub"
KRL: Final = "revoked.krl"
BREAK_GLASS: Final = "break_glass.pub"


def folder_of(fleet_dir: Path) -> Path:
    return fleet_dir / FOLDER


def read(folder: Path) -> Authority:
    """The state.

    Raises:
        UsageError: there is no authority, or its state is damaged.
    """
    path = folder / STATE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Authority)
    except FileNotFoundError as error:
        raise UsageError(
            "the fleet has no SSH authority yet", where=str(path), next_step="hedgerow ssh init -i INVENTORY"
        ) from error
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"the SSH authority's state is damaged: {error}", where=str(path), next_step="restore it from your backup"
        ) from error


def write(folder: Path, state: Authority) -> None:
    atomic.write_bytes(folder / STATE, msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the authority: ``shared`` among signers, else alone. The lock ends with the process.

    Signers run side by side (a passphrase takes a third of a second to stretch); nothing is signed between a
    revocation's look and its line.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def signing_key(folder: Path, key: CaKey) -> keygen.Key:
    """What ``keygen.sign`` takes: a token is asked for the key whose public part this is."""
    private = folder / KEYS / key.name
    return keygen.Key(private.with_name(f"{key.name}.pub"), key.module) if key.module else keygen.Key(private)


def lines(log: ChainLog[events.Line]) -> list[events.Line]:
    return [entry.value for entry in log.entries()]


def revoked_keys(written: Iterable[events.Line]) -> list[str]:
    """Fingerprints of keys that count no more, in the order of their revocation."""
    return list(dict.fromkeys(key for line in written if isinstance(line, events.Revoked) for key in line.keys))


def revoked_serials(written: Iterable[events.Line]) -> dict[str, list[str]]:
    """Serial numbers that count no more, by the name of the CA key that signed them."""
    found: dict[str, dict[str, None]] = {}
    for line in written:
        if isinstance(line, events.Revoked):
            for name, serials in line.serials.items():
                found.setdefault(name, {}).update(dict.fromkeys(serials))
    return {name: list(serials) for name, serials in found.items()}


def write_trust(folder: Path, state: Authority, log: ChainLog[events.Line]) -> None:
    """Make ``trust/`` anew; the list's number counts revocations, so it never goes back."""
    written = lines(log)
    trust = folder / TRUST
    keys = "".join(f"{key.public} {key.name}@{state.fleet}\n" for key in generations.trusted(state.keys, "user"))
    atomic.write_text(trust / USER_CA, keys)
    publics = {key.name: key.public for key in state.keys}
    serials = {publics[name]: numbers for name, numbers in revoked_serials(written).items() if name in publics}
    number = sum(isinstance(line, events.Revoked) for line in written)
    atomic.write_bytes(trust / KRL, keygen.revocation_list(number, revoked_keys(written), serials))
    atomic.write_text(trust / BREAK_GLASS, break_glass(folder))


def break_glass(folder: Path) -> str:
    """The public key in the safe as a line; empty where there is none."""
    path = folder / KEYS / BREAK_GLASS
    return f"{publickey.parse(path.read_text(encoding='utf-8'), where=str(path))}\n" if path.is_file() else ""
