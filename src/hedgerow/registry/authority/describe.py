"""What changes, in words: for the log, and for whoever is asked to sign. No IO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from securesystemslib.signer import Key
from tuf.api.metadata import Role, Root, Targets

from hedgerow.registry import trust_names as names
from hedgerow.registry.authority import roles
from hedgerow.registry.authority.keys import owner

_ID = 8


def key(found: Key) -> str:
    """``owner (first digits of the key's id)``."""
    return f"{owner(found)} ({found.keyid[:_ID]})"


def role_changes(before: Role | None, after: Role | None, keys: Mapping[str, Key]) -> tuple[str, ...]:
    """Keys that came and went, and the threshold where it changed. ``keys`` knows the keys of both."""
    old, new = (() if role is None else tuple(role.keyids) for role in (before, after))
    found = [f"+ {_named(keyid, keys)}" for keyid in new if keyid not in old]
    found += [f"- {_named(keyid, keys)}" for keyid in old if keyid not in new]
    was, now = (0 if role is None else role.threshold for role in (before, after))
    if was != now:
        found.append(f"threshold {was} -> {now}")
    return tuple(found)


def root_changes(before: Root | None, after: Root) -> dict[str, tuple[str, ...]]:
    """For each top-level role what changed; roles without a change are left out."""
    keys = ({} if before is None else before.keys) | after.keys
    old = {} if before is None else before.roles
    found = {role: role_changes(old.get(role), after.roles.get(role), keys) for role in roles.TOP_LEVEL}
    return {role: changes for role, changes in found.items() if changes}


def delegation_changes(before: Targets | None, after: Targets) -> dict[str, tuple[str, ...]]:
    """For each delegated role what changed; roles without a change are left out."""
    keys = _keys(before) | _keys(after)
    old, new = roles.delegated_roles(before), roles.delegated_roles(after)
    found = {role: role_changes(old.get(role), new.get(role), keys) for role in sorted({*old, *new})}
    return {role: changes for role, changes in found.items() if changes}


def target_changes(before: Targets | None, after: Targets) -> tuple[str, ...]:
    """Files that a role names anew, no longer, or with another content."""
    old = {} if before is None else before.targets
    found = [
        f"{'+' if path not in old else '!'} {path} sha256 {file.hashes.get('sha256', '?')} ({file.length} bytes)"
        for path, file in sorted(after.targets.items())
        if path not in old or old[path].hashes != file.hashes
    ]
    return (*found, *(f"- {path}" for path in sorted(old) if path not in after.targets))


def candidate(role: str, before: Root | Targets | None, after: Root | Targets) -> Iterator[str]:
    """Lines for whoever signs ``after``, compared with ``before``; without it everything is new."""
    was = "nothing" if before is None else f"version {before.version}"
    yield f"{role}: {was} -> version {after.version}, holds until {after.expires:%Y-%m-%d %H:%M} UTC"
    yield f"made at {after.unrecognized_fields.get(names.ISSUED, 'an unknown time')}"
    changed = False
    if isinstance(after, Root):
        of_roles = root_changes(before if isinstance(before, Root) else None, after)
    else:
        known = before if isinstance(before, Targets) else None
        of_roles = delegation_changes(known, after)
        for line in target_changes(known, after):
            changed = True
            yield line
    for name, changes in of_roles.items():
        changed = True
        yield f"keys of {name}: {', '.join(changes)}"
    if not changed:
        yield "nothing else changes: the same content, renewed"


def _keys(targets: Targets | None) -> dict[str, Key]:
    return {} if targets is None or targets.delegations is None else dict(targets.delegations.keys)


def _named(keyid: str, keys: Mapping[str, Key]) -> str:
    return key(keys[keyid]) if keyid in keys else keyid[:_ID]
