"""The single-tier CA: one key, one certificate, and a log of all it issued. What a small fleet starts with.

Lives in ``var/fleets/<fleet>/ca/`` on the controller (docs/contracts.md); how it signs is
``hedgerow.identity.authority.leaf``. ``ca.key`` is 0600, encrypted if ``HEDGEROW_CA_PASSPHRASE_FILE`` names a
passphrase. Who wants the issuer that a site has now, one tier or two, asks ``hedgerow.identity.authority.opening``.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from cryptography import x509

from hedgerow import atomic
from hedgerow.errors import RefusedError
from hedgerow.identity import certificates, issued, keyfile
from hedgerow.identity.authority import generations, keys
from hedgerow.identity.authority.admission import locked, utc_now
from hedgerow.identity.authority.leaf import ClientFiles, LeafIssuer, fleet_of, profile_of
from hedgerow.identity.authority.root import SINGLE
from hedgerow.identity.csr import parse_csr, request_serial
from hedgerow.identity.profiles import check_label

__all__ = ["ClientFiles", "FleetCA", "fleet_of", "parse_csr", "profile_of", "read_certificate", "request_serial"]


class FleetCA(LeafIssuer):
    """An opened CA; make one with ``FleetCA.open`` or ``FleetCA.init``."""

    @classmethod
    def init(cls, fleet_dir: Path, fleet: str, *, now: dt.datetime | None = None) -> tuple[FleetCA, bool]:
        """Make the CA of ``fleet`` unless there is one; return it and whether it was made."""
        check_label("fleet", fleet)
        folder = fleet_dir / "ca"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        with locked(folder):
            # Key first, certificate last: a key alone is what an interrupted init leaves, and nothing trusts it yet.
            if (folder / "ca.crt").exists():
                return cls.open(fleet_dir), False
            _require_nothing_issued(folder)
            key = certificates.new_key()
            certificate = certificates.build_ca(key, fleet, now=now or utc_now())
            atomic.write_bytes(folder / "ca.key", keyfile.encode(key, keyfile.passphrase()), mode=0o600)
            atomic.write_text(folder / "ca.crt", certificates.pem(certificate))
        return cls(folder, certificate, key), True

    @classmethod
    def open(cls, fleet_dir: Path) -> FleetCA:
        """Read the CA of a fleet: the active generation's, where it was rotated.

        Raises:
            UsageError: there is none, or the passphrase is missing or wrong.
            RefusedError: others can read the key, key and certificate do not belong together, or the fleet has two
                tiers.
        """
        folder = fleet_dir / "ca"
        number = generations.active(folder).number
        certificate = generations.certificate(folder, number)
        if generations.two_tier(folder, number):
            raise RefusedError(
                "this fleet's CA has two tiers: its root signs issuing CAs alone",
                where=str(generations.certificate_path(folder, number)),
                next_step="hedgerow ca issuing add fleet, and see docs/identity.md",
            )
        home = generations.home(folder, number)
        if (home / keys.REFERENCE).exists():
            key = keys.load(home, SINGLE, keys.from_environment())
        else:
            key = keyfile.load(home / keys.KEY)
        keys.require_pair(key, certificates.certificate_public_der(certificate), home)
        return cls(folder, certificate, key)

    @property
    def anchors(self) -> str:
        return (self.folder / generations.CERTIFICATE).read_text(encoding="ascii")

    def chain(self, certificate: x509.Certificate) -> str:
        return certificates.pem(certificate)


def read_certificate(fleet_dir: Path) -> x509.Certificate:
    """The active CA's certificate (the root's, where there are two tiers), without its key."""
    folder = fleet_dir / "ca"
    return generations.certificate(folder, generations.active(folder).number)


def _require_nothing_issued(folder: Path) -> None:
    """Raise RefusedError where a CA's log says that it issued certificates."""
    if (folder / issued.FILE).exists():
        raise RefusedError(
            "this CA has issued certificates, but its own certificate is gone",
            where=str(folder / "ca.crt"),
            next_step=f"restore {folder} from your backup; a new CA would lock every device out",
        )
