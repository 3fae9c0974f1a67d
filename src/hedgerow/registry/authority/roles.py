"""A stage's metadata, published and about to be: what each role says, and whose signatures it needs. No IO.

Invariants
----------
* The next version of a role is a *candidate*: its number is one more than the published one's, and changing it takes
  every signature off it. A candidate with another number was overtaken and is nothing.
* Build and approve roles are delegated by top-level ``targets`` alone, one level deep, with no key in common.
* Approve roles come first and a bundle's own before its kind's, each terminating: a client that knows nothing of two
  roles still gets the approver's word, never the builder's alone.
* Every candidate says when it was made (``issued``): devices take that for a floor of time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, Signature
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
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


@dataclass
class State:
    """What is published. ``delegated`` holds each role that snapshot lists and targets delegates to."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]
    delegated: dict[str, Metadata[Targets]] = field(default_factory=dict)

    def targets_of(self, role: str) -> Metadata[Targets] | None:
        """Top-level targets or a delegated role."""
        return self.targets if role == TARGETS else self.delegated.get(role)


class Draft:
    """Published metadata with the candidates beside it. ``dirty`` names candidates that were changed or signed."""

    def __init__(self, state: State | None, lifetimes: Lifetimes, now: datetime) -> None:
        self.state = state
        self.lifetimes = lifetimes
        self.now = now
        self.root: Metadata[Root] | None = None
        self.targets: dict[str, Metadata[Targets]] = {}
        self.dirty: set[str] = set()

    def adopt(self, role: str, data: bytes) -> None:
        """Take up a candidate that an earlier run left; one that was overtaken is passed over."""
        if role == ROOT:
            root = Metadata[Root].from_bytes(data)
            if root.signed.version == _next(self.published_root()):
                self.root = root
        else:
            targets = Metadata[Targets].from_bytes(data)
            if targets.signed.version == _next(self.published_targets(role)):
                self.targets[role] = targets

    def candidates(self) -> tuple[str, ...]:
        """Roles with a candidate: root, targets, then delegations by name."""
        roles = [ROOT] if self.root is not None else []
        roles += [TARGETS] if TARGETS in self.targets else []
        return (*roles, *sorted(role for role in self.targets if role != TARGETS))

    def candidate(self, role: str) -> Metadata[Any] | None:
        """The candidate of a role."""
        return self.root if role == ROOT else self.targets.get(role)

    def published_root(self) -> Metadata[Root] | None:
        return None if self.state is None else self.state.root

    def published_targets(self, role: str) -> Metadata[Targets] | None:
        return None if self.state is None else self.state.targets_of(role)

    def upcoming_root(self) -> Root:
        """Root as it will be.

        Raises:
            UsageError: there is none yet.
        """
        found = self.root or self.published_root()
        if found is None:
            raise UsageError("this stage has no root yet", next_step="hedgerow registry init --stage STAGE")
        return found.signed

    def upcoming_targets(self, role: str = TARGETS) -> Targets | None:
        """A role's targets as they will be; None where the role has said nothing yet."""
        found = self.targets.get(role) or self.published_targets(role)
        return None if found is None else found.signed

    def edit_root(self) -> Root:
        """Root's candidate, to be changed; its signatures are gone."""
        self.root = _opened(self.root, self.published_root(), Root(consistent_snapshot=True))
        return self._begun(ROOT, self.root)

    def edit_targets(self, role: str = TARGETS) -> Targets:
        """A role's candidate, to be changed; its signatures are gone."""
        self.targets[role] = _opened(self.targets.get(role), self.published_targets(role), Targets())
        return self._begun(role, self.targets[role])

    def _begun(self, role: str, metadata: Metadata[S]) -> S:
        metadata.signatures.clear()
        begin(metadata.signed, role, self.lifetimes, self.now)
        self.dirty.add(role)
        return metadata.signed

    def drop(self, role: str) -> None:
        """Forget a candidate."""
        if role == ROOT:
            self.root = None
        else:
            self.targets.pop(role, None)

    def required(self, role: str) -> list[VerificationResult]:
        """Who signed a candidate and who must: root by its old and its new keys, others by whoever names them.

        Raises:
            UsageError: the role has no candidate, or nobody delegates to it.
        """
        metadata = self.candidate(role)
        if metadata is None:
            raise UsageError(f"{role} has no candidate: nothing waits to be signed")
        payload, signatures = metadata.signed_bytes, metadata.signatures
        if role == ROOT:
            old = self.published_root()
            roots = [self.upcoming_root()] if old is None else [old.signed, self.upcoming_root()]
            return [root.get_verification_result(ROOT, payload, signatures) for root in roots]
        parent = self.upcoming_root() if role == TARGETS else self.upcoming_targets()
        try:
            return [] if parent is None else [parent.get_verification_result(role, payload, signatures)]
        except ValueError as error:
            raise UsageError(
                f"nobody delegates to {role}", next_step="hedgerow registry delegate; ceremony shows the roles"
            ) from error

    def ready(self, role: str) -> bool:
        """Whether a candidate has all signatures that it needs."""
        return all(bool(result) for result in self.required(role))

    def delegation(self, purpose: names.Purpose, kind: str, bundle: str) -> str:
        """The role that speaks for a bundle: its own where it has one, else its kind's.

        Raises:
            RefusedError: nobody does.
        """
        known = delegated_roles(self.upcoming_targets())
        for role in (names.role(purpose, kind, bundle), names.role(purpose, kind)):
            if role in known:
                return role
        raise RefusedError(
            f"nobody may {purpose} {kind} bundles in this stage (rule: delegated)",
            where=bundle,
            next_step=f"hedgerow registry delegate {purpose} {kind} --by KEY",
        )


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


def _next(published: Metadata[Any] | None) -> int:
    return 1 if published is None else int(published.signed.version) + 1


def _opened(candidate: Metadata[S] | None, published: Metadata[S] | None, first: S) -> Metadata[S]:
    if candidate is not None:
        return candidate
    if published is None:
        return Metadata(first)
    copy: Metadata[S] = Metadata.from_bytes(published.to_bytes())
    copy.signed.version += 1
    return copy


def holds(key: Key, signature: Signature, payload: bytes) -> bool:
    """Whether a signature is this key's."""
    try:
        key.verify_signature(signature, payload)
    except (UnverifiedSignatureError, VerificationError):
        return False
    return True
