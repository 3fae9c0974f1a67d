"""Both words and the release in one step, for whoever holds all the keys: stage, approve, release."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import TargetFile

from hedgerow.registry import bundle as bundles
from hedgerow.registry.authority import releasing, staging
from hedgerow.registry.authority.contents import Packer
from hedgerow.registry.authority.releasing import Wanted
from hedgerow.registry.authority.session import Session
from hedgerow.registry.authority.settling import Settled
from hedgerow.registry.authority.staging import Prover, Word
from hedgerow.registry.manifest import Manifest

Asked = Callable[[Manifest, Mapping[str, TargetFile]], None]
"""Shows what is about to be approved; raises where nobody says yes."""


@dataclass(frozen=True)
class Published:
    """What the three steps did."""

    built: Word
    approved: Word
    settled: Settled

    @property
    def changed(self) -> bool:
        """Whether anything is new, for devices or in the store."""
        return self.built.changed or self.approved.changed or bool(self.settled.events)


def publish(
    session: Session,
    folder: Path,
    *,
    packer: Packer,
    prover: Prover | None = None,
    asked: Asked | None = None,
    on_bytes: Callable[[int], None] | None = None,
    note: str = "",
) -> Published:
    """Build, approve and release the bundle in ``folder``; done before, nothing changes.

    What ``asked`` raises, and what is missing in between, leaves the builder's word staged: devices see none of it.

    Raises:
        UsageError, PublisherError: no bundle there, or a file is not what its manifest says.
        RefusedError: the version is known with another content, lacks proofs, or a key that must sign is not here.
    """
    of = bundles.load(folder).manifest
    built = staging.stage(session, folder, packer=packer, prover=prover, on_bytes=on_bytes)
    wanted = Wanted(of.kind, of.name, of.version)
    if asked is not None and releasing.released(session, wanted) is None:
        asked(*staging.read_staged(session, of.kind, of.name, of.version))
    approved = staging.approve(session, of.kind, of.name, of.version)
    return Published(built, approved, releasing.release(session, wanted, note=note))
