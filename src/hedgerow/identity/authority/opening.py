"""The issuer that a site, or the fleet's people and programs, have now: one tier or two, rotated or not."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity.authority import build, est, generations, issuing, keys
from hedgerow.identity.authority.admission import Admission, utc_now
from hedgerow.identity.authority.est import EstIssuer
from hedgerow.identity.authority.issuing import IssuingCA
from hedgerow.identity.authority.leaf import read_first
from hedgerow.identity.ca import FleetCA
from hedgerow.passphrases import Passphrases

Authority = FleetCA | IssuingCA
"""What has its key here: it signs machines, people and programs."""


def for_site(fleet_dir: Path, site: str, passphrases: Passphrases | None = None) -> Authority | EstIssuer:
    """What certifies machines of ``site``: its own issuing CA if its key is here, else the fleet's, else the one tier.

    Where ``ca/est.yml`` names an authority elsewhere, that one does.

    Raises:
        UsageError: there is none whose key is here, or the passphrase is missing or wrong.
        RefusedError: the site's CA was revoked, others can read the key, it does not belong to the certificate, or the
            clock here is behind the CA's beginning.
    """
    if (fleet_dir / "ca" / est.FILE).exists():
        return est.EstIssuer.open(fleet_dir / "ca")
    return _open(fleet_dir, (site, issuing.FLEET), passphrases)


def for_clients(fleet_dir: Path, passphrases: Passphrases | None = None) -> Authority:
    """What certifies people and programs: the fleet's issuing CA, or the one tier. Raises as ``for_site``."""
    return _open(fleet_dir, (issuing.FLEET,), passphrases)


def signs_clients(fleet_dir: Path) -> x509.Certificate | None:
    """The certificate of what ``for_clients`` opens; no key is opened. None where an authority elsewhere signs.

    Raises:
        UsageError: there is no CA.
    """
    folder = fleet_dir / "ca"
    if (folder / est.FILE).exists():
        return None
    number = generations.active(folder).number
    found = generations.certificate(folder, number)
    below = read_first(generations.home(folder, number) / issuing.FOLDER / issuing.FLEET / issuing.CERTIFICATE)
    return below if below is not None and build.is_root(found) else found


def at_gateway(fleet_dir: Path, site: str) -> x509.Certificate | None:
    """The CA of ``site`` whose key is on its gateway: what that certified is as good as what is signed here.

    None where there is none, where it was revoked, or where another root signs by now.

    Raises:
        UsageError: there is no CA.
    """
    folder = fleet_dir / "ca"
    if (folder / est.FILE).exists():
        return None
    number = generations.active(folder).number
    if not generations.two_tier(folder, number):
        return None
    link = generations.home(folder, number) / issuing.FOLDER / site
    certificate = read_first(link / issuing.CERTIFICATE)
    if certificate is None or keys.is_here(link):
        return None
    gone = Admission(folder).revoked_certificates()
    return None if f"{certificate.serial_number:x}" in gone else certificate


def admission(fleet_dir: Path) -> Admission:
    """The ledger of a fleet that has a CA; no key is opened, so it may be away.

    Raises:
        UsageError: there is no CA.
    """
    folder = fleet_dir / "ca"
    generations.certificate(folder, generations.active(folder).number)
    return Admission(folder)


def _open(fleet_dir: Path, names: tuple[str, ...], passphrases: Passphrases | None) -> Authority:
    found = _find(fleet_dir, names, passphrases)
    now, begin = utc_now(), found.certificate.not_valid_before_utc
    if now < begin:
        raise RefusedError(
            f"the clock here says {now:%Y-%m-%d %H:%M} UTC, before this CA began ({begin:%Y-%m-%d %H:%M}); "
            "what it signs would be of another time",
            where=str(fleet_dir / "ca"),
            next_step="set the clock right: timedatectl timesync-status",
        )
    return found


def _find(fleet_dir: Path, names: tuple[str, ...], passphrases: Passphrases | None) -> Authority:
    folder = fleet_dir / "ca"
    number = generations.active(folder).number
    if not generations.two_tier(folder, number):
        return FleetCA.open(fleet_dir)
    home = generations.home(folder, number)
    for name in dict.fromkeys(names):
        link = home / issuing.FOLDER / name
        certificate = read_first(link / issuing.CERTIFICATE)
        if certificate is None or not keys.is_here(link):
            continue
        Admission(folder).require_admitted("authority", build.authority_key(certificate))
        return IssuingCA.open(
            link.resolve(),
            state=folder,
            anchors=folder / generations.CERTIFICATE,
            passphrases=passphrases or keys.from_environment(),
        )
    raise UsageError(
        f"no issuing CA whose key is on this machine certifies {names[0]}",
        where=str(home / issuing.FOLDER),
        next_step=f"hedgerow ca issuing add {issuing.FLEET}, or renew at the site's gateway",
    )
