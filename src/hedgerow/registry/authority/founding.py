"""Found a stage: its keys, its settings, its first metadata. What is there already is kept.

Two ways. A **ceremony** names root's keys; whoever may build and approve is delegated to afterwards. Without such names
every key is **made here**: root, targets, a builder's and an approver's, who may speak for bundles of every kind. A
small fleet needs no more, and any of them can be rotated to other hands later.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from hedgerow import atomic
from hedgerow.errors import UsageError
from hedgerow.registry import trust_names as names
from hedgerow.registry.authority import changing, keys, log, settings
from hedgerow.registry.authority.changing import RoleKeys
from hedgerow.registry.authority.keys import Passphrases
from hedgerow.registry.authority.roles import ONLINE, ROOT, TARGETS
from hedgerow.registry.authority.session import Session
from hedgerow.registry.authority.settings import KeyEntry, Settings
from hedgerow.registry.authority.settling import Settled

BUILDER: Final = "builder"
APPROVER: Final = "approver"
ONLINE_PASSPHRASE: Final = "online.passphrase"  # noqa: S105 - a file's name
KEYS_PASSPHRASE: Final = "keys.passphrase"  # noqa: S105 - a file's name


def found(
    folder: Path,
    fleet: str,
    stage: str,
    *,
    passphrases: Passphrases,
    roots: Mapping[str, str] | None = None,
    root_threshold: int = 1,
    store: str | None = None,
    unattended: bool = False,
    now: Callable[[], datetime] | None = None,
) -> tuple[Session, Settled]:
    """Make what the stage in ``folder`` lacks; the stage, opened, and what that did.

    ``roots`` maps names of root's keys to their owners; None or empty: every key is made here. ``unattended``: keys
    made here get a passphrase that lies in a file beside them (0600), so that nobody is asked for it. ``now`` dates the
    metadata.

    Raises:
        UsageError: no good name, a passphrase that is too short, or a threshold that cannot be reached.
        RefusedError: somebody else works on this registry.
    """
    made = described(folder, fleet, stage, store)
    here = not roots and (TARGETS not in made.keys or BUILDER in made.keys)
    wanted = dict(roots or {}) | {TARGETS: log.operator()}
    if here:
        wanted |= dict.fromkeys((ROOT, BUILDER, APPROVER), log.operator())
    for name, owner in wanted.items():
        if name not in made.keys:
            entry = _unattended(folder, name, owner) if unattended else _asked(folder, name, owner, passphrases)
            made = settings.add_key(made, name, entry)
    for name in ONLINE:
        if name not in made.keys:
            made = settings.add_key(made, name, online_key(folder, name))
    settings.save(folder, made)
    session = Session.open(folder, passphrases=passphrases)
    session.now = now or session.now
    top = {role: RoleKeys((role,)) for role in (TARGETS, *ONLINE)}
    top[ROOT] = RoleKeys(tuple(roots or (ROOT,)), root_threshold)
    return session, changing.found(session, top, _speakers() if here else {})


def described(folder: Path, fleet: str, stage: str, store: str | None = None) -> Settings:
    """The stage's settings, new ones where there are none.

    Raises:
        UsageError: the name is none, or the stage's registry lies elsewhere than ``store``.
    """
    if not (folder / settings.FILE_NAME).exists():
        return settings.new(fleet, stage, store)
    found_ = settings.load(folder)
    if store is not None and store != found_.store:
        raise UsageError(f"this stage's registry lies in {found_.store}", where=str(folder / settings.FILE_NAME))
    return found_


def online_key(folder: Path, name: str) -> KeyEntry:
    """A key that signs unattended: its passphrase lies beside ``keys/``, a copy of which alone is worth nothing."""
    return keys.generate_online(folder, name, _kept(folder, ONLINE_PASSPHRASE), ONLINE_PASSPHRASE)


def _asked(folder: Path, name: str, owner: str, passphrases: Passphrases) -> KeyEntry:
    return keys.generate(folder, name, owner, passphrases.of(name))


def _unattended(folder: Path, name: str, owner: str) -> KeyEntry:
    entry = keys.generate(folder, name, owner, _kept(folder, KEYS_PASSPHRASE))
    return msgspec.structs.replace(entry, passphrase_file=KEYS_PASSPHRASE)


def _kept(folder: Path, name: str) -> str:
    """The passphrase in a file of the stage, made where there is none."""
    file = folder / name
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic.write_text(file, secrets.token_urlsafe(32) + "\n", mode=0o600)
    return keys.read_passphrase(file)


def _speakers() -> dict[str, RoleKeys]:
    """Who builds and who approves, of every kind."""
    by = {names.BUILD: RoleKeys((BUILDER,)), names.APPROVE: RoleKeys((APPROVER,))}
    return {names.role(purpose, kind): by[purpose] for kind in names.KINDS for purpose in names.PURPOSES}
