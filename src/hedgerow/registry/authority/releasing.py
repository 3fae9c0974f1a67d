"""Let approved bundles out, take them back, carry them to the next stage, and keep the online roles fresh."""

from __future__ import annotations

from dataclasses import dataclass

from hedgerow.errors import RefusedError
from hedgerow.registry import manifest as manifests
from hedgerow.registry import trust_names as names
from hedgerow.registry.authority import contents, releases, settling, staging
from hedgerow.registry.authority.releases import Release
from hedgerow.registry.authority.session import Session
from hedgerow.registry.authority.settling import Settled
from hedgerow.registry.authority.staging import Word


@dataclass(frozen=True)
class Wanted:
    """A bundle as commands name it."""

    kind: str
    name: str
    version: str

    @property
    def reference(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"


def release(session: Session, wanted: Wanted | None = None, *, note: str = "") -> Settled:
    """Publish all that is signed; ``wanted`` must be released afterwards.

    Raises:
        RefusedError: one of the two roles has not said its word for ``wanted``; nothing was published.
        PublisherError: contents are missing or damaged.
    """
    with session.work() as work:
        if wanted is not None and released(session, wanted) is None:
            _refuse_unready(session, wanted)
        done = work.settle(note=note)
    if wanted is not None and released(session, wanted) is None:
        raise RefusedError(
            f"{wanted.reference} is not released: one of its roles still waits for signatures (rule: threshold)",
            where=session.settings.stage,
            next_step=f"hedgerow registry ceremony --stage {session.settings.stage}",
        )
    return done


def released(session: Session, wanted: Wanted) -> Release | None:
    """A published release; None where there is none."""
    view = settling.view_of(session.look())
    return releases.find(view, wanted.kind, wanted.name, wanted.version)


def withdraw(session: Session, wanted: Wanted, *, note: str) -> Settled:
    """Take the approver's word back: devices that do not have the bundle no longer get it; who serves it, goes on.

    The builder's word stays, so that the version can never come back with another content.

    Raises:
        UsageError: it was never released here.
    """
    with session.work() as work:
        role = work.draft.delegation(names.APPROVE, wanted.kind, wanted.name)
        known = work.draft.upcoming_targets(role)
        named = {} if known is None else releases.files_of(known, wanted.kind, wanted.name, wanted.version)
        view = settling.view_of(work.draft)
        if not named and releases.find(view, wanted.kind, wanted.name, wanted.version) is None:
            built = work.draft.upcoming_targets(work.draft.delegation(names.BUILD, wanted.kind, wanted.name))
            if built is None or not releases.files_of(built, wanted.kind, wanted.name, wanted.version):
                raise staging.no_such(wanted.kind, wanted.reference, session.settings.stage)
        if named:
            targets = work.draft.edit_targets(role)
            targets.targets = {path: file for path, file in targets.targets.items() if path not in named}
        work.sign(role)
        return work.settle(frozenset({role}), note=note)


def promote(source: Session, target: Session, wanted: Wanted) -> Word:
    """Copy a release of one stage by its hashes, and let the next stage's build role name it.

    Raises:
        UsageError: ``source`` has not released it.
        RefusedError: ``target`` knows the version with another content.
        PublisherError: contents are missing or damaged in ``source``.
    """
    found = released(source, wanted)
    if found is None:
        raise staging.no_such(wanted.kind, wanted.reference, source.settings.stage)
    with target.work() as work:
        role = work.draft.delegation(names.BUILD, wanted.kind, wanted.name)
        path = names.target(wanted.kind, wanted.name, wanted.version)
        known = work.draft.upcoming_targets(role)
        old = None if known is None else known.targets.get(path)
        if old is not None and old.hashes["sha256"] != found.sha256:
            raise RefusedError(
                f"{target.settings.stage} knows {wanted.reference} with another content (rule: immutable)",
                where=f"{role} names {old.hashes['sha256'][:12]}, {source.settings.stage} has {found.sha256[:12]}",
                next_step="give the bundle a new version and build it again",
            )
        brought = contents.copy(source.store, target.store, dict(found.files))
        of = manifests.decode(brought.files[path], where=path)
        return staging.say(work, role, of, brought, origin=source.settings.stage)


def refresh(session: Session) -> Settled:
    """Renew snapshot and timestamp where little of their life is left, and mend what a kill left.

    A timer on the controller calls this. It needs the online keys alone, and lets nothing out that nobody released.
    """
    with session.work() as work:
        return work.settle(None if work.mend else frozenset())


def _refuse_unready(session: Session, wanted: Wanted) -> None:
    """Raise RefusedError where ``wanted`` is not built and approved, with its contents in the store."""
    of, files = staging.read_staged(session, wanted.kind, wanted.name, wanted.version)
    for path, file in files.items():
        contents.read(session.store, path, file)
    draft = session.look()
    role = draft.delegation(names.APPROVE, wanted.kind, wanted.name)
    known = draft.upcoming_targets(role)
    if known is None or names.target(wanted.kind, wanted.name, wanted.version) not in known.targets:
        raise RefusedError(
            f"{of.reference} is built and not approved: {role} does not name it (rule: both-roles)",
            where=session.settings.stage,
            next_step=f"hedgerow registry approve {of.reference} --stage {session.settings.stage}",
        )
