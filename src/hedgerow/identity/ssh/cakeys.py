"""Keys for a CA: made in an encrypted file, or found on a token that holds them already."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from hedgerow import atomic
from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity.ssh import events, generations, keygen, publickey, store
from hedgerow.identity.ssh.generations import CaKey


def new_key(
    folder: Path,
    keys: Sequence[CaKey],
    kind: events.CaKind,
    state: generations.State,
    *,
    fleet: str,
    token: tuple[str, str] | None,
    now: dt.datetime,
) -> CaKey:
    """Make a key in an encrypted file, or take the one of ``token`` (library, label).

    Raises:
        UsageError: the token has no such key, or nobody named a passphrase file.
        RefusedError: the token's key was a key of this authority before.
    """
    name = generations.next_name(keys, kind)
    private = folder / store.KEYS / name
    if token is None:
        secret = keygen.passphrase_file()
        # What a killed run left is taken up: nothing trusts it yet.
        line = keygen.open_check(private, secret) if private.is_file() else keygen.generate(private, name, secret)
        return CaKey(
            kind=kind, name=name, state=state, public=publickey.parse(line, where=str(private)), since=events.text(now)
        )
    module, label = token
    found = [line for line, said in keygen.token_keys(module) if said == label]
    if len(found) != 1:
        raise UsageError(
            f"the token has {len(found)} keys labelled {label!r}",
            where=module,
            next_step=f"ssh-keygen -D {module} lists its keys with their labels",
        )
    if any(key.public == found[0] for key in keys):
        raise RefusedError(
            f"the token's key {label!r} has been a key of this authority already",
            where=module,
            next_step="make a new key on the token",
        )
    atomic.write_text(private.with_name(f"{name}.pub"), f"{found[0]} {name}@{fleet}\n")
    return CaKey(kind=kind, name=name, state=state, public=found[0], since=events.text(now), module=module)
