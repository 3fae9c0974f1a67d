"""python-tuf's client with a time of our own, files that survive a power cut, and roles asked by name.

All that touches the inside of ``tuf.ngclient`` is in this module, and ``tests/unit/registry/client/test_updater.py``
says what it relies on: python-tuf has no public way to hand in the time, to write durably, or to ask one role.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tuf.api.exceptions import ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Delegations, Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater

from hedgerow import atomic
from hedgerow.registry.client import times
from hedgerow.registry.client.limits import Limits
from hedgerow.registry.client.times import Floor, TrustedTime

_TOP = (Root.type, Timestamp.type, Snapshot.type, Targets.type)


class ClockDisagreesError(RepositoryError):
    """Metadata were signed after a synchronised clock says that it is."""

    def __init__(self, floor: Floor) -> None:
        super().__init__(f"{floor.proven_by} was signed at {floor.time:%Y-%m-%d %H:%M} UTC")
        self.floor = floor


class RoleUpdater(Updater):
    """``time`` is what expiry is held against: it rises while metadata are verified, and starts over below a root."""

    def __init__(
        self, trust_dir: Path, url: str, fetcher: FetcherInterface, *, limits: Limits, root: bytes, time: TrustedTime
    ) -> None:
        self._started = self.time = time
        super().__init__(str(trust_dir), f"{url}/metadata/", fetcher=fetcher, config=limits.updater(), bootstrap=root)

    @property
    def delegations(self) -> Delegations | None:
        """Whom the top-level targets name; after ``refresh``."""
        return self._trusted_set.targets.delegations

    @property
    def verified(self) -> Iterator[tuple[str, Signed]]:
        """(role, metadata) of all that holds so far, expired or not."""
        # Its own iterator leaves the names out.
        return iter(self._trusted_set._trusted_set.items())  # noqa: SLF001

    def refresh(self) -> None:
        """As python-tuf does; then once more nothing may be expired by the time that the newest of it proves."""
        super().refresh()
        for role in _TOP:
            if self._trusted_set[role].is_expired(self.time.now):
                raise ExpiredMetadataError(f"{role}.json is expired")

    def target(self, role: str, path: str) -> TargetFile | None:
        """What ``role``, one that the top-level targets name, says of ``path``; None where it says nothing."""
        return self._load_targets(role, Targets.type).targets.get(path)

    # -- time: raised by whatever was verified last --------------------------------

    def _load_root(self) -> None:
        super()._load_root()
        # Not before: keys that this root replaced prove nothing, and what they proved must not judge it. Nor does what
        # was kept while the clock was not synchronised, and is contradicted now: newer metadata may take its place.
        kept = self._kept()
        self.time = self._started if kept is None or self._started.is_ahead(kept) else self._started.raised(kept)
        self._look()

    def _load_timestamp(self) -> None:
        try:
            super()._load_timestamp()
        finally:
            self._look()

    def _load_snapshot(self) -> None:
        super()._load_snapshot()
        self._look()

    def _load_targets(self, role: str, parent_role: str) -> Targets:
        targets = super()._load_targets(role, parent_role)
        self._look()
        return targets

    def _look(self) -> None:
        floor = times.newest(self.verified)
        if floor is not None and self.time.is_ahead(floor):
            raise ClockDisagreesError(floor)
        self.time = self.time.raised(floor)
        self._trusted_set.reference_time = self.time.now

    def _kept(self) -> Floor | None:
        """What the files of the top-level roles in the trust folder prove under this root."""
        return times.newest(self._files())

    def _files(self) -> Iterator[tuple[str, Signed]]:
        kinds: tuple[type[Timestamp | Snapshot | Targets], ...] = (Timestamp, Snapshot, Targets)
        for kind in kinds:
            with suppress(OSError, RepositoryError):
                metadata = Metadata[kind].from_bytes(self._load_local_metadata(kind.type))  # type: ignore[valid-type]
                self._trusted_set.root.verify_delegate(kind.type, metadata.signed_bytes, metadata.signatures)
                yield kind.type, metadata.signed

    # -- files: python-tuf renames them too, but does not flush them, and root.json is gone for a moment ---------

    def _persist_metadata(self, rolename: str, data: bytes) -> None:
        self._look()  # what a synchronised clock contradicts is not kept: it would be a floor for ever
        super()._persist_metadata(rolename, data)

    def _persist_file(self, filename: str, data: bytes) -> None:
        atomic.write_bytes(Path(filename), data)

    def _update_root_symlink(self) -> None:
        link = Path(self._dir, "root.json")
        target = f"root_history/{self._trusted_set.root.version}.root.json"
        if link.is_symlink() and str(link.readlink()) == target:
            return
        # python-tuf comes here too when a new root could not be written; the link stays with the one before then.
        if (link.parent / target).exists():
            atomic.symlink(target, link)
