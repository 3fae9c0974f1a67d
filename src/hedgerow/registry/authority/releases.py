"""Which releases metadata makes: a bundle is released where its build and its approve role name the same manifest.

No IO. ``events`` says what the step from one state to the next means; the log is written from it, so that nothing
reaches devices that the log does not tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from hedgerow.registry import trust_names as names
from hedgerow.registry.authority import describe, roles
from hedgerow.registry.authority.keys import owner
from hedgerow.registry.authority.log import Event, Person
from hedgerow.registry.reference import version_key

ORIGIN: Final = "promoted_from"


@dataclass(frozen=True)
class View:
    """Metadata that belongs together: published, or about to be. ``delegated`` holds what verifies."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    delegated: Mapping[str, Metadata[Targets]] = field(default_factory=dict)


@dataclass(frozen=True, order=True)
class Release:
    """A bundle that both roles vouch for. ``files`` maps target paths to the SHA-256 of their content."""

    kind: str
    name: str
    version: str
    sha256: str
    build_role: str = field(compare=False)
    approve_role: str = field(compare=False)
    files: Mapping[str, TargetFile] = field(compare=False)
    origin: str = field(compare=False, default="")

    @property
    def reference(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"


def releases(view: View | None) -> list[Release]:
    """Every release of a state, by kind, name and version."""
    if view is None:
        return []
    found = []
    for role, metadata in view.delegated.items():
        parsed = names.parse_role(role)
        if parsed is None or parsed[0] != names.APPROVE:
            continue
        for path in metadata.signed.targets:
            named = names.release(path)
            release = None if named is None else _release(view, *named)
            if release is not None and release.approve_role == role:
                found.append(release)
    return sorted(found, key=lambda each: (each.kind, each.name, version_key(each.version)))


def find(view: View | None, kind: str, name: str, version: str) -> Release | None:
    """One release; None where the two roles do not both vouch for it."""
    return None if view is None else _release(view, kind, name, version)


def files_of(targets: Targets, kind: str, name: str, version: str) -> dict[str, TargetFile]:
    """The files of one version that a role names."""
    prefix = f"{names.folder(kind, name, version)}/"
    return {path: file for path, file in targets.targets.items() if path.startswith(prefix)}


def speaker(targets: Targets, purpose: names.Purpose, kind: str, bundle: str) -> str | None:
    """The role that speaks for a bundle: its own, else its kind's; None where nobody does."""
    known = roles.delegated_roles(targets)
    candidates = (names.role(purpose, kind, bundle), names.role(purpose, kind))
    return next((role for role in candidates if role in known), None)


def events(before: View | None, after: View) -> list[Event]:
    """What the step from ``before`` to ``after`` means: other keys first, then releases, then withdrawals."""
    old, new = releases(before), releases(after)
    found = _role_events(before, after)
    for release in new:
        if release not in old:
            found.append(_release_event("promote" if release.origin else "release", release, after))
    found += [_release_event("withdraw", release, after) for release in old if release not in new]
    return found


def people(keys: Mapping[str, Key]) -> tuple[Person, ...]:
    """Signers as the log names them."""
    return tuple(Person(owner(key), keyid) for keyid, key in sorted(keys.items()))


def _release(view: View, kind: str, name: str, version: str) -> Release | None:
    targets = view.targets.signed
    build, approve = (speaker(targets, purpose, kind, name) for purpose in names.PURPOSES)
    if build is None or approve is None or build not in view.delegated or approve not in view.delegated:
        return None
    built = files_of(view.delegated[build].signed, kind, name, version)
    approved = files_of(view.delegated[approve].signed, kind, name, version)
    manifest = names.target(kind, name, version)
    if manifest not in approved:
        return None
    for path, file in approved.items():
        if path not in built or (built[path].hashes, built[path].length) != (file.hashes, file.length):
            return None
    custom: Any = built[manifest].custom or {}
    sha256 = approved[manifest].hashes["sha256"]
    return Release(kind, name, version, sha256, build, approve, approved, str(custom.get(ORIGIN, "")))


def _release_event(what: Any, release: Release, after: View) -> Event:
    return Event(
        what,
        release.reference,
        kind=release.kind,
        sha256=release.sha256,
        origin=release.origin if what == "promote" else "",
        built=_signers(after, release.build_role),
        approved=_signers(after, release.approve_role),
    )


def _signers(view: View, role: str) -> tuple[Person, ...]:
    metadata = view.delegated.get(role)
    if metadata is None or role not in roles.delegated_roles(view.targets.signed):
        return ()
    result = view.targets.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return people(result.signed)


def _role_events(before: View | None, after: View) -> list[Event]:
    root = after.root
    signers = root.signed.get_verification_result(roles.ROOT, root.signed_bytes, root.signatures).signed
    found = [
        Event("roles", role, approved=people(signers), changes=changes)
        for role, changes in describe.root_changes(None if before is None else before.root.signed, root.signed).items()
    ]
    targets = after.targets
    result = root.signed.get_verification_result(roles.TARGETS, targets.signed_bytes, targets.signatures)
    old = None if before is None else before.targets.signed
    found += [
        Event("roles", role, approved=people(result.signed), changes=changes)
        for role, changes in describe.delegation_changes(old, targets.signed).items()
    ]
    return found
