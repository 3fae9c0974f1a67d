"""An issuing CA: signs machines of its site, or of the whole fleet, and is itself signed by the root.

On the controller it lives in ``ca/issuing/<name>-<key id>/`` below its generation; ``ca/issuing/<name>`` is a link to
the one in use. ``<name>`` is a site, or ``fleet``. On a gateway it is a folder of its own. Its files:

- ``ca.crt``: its certificate. ``ca.key`` or ``key.yml``: its key (``authority.keys``); neither where that is elsewhere.
- ``anchors.crt``: the roots, on a gateway alone; the controller has them in ``ca/ca.crt``.
- ``ca.crl``: its list of revoked certificates.

What it issued and who is revoked stands in ``state``: on the controller the fleet's ``ca``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity import certificates
from hedgerow.identity.authority import build, keys
from hedgerow.identity.authority.leaf import LeafIssuer, read_first
from hedgerow.identity.profiles import DEVICE_PROFILES, Profile
from hedgerow.passphrases import Passphrases

FOLDER: Final = "issuing"
FLEET: Final = "fleet"
CERTIFICATE: Final = "ca.crt"
ANCHORS: Final = "anchors.crt"


class IssuingCA(LeafIssuer):
    """An opened issuing CA; make one with ``IssuingCA.open``."""

    def __init__(
        self,
        home: Path,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        *,
        state: Path,
        anchors: Path,
    ) -> None:
        super().__init__(state, certificate, key)
        self.home = home
        self.site = build.site_of(certificate)
        self._anchors = anchors

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        state: Path | None = None,
        anchors: Path | None = None,
        passphrases: Passphrases | None = None,
    ) -> IssuingCA:
        """Open the issuing CA in ``home``.

        Log and ledger are in ``state`` (default ``home``), which may be another folder than that of a service's
        credentials; ``anchors`` is a file of roots (default ``home/anchors.crt``).

        Raises:
            UsageError: a file is missing or damaged, or the passphrase is missing or wrong.
            RefusedError: key and certificate do not belong together, or others can read the key.
        """
        certificate = read_first(home / CERTIFICATE)
        if certificate is None:
            raise UsageError(
                "there is no issuing CA here",
                where=str(home / CERTIFICATE),
                next_step="hedgerow ca issuing add SITE, or sign its request: hedgerow ca issuing sign REQUEST",
            )
        key = keys.load(home, name_of(certificate), passphrases or Passphrases())
        keys.require_pair(key, certificates.certificate_public_der(certificate), home)
        return cls(home, certificate, key, state=state or home, anchors=anchors or home / ANCHORS)

    @property
    def name(self) -> str:
        """Its site, or ``fleet``."""
        return self.site or FLEET

    @property
    def anchors(self) -> str:
        return self._anchors.read_text(encoding="ascii")

    def chain(self, certificate: x509.Certificate) -> str:
        return certificates.pem(certificate) + certificates.pem(self.certificate)

    def require_own(self, profile: Profile, site: str | None) -> None:
        if self.site is not None and (profile not in DEVICE_PROFILES or site != self.site):
            raise RefusedError(
                f"the CA of site {self.site} certifies machines of its own site alone, "
                f"not a {profile.value}{'' if site is None else f' of {site}'}",
                where=str(self.home),
                next_step="use the fleet's issuing CA: hedgerow ca issuing add fleet",
            )


def name_of(certificate: x509.Certificate) -> str:
    """What an issuing CA is called in paths and passphrases: its site, or ``fleet``."""
    return build.site_of(certificate) or FLEET
