"""A stage's metadata, published and about to be: what each role says, and whose signatures it needs. No IO.

Invariants
----------
* The next version of a role is a *candidate*: its number is one more than the published one's, and changing it takes
  every signature off it. A candidate with another number was overtaken and is nothing.
* Whoever may write to the store may leave a candidate there. One that no key of ours and no full threshold has signed
  is *foreign*: nothing is decided by it, and it is signed only where this command alone would have made the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp, VerificationResult

from hedgerow.errors import RefusedError, UsageError
from hedgerow.registry import trust_names as names
from hedgerow.registry.authority.roles import ROOT, TARGETS, begin, delegated_roles
from hedgerow.registry.authority.settings import Lifetimes

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
        self.foreign: set[str] = set()
        self._others: dict[str, Metadata[Any]] = {}

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

    def judge(self, owns: Callable[[str], bool]) -> None:
        """Find the foreign candidates; ``owns`` says whether a key is ours."""
        for role in self.candidates():  # root first: it says who speaks for targets, and those for the others
            metadata = self.candidate(role)
            if metadata is None:
                continue
            try:
                self.required(role)
            except UsageError:  # a kill left it without the delegation that goes with it
                self.drop(role)
                continue
            try:
                results = self._required(role, metadata, self.upcoming_root, self.upcoming_targets)
            except UsageError:
                results = []
            signed = {keyid for result in results for keyid in result.signed}
            if not any(map(owns, signed)) and not (results and all(results)):
                self.foreign.add(role)

    def reconcile(self, role: str) -> None:
        """Before a candidate is signed that was made beside a foreign one: take that, if it says the same.

        Raises:
            RefusedError: it says something else.
        """
        other, mine = self._others.pop(role, None), self.candidate(role)
        if other is None or mine is None:
            return
        if _content(other.signed) != _content(mine.signed) or other.signed.expires > mine.signed.expires:
            raise RefusedError(
                f"another next version of {role} waits, which no key of yours has signed (rule: own-words)",
                where=f"staged/{role}.json",
                next_step=f"request and sign show it; hedgerow registry discard {role} drops it",
            )
        if role == ROOT:
            self.root = other
        else:
            self.targets[role] = other

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
        own = None if ROOT in self.foreign else self.root
        found = own or self.published_root()
        if found is None:
            raise UsageError("this stage has no root yet", next_step="hedgerow registry init --stage STAGE")
        return found.signed

    def upcoming_targets(self, role: str = TARGETS) -> Targets | None:
        """A role's targets as they will be; None where the role has said nothing yet."""
        own = None if role in self.foreign else self.targets.get(role)
        found = own or self.published_targets(role)
        return None if found is None else found.signed

    def _put_aside(self, role: str) -> None:
        """What is made now is made of what is published; ``reconcile`` compares."""
        other = self.candidate(role)
        if role in self.foreign and other is not None:
            self.foreign.discard(role)
            self._others[role] = other
            self.drop(role)

    def edit_root(self) -> Root:
        """Root's candidate, to be changed; its signatures are gone."""
        self._put_aside(ROOT)
        self.root = _opened(self.root, self.published_root(), Root(consistent_snapshot=True))
        return self._begun(ROOT, self.root)

    def edit_targets(self, role: str = TARGETS) -> Targets:
        """A role's candidate, to be changed; its signatures are gone."""
        self._put_aside(role)
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
        return self._required(role, metadata, self._proposed_root, self._proposed_targets)

    def _proposed_root(self) -> Root:
        return self.upcoming_root() if self.root is None else self.root.signed

    def _proposed_targets(self) -> Targets | None:
        found = self.targets.get(TARGETS)
        return self.upcoming_targets() if found is None else found.signed

    def _required(
        self, role: str, metadata: Metadata[Any], root: Callable[[], Root], targets: Callable[[], Targets | None]
    ) -> list[VerificationResult]:
        payload, signatures = metadata.signed_bytes, metadata.signatures
        if role == ROOT:
            old = self.published_root()
            named_by = [metadata.signed] if old is None else [old.signed, metadata.signed]
            return [each.get_verification_result(ROOT, payload, signatures) for each in named_by]
        parent = root() if role == TARGETS else targets()
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


def _content(signed: Root | Targets) -> dict[str, Any]:
    """What metadata says, without when it was made and how long it holds."""
    return {key: value for key, value in signed.to_dict().items() if key not in {"expires", names.ISSUED}}


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
