"""Where a stage stands: roles, keys, who has signed what, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Role

from hedgerow.registry.authority import describe, releases, roles, settling
from hedgerow.registry.authority.draft import Draft
from hedgerow.registry.authority.releases import Release
from hedgerow.registry.authority.roles import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from hedgerow.registry.authority.session import Session


@dataclass(frozen=True)
class RoleStatus:
    """A role: its published version and its end, ``threshold`` of ``keys``, and what waits.

    ``missing`` signatures keep the candidate ``waiting`` (its version) from being published.
    """

    role: str
    version: int | None
    expires: datetime | None
    threshold: int
    keys: tuple[str, ...]
    waiting: int | None = None
    missing: int = 0


@dataclass(frozen=True)
class Status:
    """Every role, most trusted first, and every release."""

    roles: tuple[RoleStatus, ...]
    releases: tuple[Release, ...]


def status(session: Session) -> Status:
    """Look at a stage; nothing is changed.

    Raises:
        PublisherError: its metadata or its log is damaged.
    """
    draft = session.look()
    if draft.state is None and draft.root is None:
        return Status((), ())
    root, targets = draft.upcoming_root(), draft.upcoming_targets()
    lacking = {each.role: each for each in settling.waiting(draft, session.keyring(), draft.candidates())}
    delegated = roles.delegated_roles(targets)
    known: dict[str, Role] = {role: root.roles[role] for role in roles.TOP_LEVEL} | dict(delegated)
    public: dict[str, Key] = dict(root.keys)
    if targets is not None and targets.delegations is not None:
        public |= targets.delegations.keys
    found = []
    for role, held in known.items():
        metadata = _published(draft, role)
        found.append(
            RoleStatus(
                role,
                None if metadata is None else metadata.signed.version,
                None if metadata is None else metadata.signed.expires,
                held.threshold,
                tuple(describe.key(public[keyid]) for keyid in held.keyids),
                lacking[role].version if role in lacking else None,
                lacking[role].missing if role in lacking else 0,
            )
        )
    return Status(tuple(found), tuple(releases.releases(settling.view_of(draft))))


def _published(draft: Draft, role: str) -> Metadata[Any] | None:
    state = draft.state
    if state is None:
        return None
    top: dict[str, Metadata[Any]] = {
        ROOT: state.root,
        TARGETS: state.targets,
        SNAPSHOT: state.snapshot,
        TIMESTAMP: state.timestamp,
    }
    return top.get(role) or state.delegated.get(role)
