"""What the solver judges and what it says; frozen values, no IO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from hedgerow.inventory.model import FleetRelease, Hat, Host


class Status(StrEnum):
    """What breaking a rule means."""

    FORBIDDEN = "forbidden"
    """It cannot work, or it destroys something; nothing allows it."""
    OPT_IN = "opt-in"
    """Others run it; it is not what the archive ships. ``fleet_release.allow`` takes it, with a reason."""
    UNVERIFIED = "unverified"
    """Nobody known to us has run it. ``fleet_release.allow`` takes it, with a reason."""

    @property
    def may_be_allowed(self) -> bool:
        return self is not Status.FORBIDDEN


@dataclass(frozen=True, slots=True)
class Source:
    """An apt archive of the inventory (``os_pinning_sources``); ``key_expiry`` in seconds since the epoch."""

    name: str
    uris: tuple[str, ...]
    suites: tuple[str, ...] = ()
    key_expiry: int | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle's manifest asks of a host. ``hats``: any of these; empty means every board."""

    reference: str
    format: str
    hats: tuple[Hat, ...] = ()
    hailort: str | None = None
    firmware: str | None = None
    runtime: str | None = None


@dataclass(frozen=True, slots=True)
class Combination:
    """The lock with everything that has to get along with it.

    ``driver_options`` maps a host to its options of the HAT's kernel module, ``memory_mb`` to the size of its board.
    ``odd_binaries`` are files of the runtime that some page size breaks, each with the largest pages that it bears;
    None where nobody looked.
    ``now`` is in seconds since the epoch.
    """

    release: FleetRelease
    hosts: Mapping[str, Host]
    sources: tuple[Source, ...] = ()
    bundle: Bundle | None = None
    driver_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    memory_mb: Mapping[str, int] = field(default_factory=dict)
    odd_binaries: Mapping[str, int] | None = None
    now: float = 0.0

    @property
    def hats(self) -> dict[Hat, tuple[str, ...]]:
        """HAT → hosts that have it; boards without one are left out."""
        found: dict[Hat, tuple[str, ...]] = {}
        for name, host in self.hosts.items():
            if host.hat != "none":
                found[host.hat] = (*found.get(host.hat, ()), name)
        return found


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is known of combinations.

    ``says`` is a sentence, ``source`` where it is known from (sections of the fact sheet, failures F1 to F48);
    ``breaks`` yields what in a combination goes against it, each with the key to change.
    """

    id: str
    says: str
    source: str
    status: Status
    breaks: Callable[[Combination], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach of a rule. ``reason`` is why the fleet allows it; without one, the combination is refused."""

    rule: Rule
    what: str
    reason: str | None = None

    @property
    def refused(self) -> bool:
        return self.reason is None
