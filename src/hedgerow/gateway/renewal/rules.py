"""Who gets a new certificate. Pure: everything that is known comes in, a refusal goes out, and the time is an argument.

- The handshake has proven the key of the certificate that was shown, expired or not; nothing here repeats that.
- A name in the new certificate comes from the controller's list; of the request counts its key, and its serial must
  be the one that the shown certificate has.
- After its end a certificate renews its own key only, and within the grace time only.
- One certificate renews for one key. Asked for a second, two boards hold the first: neither gets another one until the
  controller lets the serial in again (``cleared``). A request that is repeated has the same key and is answered again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from hedgerow.errors import RefusedError

NEW_KEY: Final = "ansible-playbook playbooks/rotate_identity.yml --limit HOST -e device_identity_new_key=true"


class Code(StrEnum):
    """Why a request is refused: a closed set, for metrics and for devices."""

    BAD_REQUEST = "bad_request"
    WRONG_PROFILE = "wrong_profile"
    NOT_LISTED = "not_listed"
    NAMES = "names"
    REVOKED = "revoked"
    NOT_YET = "not_yet_valid"
    EXPIRED = "expired"
    GRACE_KEY = "grace_key"
    ANCHOR = "anchor"
    CLONED = "cloned"
    TOO_OFTEN = "too_often"
    UNAVAILABLE = "unavailable"


STATUS: Final = {
    Code.BAD_REQUEST: 400,
    Code.CLONED: 409,
    Code.TOO_OFTEN: 429,
    Code.UNAVAILABLE: 503,
}


class Refusal(RefusedError):
    """No certificate, and why. ``retry_after_s`` where another try may help."""

    def __init__(self, code: Code, what: str, next_step: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(what, next_step=next_step)
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """HTTP's word for it."""
        return STATUS.get(self.code, 403)


class Cloned(Refusal):
    """Two boards hold what one should; ``asked`` is what showed it."""

    def __init__(self, asked: str) -> None:
        super().__init__(
            Code.CLONED,
            f"two boards seem to hold one identity, so neither gets a certificate: this gateway was asked for {asked}",
            f"find the second board, then: {NEW_KEY}; hedgerow ca settle HOST --reason WHY; converge the gateway",
        )


@dataclass(frozen=True)
class Shown:
    """The certificate that the handshake has proven; ``key_sha256`` of its SubjectPublicKeyInfo (hex)."""

    serial_number: str
    key_sha256: str
    not_before: datetime
    not_after: datetime


def require_time(shown: Shown, *, now: datetime, grace: timedelta) -> bool:
    """Raise Refusal unless ``shown`` may renew now; whether it has ended and is in its grace time."""
    if now < shown.not_before:
        raise Refusal(
            Code.NOT_YET,
            f"the certificate is valid from {shown.not_before:%Y-%m-%d %H:%M} UTC on; here it is {now:%Y-%m-%d %H:%M}",
            "compare the clocks of gateway and controller: timedatectl",
        )
    if now < shown.not_after:
        return False
    if now >= shown.not_after + grace:
        raise Refusal(
            Code.EXPIRED,
            f"the certificate ended {shown.not_after:%Y-%m-%d}, and its {grace.days} days of grace are over",
            "ansible-playbook playbooks/rotate_identity.yml --limit HOST",
        )
    return True


def require_key(shown: Shown, key_sha256: str, *, grace: bool, before: str | None, holder: str | None) -> None:
    """Raise Refusal unless ``shown`` may renew for this key.

    ``before``: the key that it renewed for already; ``holder``: another serial that was certified for the key.

    Raises:
        Cloned: two boards hold what one should.
    """
    if holder is not None:
        raise Cloned(f"the key that was certified for {holder}")
    if before is not None and before != key_sha256:
        raise Cloned("a second key for a certificate that has renewed for another one")
    if grace and key_sha256 != shown.key_sha256:
        raise Refusal(
            Code.GRACE_KEY,
            "a certificate that has ended renews for its own key only",
            "renew with the present key: hedgerow-device identity renew",
        )
