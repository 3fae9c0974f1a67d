"""Publish every candidate that has its signatures, as one step that devices see whole or not at all.

- A candidate waits while the state with it would not hold together: new delegations, for example, wait until the new
  keys have signed what they now speak for. ``at_once`` publishes all the same, where a stolen key must lose its word
  now; what it spoke for is then refused by devices until the remaining keys have signed.
- Everything is signed before anything is written, so that a missing online key leaves no trace.
- Where a new root gives a role other keys, the role's metadata is signed by old and new keys, published, and the root
  follows: both roots accept it, so that a kill between the two writes harms nobody. Where the old keys are lost, the
  root comes first; a kill there leaves devices refusing (what they serve stays) until the next run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp, VerificationResult

from hedgerow.errors import UsageError
from hedgerow.registry.authority import describe, log, releases, repository, roles
from hedgerow.registry.authority.draft import Draft
from hedgerow.registry.authority.keys import Keyring, add_signature
from hedgerow.registry.authority.log import Event
from hedgerow.registry.authority.releases import View
from hedgerow.registry.authority.repository import meta_of
from hedgerow.registry.authority.roles import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from hedgerow.registry.store import Store

# Renewed when less than this share of the life is left, so that a second run soon after changes nothing.
RENEW_AT: Final = 1 / 3

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True)
class Waiting:
    """A candidate that is not published yet. ``missing`` signatures of the keys ``by``; 0: it waits for another."""

    role: str
    version: int
    missing: int
    by: tuple[str, ...]


@dataclass(frozen=True)
class Settled:
    """What a step did: roles with a new version, what that means, and what still waits."""

    written: tuple[str, ...]
    events: tuple[Event, ...]
    waiting: tuple[Waiting, ...]


@dataclass(frozen=True)
class _Next:
    """The state to publish: ``view``, and those of its metadata that are new."""

    view: View
    root: Metadata[Root] | None
    targets: tuple[tuple[str, Metadata[Targets]], ...]


def sign(draft: Draft, keyring: Keyring, chosen: tuple[str, ...]) -> None:
    """Sign the candidates of ``chosen`` roles with the keys that are here, until each has enough."""
    for role in draft.candidates():
        metadata = draft.candidate(role)
        if metadata is None or role not in chosen:
            continue
        requirements = draft.required(role)
        old = draft.published_root()
        if role == TARGETS and draft.root is not None and old is not None:
            # Not needed, but both roots then accept it; see the module's text.
            requirements.append(old.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures))
        for requirement in requirements:
            if _add_signatures(metadata, requirement, keyring):
                draft.dirty.add(role)


def settle(
    store: Store,
    draft: Draft,
    keyring: Keyring,
    scope: frozenset[str] | None = None,
    *,
    at_once: bool = False,
    mend: bool = False,
    note: str = "",
) -> Settled:
    """Publish what is ready; renew snapshot and timestamp where that, ``mend`` or their age asks for it.

    ``scope``: roles whose candidates may be published now; None is all of them.

    Raises:
        UsageError: there is something to publish, and the keys of snapshot or timestamp are not here.
    """
    chosen = _choose(draft, scope, at_once=at_once)
    if chosen is None:
        return Settled((), (), waiting(draft, keyring, draft.candidates()))
    before = view_of(draft)
    events = releases.events(before, chosen.view)
    changed = bool(events or chosen.targets) or mend or (chosen.root is not None and before is None)
    written = [*(role for role, _ in chosen.targets), *([ROOT] if chosen.root is not None else [])]
    if changed or (chosen.root is None and _old(draft, SNAPSHOT)):
        written += [SNAPSHOT, TIMESTAMP]
        _publish(store, draft, keyring, chosen, events=events, note=note)
    elif chosen.root is not None:
        repository.write_root(store, chosen.root)
    elif _old(draft, TIMESTAMP):
        written.append(TIMESTAMP)
        _publish_timestamp(store, draft, keyring)
    left = waiting(draft, keyring, [role for role in draft.candidates() if role not in written])
    for role in written:
        draft.drop(role)
    return Settled(tuple(written), tuple(events), left)


def waiting(draft: Draft, keyring: Keyring, candidates: Iterable[str]) -> tuple[Waiting, ...]:
    """The signatures that candidates lack."""
    found = []
    for role in candidates:
        metadata = draft.candidate(role)
        if metadata is None:
            continue
        lacking = [result for result in draft.required(role) if not result]
        by = {keyid: None for result in lacking for keyid in result.unsigned}
        missing = max((result.missing for result in lacking), default=0)
        found.append(Waiting(role, metadata.signed.version, missing, tuple(keyring.name(keyid) for keyid in by)))
    return tuple(found)


def view_of(draft: Draft) -> View | None:
    """The published state, with those delegated roles whose signatures hold."""
    state = draft.state
    if state is None:
        return None
    return View(state.root, state.targets, _holding(state.targets, state.delegated))


def _holding(targets: Metadata[Targets], delegated: dict[str, Metadata[Targets]]) -> dict[str, Metadata[Targets]]:
    return {role: each for role, each in delegated.items() if _verified(targets.signed, role, each)}


def keys_only(draft: Draft) -> frozenset[str]:
    """The scope of a change of keys: root, targets, and those roles whose delegation changes with it."""
    published, upcoming = draft.published_targets(TARGETS), draft.upcoming_targets()
    old = None if published is None else published.signed
    changed = () if upcoming is None else describe.delegation_changes(old, upcoming)
    return frozenset({ROOT, TARGETS, *changed})


def _choose(draft: Draft, scope: frozenset[str] | None, *, at_once: bool) -> _Next | None:
    """The furthest state that holds together; None where not even the published one does (or none is published)."""
    new_root = draft.root if _within(ROOT, scope) and draft.root is not None and draft.ready(ROOT) else None
    new_targets = draft.targets.get(TARGETS) if _within(TARGETS, scope) else None
    possible = [
        found
        for root in ((new_root, None) if new_root is not None else (None,))
        for targets in ((new_targets, None) if new_targets is not None else (None,))
        if (found := _with(draft, root, targets, scope)) is not None
    ]
    before = view_of(draft)
    lost = set() if before is None else set(roles.delegated_roles(before.targets.signed)) - set(before.delegated)
    for found in possible:
        silent = set(roles.delegated_roles(found.view.targets.signed)) - set(found.view.delegated)
        if at_once or silent <= lost:
            return found
    return None


def _with(
    draft: Draft, root: Metadata[Root] | None, targets: Metadata[Targets] | None, scope: frozenset[str] | None
) -> _Next | None:
    """The state with these candidates and every delegated one that verifies in it; None where targets do not."""
    state = draft.state
    all_root = root or (None if state is None else state.root)
    all_targets = targets or (None if state is None else state.targets)
    if all_root is None or all_targets is None or not _verified(all_root.signed, TARGETS, all_targets):
        return None
    published = {} if state is None else state.delegated
    fresh = {role: each for role, each in draft.targets.items() if role != TARGETS and _within(role, scope)}
    known = roles.delegated_roles(all_targets.signed)
    fresh = {role: each for role, each in fresh.items() if role in known and _verified(all_targets.signed, role, each)}
    kept = {role: each for role, each in published.items() if role in known and role not in fresh}
    view = View(all_root, all_targets, _holding(all_targets, kept) | fresh)
    new = [*sorted(fresh.items()), *([] if targets is None else [(TARGETS, targets)])]
    return _Next(view, root, tuple(new))


def _publish(
    store: Store, draft: Draft, keyring: Keyring, chosen: _Next, *, events: Sequence[Event], note: str
) -> None:
    state = draft.state
    old_root = None if state is None else state.root.signed
    roots = [chosen.view.root.signed]
    if chosen.root is not None and old_root is not None:
        roots.append(old_root)
    snapshot = _copy(state.snapshot) if state is not None else Metadata(Snapshot(meta={}))
    end = log.anchor(None if state is None else snapshot.signed)
    for role, metadata in chosen.targets:
        snapshot.signed.meta[f"{role}.json"] = meta_of(metadata)
    # The hash of the log's end stands in snapshot, so the log comes before; but keys that are missing must be noticed
    # before anything is written.
    _sign_online(snapshot, SNAPSHOT, roots, draft, keyring)
    timestamp = _copy(state.timestamp) if state is not None else Metadata(Timestamp())
    _sign_online(timestamp, TIMESTAMP, roots, draft, keyring)

    repository.write_targets(store, chosen.targets)
    at = draft.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    versions = _versions(chosen.view)
    end = log.append(store, end, events, at=at, operator=log.operator(), roles=versions, note=note)
    log.set_anchor(snapshot.signed, end)
    held = _sign_online(snapshot, SNAPSHOT, roots, draft, keyring)
    timestamp.signed.snapshot_meta = meta_of(snapshot)
    held &= _sign_online(timestamp, TIMESTAMP, roots, draft, keyring)
    held &= all(_verified(root, TARGETS, chosen.view.targets) for root in roots)
    if chosen.root is not None and not held:
        repository.write_root(store, chosen.root)
    repository.write_snapshot(store, snapshot)
    repository.write_timestamp(store, timestamp)
    if chosen.root is not None and held:
        repository.write_root(store, chosen.root)


def _publish_timestamp(store: Store, draft: Draft, keyring: Keyring) -> None:
    if draft.state is not None:
        timestamp = _copy(draft.state.timestamp)
        _sign_online(timestamp, TIMESTAMP, [draft.state.root.signed], draft, keyring)
        repository.write_timestamp(store, timestamp)


def _sign_online(
    metadata: Metadata[Snapshot] | Metadata[Timestamp], role: str, roots: list[Root], draft: Draft, keyring: Keyring
) -> bool:
    """Sign for every root in ``roots``; whether all of them accept it. The first must.

    Raises:
        UsageError: it does not.
    """
    metadata.signatures.clear()
    roles.begin(metadata.signed, role, draft.lifetimes, draft.now)
    held = []
    for root in roots:
        _add_signatures(metadata, root.get_verification_result(role, metadata.signed_bytes, {}), keyring)
        held.append(bool(root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)))
    if not held[0]:
        raise UsageError(
            f"the keys of {role} are not here: {', '.join(map(keyring.name, roots[0].roles[role].keyids))}",
            next_step="run it where they are (the controller); nothing was published",
        )
    return all(held)


def _add_signatures(
    metadata: Metadata[Root] | Metadata[Targets] | Metadata[Snapshot] | Metadata[Timestamp],
    requirement: VerificationResult,
    keyring: Keyring,
) -> bool:
    missing = requirement.missing
    added = False
    for keyid in requirement.unsigned:
        signer = keyring.signer(keyid) if missing > 0 and keyid not in metadata.signatures else None
        if signer is not None:
            add_signature(metadata, signer, keyring.name(keyid))
            missing -= 1
            added = True
    return added


def _within(role: str, scope: frozenset[str] | None) -> bool:
    return scope is None or role in scope


def _verified(delegator: Root | Targets, role: str, metadata: Metadata[S]) -> bool:
    return bool(delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures))


def _copy(metadata: Metadata[S]) -> Metadata[S]:
    copy: Metadata[S] = Metadata.from_bytes(metadata.to_bytes())
    copy.signed.version += 1
    return copy


def _versions(view: View) -> dict[str, int]:
    found = {ROOT: view.root.signed.version, TARGETS: view.targets.signed.version}
    return found | {role: each.signed.version for role, each in sorted(view.delegated.items())}


def _old(draft: Draft, role: str) -> bool:
    """Whether little is left of snapshot's or timestamp's life."""
    if draft.state is None:
        return False
    signed = draft.state.snapshot.signed if role == SNAPSHOT else draft.state.timestamp.signed
    return signed.expires - draft.now < draft.lifetimes.of(role) * RENEW_AT
