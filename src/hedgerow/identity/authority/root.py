"""The root of two tiers: opened to sign an issuing CA or its list, and otherwise offline."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow import atomic
from hedgerow.errors import RefusedError
from hedgerow.identity import certificates, issued
from hedgerow.identity.authority import build, generations, keys
from hedgerow.identity.authority.admission import Admission, locked, utc_now
from hedgerow.identity.authority.leaf import entry_of, fleet_of
from hedgerow.passphrases import Passphrases

NAME = "root"
SINGLE = "ca"
"""What passphrases call the keys of a root and of a single-tier CA."""


@dataclass(frozen=True)
class KeyPlace:
    """Where a new key is to be: None is an encrypted file beside the certificate (``authority.keys``)."""

    uri: str | None = None
    pkcs11_module: str | None = None


HERE = KeyPlace()


@dataclass(frozen=True)
class RootCA:
    """An opened root. ``folder`` is the fleet's ``ca``, ``home`` where this root's generation lives."""

    folder: Path
    home: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def init(
        cls,
        fleet_dir: Path,
        fleet: str,
        passphrases: Passphrases,
        *,
        place: KeyPlace = HERE,
        days: int | None = None,
        now: dt.datetime | None = None,
    ) -> tuple[RootCA | None, bool]:
        """Make the root of a fleet that has no CA yet; (None, False) if there is one, whose key stays where it is.

        Raises:
            RefusedError: the fleet has a single-tier CA, or has issued certificates and lost its CA.
            UsageError: the passphrase is too short, or the key's place is none.
        """
        folder = fleet_dir / "ca"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        with locked(folder):
            if (folder / generations.CERTIFICATE).exists():
                if not generations.two_tier(folder, generations.active(folder).number):
                    raise RefusedError(
                        f"fleet {fleet} has a CA of a single tier",
                        where=str(folder),
                        next_step="move to two tiers without cutting anybody off: hedgerow ca rotate begin --two-tier",
                    )
                return None, False
            if (folder / issued.FILE).exists():
                raise RefusedError(
                    "this CA has issued certificates, but its own certificate is gone",
                    where=str(folder / generations.CERTIFICATE),
                    next_step=f"restore {folder} from your backup; a new CA would lock every device out",
                )
            made = found(folder, folder, fleet, passphrases, place=place, days=days, now=now or utc_now())
            atomic.write_text(folder / generations.CERTIFICATE, certificates.pem(made.certificate))
        return made, True

    @classmethod
    def open(cls, fleet_dir: Path, passphrases: Passphrases, *, number: int | None = None) -> RootCA:
        """Open the root of a generation (None: the active one).

        Raises:
            UsageError: the key is not here, or the passphrase is wrong.
            RefusedError: the generation has a single tier, or key and certificate do not belong together.
        """
        folder = fleet_dir / "ca"
        number = generations.active(folder).number if number is None else number
        certificate = generations.certificate(folder, number)
        if not build.is_root(certificate):
            raise RefusedError(
                "this CA has a single tier: it signs certificates of machines, and no CA below it",
                where=str(generations.certificate_path(folder, number)),
                next_step="hedgerow ca rotate begin --two-tier",
            )
        home = generations.home(folder, number)
        key = keys.load(home, NAME, passphrases)
        keys.require_pair(key, certificates.certificate_public_der(certificate), home)
        return cls(folder, home, certificate, key)

    @property
    def fleet(self) -> str:
        return fleet_of(self.certificate)

    def sign_issuing(
        self,
        public: ec.EllipticCurvePublicKey,
        *,
        site: str | None,
        days: int,
        by: str,
        reason: str,
        now: dt.datetime,
    ) -> x509.Certificate:
        """A certificate for an issuing CA's key, logged before it is returned. The caller holds the CA's lock.

        Raises:
            RefusedError: the key was revoked as an issuing CA's, or the certificate would outlive the root.
        """
        Admission(self.folder).require_admitted("authority", build.key_id(public))
        certificate = build.build_issuing(self.certificate, self.key, public, site=site, now=now, days=days)
        entry = entry_of(
            certificate, issued.ISSUING_CA, site or self.fleet, self.certificate, reason=reason, by=by, now=now
        )
        issued.append(self.folder / issued.FILE, [entry])
        return certificate


def found(
    folder: Path,
    home: Path,
    fleet: str,
    passphrases: Passphrases | None,
    *,
    place: KeyPlace = HERE,
    days: int | None = None,
    two_tier: bool = True,
    number: int = 1,
    now: dt.datetime,
) -> RootCA:
    """Make key and certificate of the CA whose generation lives in ``home``; the certificate is not written yet.

    ``two_tier`` False makes a single-tier CA; ``number`` keeps the subjects of a fleet's single-tier CAs apart.
    """
    if not two_tier:
        key = keys.make(home, SINGLE, passphrases, uri=place.uri, module=place.pkcs11_module)
        certificate = certificates.build_ca(key, fleet, now=now, number=number, days=days or certificates.CA_DAYS)
        return RootCA(folder, home, certificate, key)
    key = keys.make(home, NAME, passphrases, uri=place.uri, module=place.pkcs11_module)
    return RootCA(folder, home, build.build_root(key, fleet, now=now, days=days or build.ROOT_DAYS), key)
