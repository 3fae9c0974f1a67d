"""The revocation lists that a gateway serves: what the controller placed, and the newest of its own issuing CA."""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from hedgerow.errors import HedgerowError
from hedgerow.identity import certificates
from hedgerow.identity.authority import crl, lists

if TYPE_CHECKING:
    from hedgerow.identity.authority.issuing import IssuingCA

log = logging.getLogger("hedgerow.renewal")
LOOK_S: Final = 10.0
"""Seconds between two looks: by then the ledger of revocations that the controller copies here is a signed list."""


class Bundle(NamedTuple):
    """What is served, and its name for caches."""

    text: str
    etag: str


class ServedLists:
    """``placed`` is the bundle that the controller puts on every host; it may be missing."""

    def __init__(self, ca: IssuingCA, placed: Path) -> None:
        self._ca = ca
        self._placed = placed
        self._told: str | None = None
        self.bundle = Bundle("", "")

    def refresh(self, now: datetime | None = None) -> None:
        """Sign the own list anew where it has to be, and put both together; what was served stays where that fails."""
        try:
            own = lists.refresh_own(self._ca, now=now)
            text = crl.bundle([(self._ca.certificate, own)])
            if self._placed.exists():
                text = crl.merge(self._placed.read_text(encoding="ascii"), text)
        except (HedgerowError, OSError, ValueError) as error:
            if str(error) != self._told:
                log.error("the revocation lists stay as they were: %s", error)  # noqa: TRY400 - it is complete
            self._told = str(error)
            return
        self._told = None
        if text != self.bundle.text:
            self.bundle = Bundle(text, f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"')

    @property
    def issuer_ends(self) -> datetime:
        """When the issuing CA's certificate ends."""
        return self._ca.certificate.not_valid_after_utc

    @property
    def issuer(self) -> str:
        """SHA-256 of the issuing CA's certificate."""
        return certificates.fingerprint(self._ca.certificate)
