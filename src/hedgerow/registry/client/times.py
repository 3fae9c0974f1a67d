"""What time it is for a device that may have any clock. No IO.

Rules
-----
* The time is the later of the clock and the floor. The floor is the newest ``issued`` among metadata whose signatures
  hold under the newest root: nobody but the registry moves it, and never the clock.
* So a clock that stands still, or starts in 1970, does not make expired metadata fresh again. A clock that is ahead
  makes everything look expired, and leaves no trace once it is right again.
* A floor that a thief pushed ahead falls with the key: after the root that replaces the key, what it signed proves
  nothing any more.
* A synchronised clock is a witness too: metadata that were signed after it, by more than ``SKEW``, are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from tuf.api.metadata import Signed

from hedgerow.registry.trust_names import ISSUED

# Between the clock of whoever signs and a device's that is synchronised; a day also covers a time zone taken for UTC.
SKEW: Final = timedelta(days=1)
_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Floor:
    """The newest time that a signature proves, and whose it was: ``timestamp 12``."""

    time: datetime
    proven_by: str


@dataclass(frozen=True)
class TrustedTime:
    """``clock`` is the device's; ``synced`` is whether it is synchronised, None where nobody knows."""

    clock: datetime
    floor: Floor | None = None
    synced: bool | None = None

    @property
    def now(self) -> datetime:
        """The time to hold expiry against; UTC."""
        return self.clock if self.floor is None else max(self.clock, self.floor.time)

    @property
    def behind(self) -> timedelta:
        """How far the clock is behind what is proven; zero for one that may be right."""
        return timedelta() if self.floor is None else max(timedelta(), self.floor.time - self.clock)

    def raised(self, floor: Floor | None) -> TrustedTime:
        """With a floor that may be newer."""
        newest = max(
            (each for each in (self.floor, floor) if each is not None), key=lambda each: each.time, default=None
        )
        return TrustedTime(self.clock, newest, self.synced)

    def is_ahead(self, issued: Floor) -> bool:
        """Whether a synchronised clock contradicts that this was signed when it says."""
        return self.synced is True and issued.time > self.clock + SKEW


def issued(role: str, signed: Signed) -> Floor | None:
    """When ``signed`` was signed by its own word; None where it does not say, or not in the one form that counts."""
    text = signed.unrecognized_fields.get(ISSUED)
    if not isinstance(text, str):
        return None
    try:
        time = datetime.strptime(text, _FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None
    return Floor(time, f"{role} {signed.version}")


def newest(signed: Iterable[tuple[str, Signed]]) -> Floor | None:
    """The floor that verified metadata prove together: (role, metadata) each."""
    floors = (issued(role, each) for role, each in signed)
    return max((each for each in floors if each is not None), key=lambda each: each.time, default=None)
