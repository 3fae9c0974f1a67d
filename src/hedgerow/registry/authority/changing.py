"""Found a stage, and give its roles other keys: delegate, rotate, revoke, renew.

Each is a candidate of root or targets, published at once where the keys of their thresholds are here; else it waits
for signatures by request. Whoever loses or gains a key in a role has the role's metadata signed anew with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from securesystemslib.signer import Key, Signature
from tuf.api.metadata import TargetFile, Targets

from hedgerow.errors import RefusedError, UsageError
from hedgerow.registry import trust_names as names
from hedgerow.registry.authority import keys, repository, roles, settling
from hedgerow.registry.authority.draft import Draft
from hedgerow.registry.authority.roles import ONLINE, ROOT, TARGETS, TOP_LEVEL
from hedgerow.registry.authority.session import Session, Work
from hedgerow.registry.authority.settings import Settings
from hedgerow.registry.authority.settling import Settled


@dataclass(frozen=True)
class RoleKeys:
    """Names of the keys of a role, and how many of them must sign."""

    keys: tuple[str, ...]
    threshold: int = 1


def found(session: Session, top: Mapping[str, RoleKeys], speakers: Mapping[str, RoleKeys] | None = None) -> Settled:
    """Make the stage's first metadata, with these delegations (``speakers``). Nothing happens where it is there.

    Raises:
        UsageError: a key is unknown, or a threshold cannot be reached.
        RefusedError: a key would build and approve.
    """
    first = speakers or {}
    with session.work() as work:
        if work.draft.state is None and (work.draft.root is None or ROOT in work.draft.foreign):
            root = work.draft.edit_root()
            for role in TOP_LEVEL:
                roles.assign(root, role, public_keys(session.settings, top[role].keys), top[role].threshold)
        if work.draft.state is None and (TARGETS not in work.draft.targets or TARGETS in work.draft.foreign):
            work.draft.edit_targets()
        if work.draft.state is None:
            for role, wanted in first.items():
                _assign(work.draft, role, public_keys(session.settings, wanted.keys), wanted.threshold)
        work.sign(ROOT, TARGETS, *(first if work.draft.state is None else ()))
        return work.settle()


def delegate(session: Session, role: str, wanted: RoleKeys) -> Settled:
    """Let keys speak for a kind, or for one bundle of it.

    A bundle's own role takes over what its kind's role said of it: its keys are asked to sign that.

    Raises:
        UsageError: no such role or key.
        RefusedError: a key would build and approve.
    """
    return rotate(session, role, wanted)


def rotate(session: Session, role: str, wanted: RoleKeys, *, note: str = "", at_once: bool = False) -> Settled:
    """Give a role these keys and this threshold, instead of those that it has.

    Raises:
        UsageError: no such role or key, or the threshold cannot be reached.
        RefusedError: a key would build and approve.
    """
    with session.work() as work:
        _assign(work.draft, role, public_keys(session.settings, wanted.keys), wanted.threshold)
        work.sign()
        return work.settle(settling.keys_only(work.draft), note=note, at_once=at_once)


def revoke(session: Session, name: str, *, replacement: str | None, note: str, at_once: bool = True) -> Settled:
    """Take a key out of every role. What it alone signed is no longer named by the role.

    ``at_once`` publishes although a role lacks signatures of the keys that remain: until they have signed, devices
    refuse what it speaks for.

    Raises:
        UsageError: no such key.
        RefusedError: a role would have fewer keys than its threshold, and there is no ``replacement``.
    """
    gone = public_keys(session.settings, [name])[0]
    instead = None if replacement is None else public_keys(session.settings, [replacement])[0]
    with session.work() as work:
        draft = work.draft
        for role, held in _roles_with(draft, gone.keyid).items():
            remaining = [key for key in held.keys if key.keyid != gone.keyid] + ([] if instead is None else [instead])
            if len(remaining) < held.threshold:
                raise RefusedError(
                    f"{role} would have {len(remaining)} key(s) and a threshold of {held.threshold} (rule: threshold)",
                    where=f"key {name}",
                    next_step=f"hedgerow registry add-key NEW, then revoke {name} --replace-with NEW",
                )
            _assign(draft, role, remaining, held.threshold)
            if role not in TOP_LEVEL:
                _drop_unvouched(work, role, gone.keyid)
        work.sign()
        return work.settle(settling.keys_only(work.draft), note=note, at_once=at_once)


def renew(session: Session, chosen: Sequence[str]) -> Settled:
    """Give roles a new life without another change: root and targets once a year, delegations that were long silent.

    Raises:
        UsageError: a role is not here, or online (the timer renews those).
    """
    with session.work() as work:
        for role in chosen:
            if role in ONLINE:
                raise UsageError(f"{role} is renewed by refresh", next_step="hedgerow registry refresh --stage STAGE")
            if role == ROOT:
                work.draft.edit_root()
            elif work.draft.upcoming_targets(role) is None:
                raise UsageError(f"there is no role {role}", next_step="hedgerow registry ceremony shows the roles")
            else:
                work.draft.edit_targets(role)
        work.sign(*chosen)
        return work.settle(frozenset(chosen))


def discard(session: Session, role: str) -> bool:
    """Drop what waits in a role; whether there was anything.

    Raises:
        RefusedError: somebody else works on this registry.
    """
    with session.store.lock():
        path = f"{repository.STAGED}/{role}.json"
        found = session.store.get(path) is not None
        if found:
            session.store.delete(path)
        return found


def public_keys(settings: Settings, wanted: Iterable[str]) -> list[Key]:
    """The public keys with these names.

    Raises:
        UsageError: one is unknown.
    """
    chosen = list(wanted)
    for name in chosen:
        if name not in settings.keys:
            raise keys.unknown_key(name, settings)
    return [keys.public_key(settings.keys[name]) for name in chosen]


@dataclass(frozen=True)
class _Held:
    keys: tuple[Key, ...]
    threshold: int


def _roles_with(draft: Draft, keyid: str) -> dict[str, _Held]:
    root = draft.upcoming_root()
    found = {
        role: _Held(tuple(root.keys[each] for each in held.keyids), held.threshold)
        for role, held in root.roles.items()
        if keyid in held.keyids
    }
    targets = draft.upcoming_targets()
    if targets is not None and targets.delegations is not None:
        known = targets.delegations.keys
        found |= {
            role: _Held(tuple(known[each] for each in held.keyids), held.threshold)
            for role, held in roles.delegated_roles(targets).items()
            if keyid in held.keyids
        }
    return found


def _assign(draft: Draft, role: str, wanted: Sequence[Key], threshold: int) -> None:
    """Give a role its keys; where that changes anything, have its metadata signed anew."""
    if role in TOP_LEVEL:
        old = draft.upcoming_root().roles.get(role)
        if old is not None and (set(old.keyids), old.threshold) == ({key.keyid for key in wanted}, threshold):
            return
        roles.assign(draft.edit_root(), role, wanted, threshold)
        if role == TARGETS:
            draft.edit_targets()
        return
    targets = draft.upcoming_targets()
    known = roles.delegated_roles(targets).get(role)
    if known is not None and (set(known.keyids), known.threshold) == ({key.keyid for key in wanted}, threshold):
        return
    roles.delegate(draft.edit_targets(), role, wanted, threshold)
    inherited = {} if draft.upcoming_targets(role) is not None else _inherited(draft, role)
    draft.edit_targets(role).targets |= inherited


def _inherited(draft: Draft, role: str) -> dict[str, TargetFile]:
    """What the kind's role says of a bundle that gets a role of its own."""
    parsed = names.parse_role(role)
    if parsed is None or parsed[2] is None:
        return {}
    purpose, kind, bundle = parsed
    above = draft.upcoming_targets(names.role(purpose, kind))
    prefix = f"{names.KINDS[kind]}/{bundle}/"
    return {} if above is None else {path: file for path, file in above.targets.items() if path.startswith(prefix)}


def _drop_unvouched(work: Work, role: str, keyid: str) -> None:
    """Keep of a role what some version says that the other keys signed in sufficient number; drop the rest."""
    draft = work.draft
    parent, published = draft.upcoming_targets(), draft.published_targets(role)
    if parent is None or published is None:
        return
    store = work.session.store
    # Earlier versions were signed under earlier delegations, by keys that have retired in honour since.
    delegators = [*repository.targets_history(store, published=draft.published_targets(TARGETS)), parent]
    vouched: set[tuple[str, str]] = set()
    for version in repository.history(store, role, published.signed.version):
        signatures = {each: found for each, found in version.signatures.items() if each != keyid}
        if any(_enough(targets, role, version.signed_bytes, signatures) for targets in delegators):
            vouched |= {(path, file.hashes["sha256"]) for path, file in version.signed.targets.items()}
    candidate = draft.edit_targets(role)
    candidate.targets = {
        path: file for path, file in candidate.targets.items() if (path, file.hashes["sha256"]) in vouched
    }


def _enough(targets: Targets, role: str, payload: bytes, signatures: dict[str, Signature]) -> bool:
    try:
        return bool(targets.get_verification_result(role, payload, signatures))
    except ValueError:
        return False
