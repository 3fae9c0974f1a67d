"""What staging asks of others, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from msgspec import Struct

from hedgerow.device.store import window
from hedgerow.device.store.config import StoreConfig
from hedgerow.device.store.keep import Places
from hedgerow.device.store.layout import Layout
from hedgerow.device.store.planner import Costs
from hedgerow.errors import HedgerowError
from hedgerow.registry import variants
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.reference import Reference

MB = 1 << 20
DEFAULT_RESERVE_MB = 64


class Registry(Protocol):
    """What the registry's signatures vouch for; ``hedgerow.registry.client`` has it.

    Both raise RefusedError where they do not, and NetworkError where it cannot be reached.
    """

    def manifest(self, reference: Reference, kind: str = "model") -> bytes: ...

    def transfer(self, reference: Reference, kind: str = "model") -> bytes: ...


def _first(manifest: Manifest) -> str:
    return variants.names(manifest)[0]


@dataclass(frozen=True)
class Device:
    """Where things lie here, how much may be taken, and what time it is; ``pick`` names the variant of a bundle.

    ``accepts`` raises RefusedError for a manifest that this device has no use for, before anything of it is fetched.
    """

    places: Places
    config: StoreConfig = field(default_factory=StoreConfig)
    reserve_mb: int = DEFAULT_RESERVE_MB
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    pick: Callable[[Manifest], str] = _first
    accepts: Callable[[Manifest], None] = lambda _: None

    @property
    def layout(self) -> Layout:
        return self.places.layout

    @property
    def costs(self) -> Costs:
        """What the planner reckons with."""
        config = self.config
        return Costs(written=config.wear, read=config.reading, memory=config.memory_mb * MB)

    def check_window(self, kind: type[HedgerowError]) -> None:
        """Raise ``kind`` where it is not the hour to fetch."""
        wanted, now = self.config.window, self.now()
        if wanted is not None and not window.is_open(wanted, now):
            raise kind(
                f"it is not the hour to fetch; the window opens at {window.opens(wanted, now):%Y-%m-%d %H:%M} UTC",
                where="store.window in device.yml (rule: download window)",
                next_step="run the command again then, what came stays; or at once: hedgerow-device stage NAME@VERSION",
            )


class Staged(Struct, frozen=True):
    """What came of it. ``by``: bytes of the version by how they came; ``new_bytes`` of it were not here before.

    ``fetched`` bytes came over the line in ``requests``, metadata apart; ``written`` went to the disk. ``notes`` are
    sentences for a person: what was found wrong on the way.
    """

    reference: str
    changed: bool
    new_bytes: int = 0
    fetched: int = 0
    written: int = 0
    requests: int = 0
    by: dict[str, int] = {}
    notes: tuple[str, ...] = ()
