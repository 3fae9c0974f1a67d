"""Roles: who is named how, for how long, and which keys go together. No IO.

Invariants
----------
* Build and approve roles are delegated by top-level ``targets`` alone, one level deep, with no key in common.
* Approve roles come first and a bundle's own before its kind's, each terminating: a client that knows nothing of two
  roles still gets the approver's word, never the builder's alone.
* Every candidate says when it was made (``issued``): devices take that for a floor of time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, TypeVar

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, Signature
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Role,
    Root,
    Snapshot,
    Targets,
    Timestamp,
    VerificationResult,
)

from hedgerow.errors import RefusedError, UsageError
from hedgerow.registry import trust_names as names
from hedgerow.registry.authority.keys import material
from hedgerow.registry.authority.settings import Lifetimes

ROOT: Final = Root.type
TARGETS: Final = Targets.type
SNAPSHOT: Final = Snapshot.type
TIMESTAMP: Final = Timestamp.type
TOP_LEVEL: Final = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)
ONLINE: Final = (SNAPSHOT, TIMESTAMP)

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


def begin(signed: Root | Targets | Snapshot | Timestamp, role: str, lifetimes: Lifetimes, now: datetime) -> None:
    """Give metadata a whole life from now."""
    signed.expires = now + lifetimes.of(role)
    signed.unrecognized_fields[names.ISSUED] = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def delegated_roles(targets: Targets | None) -> Mapping[str, DelegatedRole]:
    """Roles that top-level targets delegates to, most trusted first."""
    if targets is None or targets.delegations is None or targets.delegations.roles is None:
        return {}
    return targets.delegations.roles


def delegate(targets: Targets, role: str, keys: Iterable[Key], threshold: int) -> None:
    """Let ``threshold`` of ``keys`` speak for ``role``, replacing who did.

    Raises:
        UsageError: ``role`` is no build or approve role, or the keys cannot reach the threshold.
        RefusedError: a key builds and approves the same bundles.
    """
    parsed = names.parse_role(role)
    if parsed is None:
        raise UsageError(f"{role!r} is no role that can be delegated to", next_step="build-KIND, approve-KIND-BUNDLE …")
    _, kind, bundle = parsed
    wanted = tuple({key.keyid: key for key in keys}.values())
    check_threshold(role, len(wanted), threshold)
    known = dict(delegated_roles(targets))
    key_store = {} if targets.delegations is None else dict(targets.delegations.keys)
    for other, delegated in known.items():
        _refuse_shared(role, wanted, other, [key_store[keyid] for keyid in delegated.keyids])
    known[role] = DelegatedRole(
        role, [key.keyid for key in wanted], threshold, terminating=True, paths=names.paths(kind, bundle)
    )
    key_store |= {key.keyid: key for key in wanted}
    used = {keyid for each in known.values() for keyid in each.keyids}
    ordered = dict(sorted(known.items(), key=lambda item: _trust(item[0])))
    targets.delegations = Delegations({keyid: key_store[keyid] for keyid in sorted(used)}, ordered)


def assign(root: Root, role: str, keys: Iterable[Key], threshold: int) -> None:
    """Let ``threshold`` of ``keys`` sign for a top-level role, replacing who did.

    Raises:
        UsageError: the keys cannot reach the threshold.
    """
    wanted = tuple({key.keyid: key for key in keys}.values())
    check_threshold(role, len(wanted), threshold)
    root.roles[role] = Role([key.keyid for key in wanted], threshold)
    root.keys |= {key.keyid: key for key in wanted}
    used = {keyid for each in root.roles.values() for keyid in each.keyids}
    root.keys = {keyid: root.keys[keyid] for keyid in sorted(used)}


def check_threshold(role: str, keys: int, threshold: int) -> None:
    """Raise UsageError where ``threshold`` of so many keys cannot be."""
    if not 1 <= threshold <= keys:
        raise UsageError(
            f"{role} would need {threshold} signature(s) of {keys} key(s)",
            next_step="name as many different keys as the threshold says, or more",
        )


def signed_by(result: VerificationResult) -> tuple[Key, ...]:
    """Whose signatures hold."""
    return tuple(result.signed.values())


def _refuse_shared(role: str, keys: tuple[Key, ...], other: str, others: list[Key]) -> None:
    mine, theirs = names.parse_role(role), names.parse_role(other)
    if mine is None or theirs is None or mine[0] == theirs[0] or mine[1] != theirs[1]:
        return
    shared = {material(key) for key in keys} & {material(key) for key in others}
    if shared:
        raise RefusedError(
            f"a key would build and approve: {role} and {other} (rule: separate-keys)",
            next_step="give one of the two roles another key: hedgerow registry add-key",
        )


def _trust(role: str) -> tuple[bool, bool, str]:
    parsed = names.parse_role(role)
    return (parsed is None or parsed[0] != names.APPROVE, parsed is None or parsed[2] is None, role)


def holds(key: Key, signature: Signature, payload: bytes) -> bool:
    """Whether a signature is this key's."""
    try:
        key.verify_signature(signature, payload)
    except (UnverifiedSignatureError, VerificationError):
        return False
    return True
