"""The registry's metadata under The Update Framework: what exists, what a publish adds. No IO; the time is handed in.

- ``root`` names every role's keys; ``targets`` names the bundles' manifests; ``snapshot`` and ``timestamp`` fix which
  metadata belongs together and how new it must be (The Update Framework specification 1.0, sections 4.3 to 4.6).
- Metadata is numbered (consistent snapshots), so a device in the middle of a fetch never meets a mixture. Manifests
  are not prefixed by their hash: their path holds the version, and a version never changes.
- Top-level ``targets`` signs all; delegations per model fit below it without a device noticing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, TypeVar

from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from hedgerow.registry.keys import ROLES, RoleKeys

# Long enough for the ceremony that replaces it, short enough that a lost fleet notices within its lifetime.
# targets: one release a quarter keeps it fresh. snapshot: a week of a broken timer. timestamp: a day's freeze at most.
LIFETIMES: Final[Mapping[str, timedelta]] = {
    "root": timedelta(days=365),
    "targets": timedelta(days=90),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(days=1),
}
# Renewed when less than this share of the life is left, so that a second run soon after changes nothing.
RENEW_AT: Final = 1 / 3

T = TypeVar("T", bound=Signed)


class Roles:
    """The four roles' metadata. ``changed`` names those whose files must be written."""

    def __init__(
        self,
        root: Metadata[Root],
        targets: Metadata[Targets],
        snapshot: Metadata[Snapshot],
        timestamp: Metadata[Timestamp],
    ) -> None:
        self.root = root
        self.targets = targets
        self.snapshot = snapshot
        self.timestamp = timestamp
        self.changed: set[str] = set()

    @classmethod
    def first(cls, keys: Mapping[str, RoleKeys], now: datetime) -> Roles:
        """Version 1 of everything, signed."""
        root = Root(expires=now + LIFETIMES["root"], consistent_snapshot=True)
        for role in ROLES:
            for key in keys[role].public_keys:
                root.add_key(key, role)
            root.roles[role].threshold = keys[role].threshold
        roles = cls(
            Metadata(root),
            Metadata(Targets(expires=now + LIFETIMES["targets"])),
            Metadata(Snapshot(expires=now + LIFETIMES["snapshot"])),
            Metadata(Timestamp(expires=now + LIFETIMES["timestamp"])),
        )
        roles.changed = set(ROLES)
        roles.sign(keys)
        return roles

    def add(self, path: str, data: bytes, now: datetime) -> None:
        """Name a target; sign afterwards."""
        self.targets.signed.targets[path] = TargetFile.from_data(path, data, ["sha256"])
        self._renew("targets", self.targets.signed, now)

    def refresh(self, now: datetime) -> None:
        """Give a new life to what has little left; sign afterwards. Root is left to its ceremony."""
        if _is_old(self.targets.signed, LIFETIMES["targets"], now):
            self._renew("targets", self.targets.signed, now)
        if "targets" in self.changed or _is_old(self.snapshot.signed, LIFETIMES["snapshot"], now):
            self.snapshot.signed.meta["targets.json"] = MetaFile(self.targets.signed.version)
            self._renew("snapshot", self.snapshot.signed, now)
        if "snapshot" in self.changed or _is_old(self.timestamp.signed, LIFETIMES["timestamp"], now):
            self.timestamp.signed.snapshot_meta = MetaFile(self.snapshot.signed.version)
            self._renew("timestamp", self.timestamp.signed, now)

    def sign(self, keys: Mapping[str, RoleKeys]) -> None:
        """Sign whatever changed."""
        metadata: Mapping[str, Metadata[Root] | Metadata[Targets] | Metadata[Snapshot] | Metadata[Timestamp]]
        metadata = {"root": self.root, "targets": self.targets, "snapshot": self.snapshot, "timestamp": self.timestamp}
        for role in self.changed:
            metadata[role].signatures.clear()
            for signer in keys[role].signers():
                metadata[role].sign(signer, append=True)

    def files(self) -> list[tuple[str, bytes]]:
        """Paths below ``metadata/`` and content of what changed, in the order in which it must be written."""
        named = [
            ("root", f"{self.root.signed.version}.root.json", self.root),
            ("targets", f"{self.targets.signed.version}.targets.json", self.targets),
            ("snapshot", f"{self.snapshot.signed.version}.snapshot.json", self.snapshot),
            ("timestamp", "timestamp.json", self.timestamp),
        ]
        return [(name, metadata.to_bytes()) for role, name, metadata in named if role in self.changed]  # type: ignore[attr-defined]

    def _renew(self, role: str, signed: T, now: datetime) -> None:
        if role not in self.changed:  # several changes are one new version
            signed.version += 1
        signed.expires = now + LIFETIMES[role]
        self.changed.add(role)


def _is_old(signed: Signed, lifetime: timedelta, now: datetime) -> bool:
    return signed.expires - now < lifetime * RENEW_AT
