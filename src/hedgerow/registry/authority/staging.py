"""The two words that a release needs: whoever builds says "this is what I made", whoever approves says "let it out".

Each word is a new version of its role's metadata, signed by the role's threshold, kept as a candidate until it is
released. Staging brings the contents; nobody sees them before a snapshot names their manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

from tuf.api.metadata import TargetFile

from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry import trust_names as names
from hedgerow.registry.authority import contents, releases, settling
from hedgerow.registry.authority.contents import Contents, Packer
from hedgerow.registry.authority.draft import Draft
from hedgerow.registry.authority.keys import owner
from hedgerow.registry.authority.session import Session, Work
from hedgerow.registry.authority.settling import Waiting
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.store import ObjectStore
from hedgerow.registry.transfer import codec
from hedgerow.registry.transfer.recipe import check_agrees

_PROVEN: Final = frozenset({"provenance", "vulnerabilities"})

Prover = Callable[[Path, date], object]
"""Holds a bundle to its proofs as of a day; raises where they do not hold (``hedgerow.models.proof.check``)."""


@dataclass(frozen=True)
class Word:
    """What was said of a bundle: by which role, and what is missing until it counts."""

    role: str
    kind: str
    reference: str
    sha256: str
    changed: bool
    new_bytes: int
    waiting: tuple[Waiting, ...]


def stage(
    session: Session,
    folder: Path,
    *,
    packer: Packer | None = None,
    prover: Prover | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Word:
    """Verify the bundle in ``folder``, bring its contents, and let its build role name it.

    A bundle that says it has proofs is held to them; with ``proofs: true`` in ``authority.yml`` each must have them.

    Raises:
        UsageError, PublisherError: no bundle there, or a file is not what its manifest or a proof says.
        RefusedError: the version is known with another content, proofs are missing or tell of a known vulnerability, or
            nobody may build this kind.
    """
    bundle = bundles.verify_files(folder, on_bytes=on_bytes)
    if prover is not None and (session.settings.proofs or _claims_proofs(bundle.manifest)):
        prover(folder, session.now().date())
    with session.work() as work:
        of = bundle.manifest
        role = work.draft.delegation(names.BUILD, of.kind, of.name)
        _refuse_other(work.draft, of, bundle.sha256)
        known = work.draft.upcoming_targets(role)
        named = None if known is None else known.targets.get(names.target(of.kind, of.name, of.version, names.TRANSFER))
        brought = contents.put(session.store, bundle, packer if named is None else _as_named(named, packer))
        return say(work, role, of, brought)


def _as_named(named: TargetFile, packer: Packer | None) -> Packer | None:
    """``packer``, which mends what is missing of a recipe that is signed already, and never brings another one.

    Raises:
        PublisherError: what the recipe was made from is gone, so that it cannot be made again.
    """
    if packer is None:
        return None

    def again(store: ObjectStore, bundle: Bundle) -> bytes:
        recipe = packer(store, bundle)
        if hashlib.sha256(recipe).hexdigest() != named.hashes["sha256"]:
            raise PublisherError(
                f"the recipe of {bundle.manifest.reference} is damaged, and versions that it was made from are gone",
                where=store.where,
                next_step="restore the registry from its backup, or give the bundle a new version",
            )
        return recipe

    return again


def say(work: Work, role: str, of: Manifest, brought: Contents, *, origin: str = "") -> Word:
    """Let a build role name the files of a version; what it names already stays, and only signatures are added."""
    files = {path: _target(path, data, origin) for path, data in brought.files.items()}
    known = work.draft.upcoming_targets(role)
    old = {} if known is None else releases.files_of(known, of.kind, of.name, of.version)
    # What is named stays as it is: an approval of the same files must go on holding.
    if missing := {path: file for path, file in files.items() if path not in old}:
        work.draft.edit_targets(role).targets |= missing
    work.sign(role)
    changed = bool(work.draft.dirty) or brought.new_bytes > 0
    sha256 = files[names.target(of.kind, of.name, of.version)].hashes["sha256"]
    return _word(work, role, of, sha256, changed=changed, new_bytes=brought.new_bytes)


def read_staged(session: Session, kind: str, name: str, version: str) -> tuple[Manifest, dict[str, TargetFile]]:
    """What whoever approves is asked about: the manifest that the build role names, and every file named with it.

    Raises:
        RefusedError: the build role does not name it, or its threshold is not met.
        PublisherError: the content is missing or damaged.
    """
    return _built(session, session.look(), kind, name, version)


def approve(session: Session, kind: str, name: str, version: str) -> Word:
    """Let the approve role name what the build role named, file by file with the same hashes.

    Raises:
        RefusedError: it is not built, or by keys of the same person where two are asked for.
        PublisherError: the content is missing or damaged.
    """
    with session.work() as work:
        of, files = _built(session, work.draft, kind, name, version)
        role = work.draft.delegation(names.APPROVE, kind, name)
        known = work.draft.upcoming_targets(role)
        old = {} if known is None else releases.files_of(known, kind, name, version)
        if {path: file.hashes for path, file in old.items()} != {path: file.hashes for path, file in files.items()}:
            targets = work.draft.edit_targets(role)
            targets.targets = {path: file for path, file in targets.targets.items() if path not in old}
            for path, file in files.items():
                targets.targets[path] = TargetFile(file.length, dict(file.hashes), path)
        work.sign(role)
        if session.settings.two_people:
            _refuse_one_person(work.draft, kind, name, version)
        sha256 = files[names.target(kind, name, version)].hashes["sha256"]
        return _word(work, role, of, sha256, changed=bool(work.draft.dirty), new_bytes=0)


def _claims_proofs(of: Manifest) -> bool:
    """Whether a bundle comes with what ``hedgerow model prove`` writes."""
    return any(proof.kind in _PROVEN for proof in of.proofs)


def _built(
    session: Session, draft: Draft, kind: str, name: str, version: str
) -> tuple[Manifest, dict[str, TargetFile]]:
    role = draft.delegation(names.BUILD, kind, name)
    metadata = draft.targets.get(role) or draft.published_targets(role)
    path = names.target(kind, name, version)
    if metadata is None or path not in metadata.signed.targets:
        raise RefusedError(
            f"{name}@{version} is not built: {role} does not name it (rule: both-roles)",
            where=session.settings.stage,
            next_step=f"hedgerow registry stage FOLDER --stage {session.settings.stage}",
        )
    parent = draft.upcoming_targets()
    if parent is None or not parent.get_verification_result(role, metadata.signed_bytes, metadata.signatures):
        raise RefusedError(
            f"{name}@{version} is not built: {role} lacks signatures (rule: threshold)",
            where=session.settings.stage,
            next_step="let the others stage it too, or sign by request: hedgerow registry request " + role,
        )
    files = releases.files_of(metadata.signed, kind, name, version)
    of = manifests.decode(contents.read(session.store, path, files[path]), where=path)
    if (of.kind, of.name, of.version) != (kind, name, version):
        raise RefusedError(f"{path} describes {of.kind} {of.reference} (rule: own-place)", where=path)
    recipe = names.target(kind, name, version, names.TRANSFER)
    if recipe in files:
        decoded = codec.decode(contents.read(session.store, recipe, files[recipe]), where=recipe)
        check_agrees(decoded, of)
        contents.check_packs(session.store, decoded)
    return of, files


def _refuse_other(draft: Draft, of: Manifest, sha256: str) -> None:
    """A version never changes: not in what is published, nor in what is staged."""
    path = names.target(of.kind, of.name, of.version)
    for role in (names.role(names.BUILD, of.kind, of.name), names.role(names.BUILD, of.kind)):
        known = draft.upcoming_targets(role)
        file = None if known is None else known.targets.get(path)
        if file is not None and file.hashes["sha256"] != sha256:
            raise RefusedError(
                f"{of.reference} is known with another content: a version never changes (rule: immutable)",
                where=f"{role} names {file.hashes['sha256'][:12]}, this one is {sha256[:12]}",
                next_step="give the bundle a new version and build it again",
            )


def _refuse_one_person(draft: Draft, kind: str, name: str, version: str) -> None:
    """Raise RefusedError where a key of the same owner built and approved."""
    parent = draft.upcoming_targets()
    found: list[set[str]] = []
    for purpose in names.PURPOSES:
        role = draft.delegation(purpose, kind, name)
        metadata = draft.targets.get(role) or draft.published_targets(role)
        if parent is None or metadata is None:
            return
        result = parent.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        found.append({owner(key) for key in result.signed.values()})
    both = sorted(found[0] & found[1])
    if both:
        raise RefusedError(
            f"{', '.join(both)} built {name}@{version} and may not approve it (rule: two-people)",
            next_step="let somebody else approve it: hedgerow registry approve … --key NAME",
        )


def _word(work: Work, role: str, of: Manifest, sha256: str, *, changed: bool, new_bytes: int) -> Word:
    candidates = [each for each in work.draft.candidates() if each == role]
    left = settling.waiting(work.draft, work.session.keyring(), candidates)
    short = tuple(each for each in left if each.missing)
    return Word(role, of.kind, of.reference, sha256, changed, new_bytes, short)


def _target(path: str, data: bytes, origin: str) -> TargetFile:
    file = TargetFile.from_data(path, data, ["sha256"])
    if origin:
        file.unrecognized_fields["custom"] = {releases.ORIGIN: origin}
    return file


def no_such(kind: str, reference: str, stage_name: str) -> UsageError:
    """A release that a stage does not have."""
    return UsageError(
        f"{reference} ({kind}) is not released in {stage_name}",
        next_step=f"hedgerow registry ceremony --stage {stage_name}",
    )
