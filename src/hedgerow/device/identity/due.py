"""When a certificate is renewed, and what time it is for a device whose clock may be years off. Pure.

- A third of the life left is when the controller renews (``certificates.reason_to_issue``). A device begins earlier, by
  up to a twelfth of the life, each at a moment of its own that follows from its serial: a site that was enrolled in one
  hour does not come back in one hour.
- The time is the later of the clock and the floor (``registry.client.times``): what the fleet's CA has signed was not
  signed in the future, so the newest ``not_before`` and list of revocations bound the time from below.
- A clock that is ahead is not corrected: nothing here proves a time from above. It is named in every reason.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from hedgerow.registry.client.times import Floor, TrustedTime

_SPREAD = 12  # of the life, as a divisor
_LEFT = 3


@dataclass(frozen=True)
class Due:
    """``reason`` is None as long as it is not; ``at`` is when it will be. ``expired``: grace is what is left."""

    at: datetime
    reason: str | None
    expired: bool


def judge(certificate: x509.Certificate, serial: str, now: datetime) -> Due:
    """Whether ``certificate`` of the board with ``serial`` is due by ``now``."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    life = end - begin
    at = end - life / _LEFT - life / _SPREAD * _share(serial)
    if now >= end:
        return Due(at, f"it expired on {end:%Y-%m-%d %H:%M} UTC", expired=True)
    if now >= at:
        return Due(at, f"{_days(end - now)} of its life are left (until {end:%Y-%m-%d %H:%M} UTC)", expired=False)
    return Due(at, None, expired=False)


def floor(certificate: x509.Certificate | None, lists: list[x509.CertificateRevocationList]) -> Floor | None:
    """The newest time that what the CA signed proves; the caller has verified both."""
    found = [] if certificate is None else [Floor(certificate.not_valid_before_utc, "this device's certificate")]
    found += [Floor(each.last_update_utc, "the list of revoked certificates") for each in lists]
    return max(found, key=lambda each: each.time, default=None)


def verify_at(time: TrustedTime) -> int | None:
    """As of when a peer is verified: None for the clock, or seconds since 1970 where the clock is proven wrong."""
    return int(time.now.timestamp()) if time.behind else None


def doubt(time: TrustedTime) -> str:
    """What is to be said of the clock beside any failure; empty where there is nothing."""
    if time.behind:
        proof = "" if time.floor is None else f" ({time.floor.proven_by})"
        return f"; this device's clock says {time.clock:%Y-%m-%d %H:%M} and is behind what is proven{proof}"
    if time.synced is False:
        return f"; this device's clock says {time.clock:%Y-%m-%d %H:%M} and is not synchronised"
    return ""


def _share(serial: str) -> float:
    return int.from_bytes(hashlib.sha256(serial.encode()).digest()[:4], "big") / 2**32


def _days(span: timedelta) -> str:
    days = span / timedelta(days=1)
    return f"{days:.0f} days" if days >= 2 else f"{span / timedelta(hours=1):.0f} hours"  # noqa: PLR2004 - a plural
