"""Publish bundles into a store: blobs first, then the manifest, then metadata, the timestamp last.

- Idempotent: publishing the same bundle again changes nothing.
- Immutable: another content under a published version is refused.
- Cut off anywhere, the store still serves what it served before: new files are named by nothing until the timestamp
  is replaced, and the next publish overwrites them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from hedgerow import paths
from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.registry import blobs, keys, manifest
from hedgerow.registry import bundle as bundles
from hedgerow.registry.reference import Reference, version_key
from hedgerow.registry.store import FolderStore, Store
from hedgerow.registry.trust import Roles

METADATA = "metadata"
TARGETS = "targets"
BLOBS = blobs.FOLDER


@dataclass(frozen=True)
class Published:
    """What a publish did."""

    reference: Reference
    sha256: str
    changed: bool
    new_bytes: int


class Registry:
    """A signed registry in a store. ``now`` is asked whenever metadata is made."""

    def __init__(self, store: Store, signing: Path, *, now: Callable[[], datetime] | None = None) -> None:
        self.store = store
        self._signing = signing
        self._now = now or (lambda: datetime.now(UTC).replace(microsecond=0))

    @classmethod
    def of_fleet(cls, fleet: str) -> Registry:
        """The fleet's registry in the embedded default: a folder on this controller."""
        folder = paths.fleet_dir(fleet)
        return cls(FolderStore(folder / "registry"), folder / "signing")

    def init(self) -> bool:
        """Make keys and first metadata; False where they are there already."""
        with self.store.lock():
            if self.store.get(f"{METADATA}/timestamp.json") is not None:
                keys.load(self._signing)
                return False
            keys.create(self._signing)
            self._write(Roles.first(keys.load(self._signing), self._now()))
            return True

    def publish(self, folder: Path, *, on_bytes: Callable[[int], None] | None = None) -> Published:
        """Verify the bundle in ``folder`` and make it available.

        Raises:
            UsageError: no bundle there, or no registry yet.
            PublisherError: a file is not what the manifest says.
            RefusedError: the version is published with another content, or is of a kind that devices do not take so.
        """
        bundle = bundles.verify_files(folder, on_bytes=on_bytes)
        _require_takeable(bundle)
        reference = Reference(bundle.manifest.name, bundle.manifest.version)
        with self.store.lock():
            roles, role_keys = self._load()
            known = roles.targets.signed.targets.get(reference.target)
            if known is not None and known.hashes["sha256"] != bundle.sha256:
                raise RefusedError(
                    f"{reference} is published with another content: a version never changes",
                    where=f"published manifest {known.hashes['sha256'][:12]}, this one {bundle.sha256[:12]}",
                    next_step="give the bundle a new version and build it again",
                )
            new_bytes = blobs.put(self.store, bundle)
            data = (folder / manifest.FILE_NAME).read_bytes()
            if self.store.get(f"{TARGETS}/{reference.target}") != data:
                self.store.put(f"{TARGETS}/{reference.target}", data)
                new_bytes += len(data)
            if known is None:
                roles.add(reference.target, data, self._now())
            self._renew(roles, role_keys)
        return Published(reference, bundle.sha256, known is None or new_bytes > 0, new_bytes)

    def refresh(self) -> list[str]:
        """Sign anew what expires soon; the roles' names. A timer on the controller calls this."""
        with self.store.lock():
            roles, role_keys = self._load()
            self._renew(roles, role_keys)
            return sorted(roles.changed)

    def references(self) -> list[Reference]:
        """Every bundle that the metadata names, sorted by name and version."""
        roles, _ = self._load()
        found = [Reference.of_target(path) for path in roles.targets.signed.targets]
        return sorted(
            (each for each in found if each is not None), key=lambda each: (each.name, version_key(each.version))
        )

    def expiries(self) -> dict[str, datetime]:
        """When each role's metadata ends, UTC."""
        roles, _ = self._load()
        return {
            "root": roles.root.signed.expires,
            "targets": roles.targets.signed.expires,
            "snapshot": roles.snapshot.signed.expires,
            "timestamp": roles.timestamp.signed.expires,
        }

    def _renew(self, roles: Roles, role_keys: Mapping[str, keys.RoleKeys]) -> None:
        roles.refresh(self._now())
        roles.sign(role_keys)
        self._write(roles)

    def _write(self, roles: Roles) -> None:
        for name, data in roles.files():
            self.store.put(f"{METADATA}/{name}", data)

    def _load(self) -> tuple[Roles, Mapping[str, keys.RoleKeys]]:
        """Read the newest metadata along timestamp → snapshot → targets."""
        role_keys = keys.load(self._signing)
        try:
            timestamp = Metadata[Timestamp].from_bytes(self._metadata("timestamp.json"))
            snapshot_version = timestamp.signed.snapshot_meta.version
            snapshot = Metadata[Snapshot].from_bytes(self._metadata(f"{snapshot_version}.snapshot.json"))
            targets_version = snapshot.signed.meta["targets.json"].version
            targets = Metadata[Targets].from_bytes(self._metadata(f"{targets_version}.targets.json"))
            root = Metadata[Root].from_bytes(self._metadata(f"{self._newest_root()}.root.json"))
            for name, signed in (("targets", targets), ("snapshot", snapshot), ("timestamp", timestamp)):
                root.signed.verify_delegate(name, signed.signed_bytes, signed.signatures)
        except (RepositoryError, KeyError) as error:
            raise PublisherError(
                f"the registry's metadata is damaged: {error}",
                where=str(getattr(self.store, "root", "")),
                next_step="hedgerow registry verify shows where; restore the registry from its backup",
            ) from error
        return Roles(root, targets, snapshot, timestamp), role_keys

    def _metadata(self, name: str) -> bytes:
        data = self.store.get(f"{METADATA}/{name}")
        if data is None:
            raise UsageError(
                f"the registry has no {name}",
                where=str(getattr(self.store, "root", "")),
                next_step="hedgerow registry init",
            )
        return data

    def _newest_root(self) -> int:
        names = (path.removeprefix(f"{METADATA}/") for path in self.store.list(f"{METADATA}/"))
        return max((int(name.split(".")[0]) for name in names if name.endswith(".root.json")), default=1)


def _require_takeable(bundle: bundles.Bundle) -> None:
    """A device that fetches by whole files takes all of them, and serves models."""
    found = bundle.manifest
    if found.kind != "model" or found.variants:
        what = f"of kind {found.kind}" if found.kind != "model" else "of several variants"
        raise RefusedError(
            f"{found.reference} is {what}: devices do not take these from this registry",
            where=str(bundle.directory),
            next_step="hedgerow registry stage, approve, release (docs/registry.md)",
        )
