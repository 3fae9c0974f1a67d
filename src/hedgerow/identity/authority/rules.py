"""What every issuer asks of a machine's request, whoever signs. No files, and nothing is looked up."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow.errors import RefusedError
from hedgerow.identity import csr
from hedgerow.identity.issuer import Request
from hedgerow.identity.profiles import DEVICE_PROFILES, MAXIMUM_DAYS, RULES, Profile


def admissible(request: Request, fleet: str, folder: Path) -> ec.EllipticCurvePublicKey:
    """The key that a machine's request is for, if any CA of ``fleet`` may certify it.

    Raises:
        RefusedError: it is not for this machine, or not of this fleet.
        UsageError: it is no request.
    """
    names = request.names
    if request.profile not in DEVICE_PROFILES:
        raise RefusedError(
            f"profile {request.profile.value} is not for devices; its keys are made on the controller",
            where=f"request of {names.host}",
            next_step=f"hedgerow ca issue --profile {request.profile.value} --name NAME",
        )
    if names.fleet != fleet:
        raise RefusedError(
            f"{names.host} is of fleet {names.fleet}, this CA is of fleet {fleet}",
            where=str(folder),
            next_step="name the inventory of that fleet: -i",
        )
    parsed = csr.parse_csr(request.csr_pem, where=f"request of {names.host}")
    asked = csr.request_serial(parsed)
    if asked != names.serial:
        raise RefusedError(
            f"the request is for serial {asked!r}, the inventory says {names.serial} for {names.host}",
            where="rule: a certificate is issued to the serial that the inventory holds",
            next_step="correct pi_serial in the inventory if the board was exchanged",
        )
    return csr.public_key(parsed)


def life_of(profile: Profile, days: int | None) -> dt.timedelta:
    """How long a certificate of ``profile`` lives; RefusedError for more than 90 days, or none."""
    if days is None:
        days = RULES[profile].days
    if not 1 <= days <= MAXIMUM_DAYS:
        raise RefusedError(
            f"a certificate lives 1 to {MAXIMUM_DAYS} days, not {days}",
            where=f"profile {profile.value}",
            next_step=f"leave days out for the default ({RULES[profile].days})",
        )
    return dt.timedelta(days=days)
