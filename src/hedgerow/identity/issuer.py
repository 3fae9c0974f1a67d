"""What signs certificates for machines, whoever it is: the fleet's own CA, a site's, or an authority elsewhere.

Invariants of every issuer:

- Names and profile come from the caller, who computed them from the inventory. A request proves possession of a key
  and says a serial; nothing else in it is copied.
- A certificate is in the issuance log, on disk, before it is returned.
- Who stands in the ledger of revocations gets none.

docs/identity.md, "Another CA", says how one is plugged in.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509

from hedgerow.errors import HedgerowError
from hedgerow.identity import revocations
from hedgerow.identity.profiles import DeviceNames, Profile


@dataclass(frozen=True)
class Request:
    """A machine's request (PEM), and what the inventory says of it. ``days`` None is the profile's default."""

    csr_pem: str
    profile: Profile
    names: DeviceNames
    days: int | None = None
    reason: str = "requested"


class Issuer(Protocol):
    """Signs requests of machines.

    ``certificate`` is the CA's that signs now: what a present certificate is held against. ``anchors`` (PEM) are the
    roots that a machine is to trust, several during a rotation.
    """

    @property
    def fleet(self) -> str: ...

    @property
    def certificate(self) -> x509.Certificate: ...

    @property
    def anchors(self) -> str: ...

    def sign_csr(
        self,
        csr_pem: str,
        profile: Profile,
        names: DeviceNames,
        *,
        days: int | None = None,
        reason: str = "requested",
        now: dt.datetime | None = None,
    ) -> str:
        """Return the certificate and what chains it to a root, the root left out (PEM, the machine's own first).

        Raises:
            HedgerowError: it is refused, or the issuer cannot; nothing was handed out.
        """
        ...

    def sign_many(self, requests: Sequence[Request], *, now: dt.datetime | None = None) -> list[str | HedgerowError]:
        """Sign what a wave asks at once; each request has its own answer, in order.

        Raises:
            HedgerowError: none could be signed.
        """
        ...

    def require_admitted(self, kind: revocations.Kind, holder: str) -> None:
        """Raise RefusedError if ``holder`` was revoked."""
        ...

    def revoked_certificates(self) -> frozenset[str]:
        """Serial numbers (hex) of every certificate that was revoked."""
        ...
