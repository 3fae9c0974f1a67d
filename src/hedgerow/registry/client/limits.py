"""How much a registry may send, and how long it may take, before anybody knows whether to believe it."""

from __future__ import annotations

from dataclasses import dataclass

from tuf.ngclient import UpdaterConfig

from hedgerow.registry.manifest import MAX_MANIFEST_BYTES

_MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Lengths are in bytes, times in seconds.

    A fleet of 1,000 bundles with ten kept versions has about 3 MB in one kind's targets and 100 KB in its snapshot.
    A recipe names a chunk in about 100 bytes before compression, so 16 MiB speak for more than a card can hold.
    """

    root: int = 512 * 1024
    timestamp: int = 16 * 1024
    snapshot: int = 2 * _MIB
    targets: int = 8 * _MIB
    manifest: int = MAX_MANIFEST_BYTES
    transfer: int = 16 * _MIB
    roots: int = 256
    """New roots that one refresh walks through; the next goes on."""
    refresh_s: float = 600.0
    """All metadata of a refresh. The least rate (``client.pace``) alone would let 12 MB take three hours."""
    reuse_s: float = 300.0
    """What was refreshed is believed for so long without looking again."""

    def updater(self) -> UpdaterConfig:
        """The same for python-tuf's client."""
        return UpdaterConfig(
            max_root_rotations=self.roots,
            root_max_length=self.root,
            timestamp_max_length=self.timestamp,
            snapshot_max_length=self.snapshot,
            targets_max_length=self.targets,
            prefix_targets_with_hash=False,
        )
