"""The controller's own client certificates, one for each profile that its commands need.

Short-lived by profile, so they are renewed here when less than a day is left, another CA signs now, or they begin in
the future: a controller whose clock was ahead has made them. Until then the
CA's key is not opened (it may be encrypted, or on another machine).
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from hedgerow import paths
from hedgerow.fleet.endpoint import Endpoint
from hedgerow.identity import certificates
from hedgerow.identity.authority import opening
from hedgerow.identity.profiles import Profile
from hedgerow.identity.tls import client_context, server_name
from hedgerow.registry.source import TlsFiles

RENEW_WITH_LEFT = timedelta(days=1)
"""Longer than any rollout's wave, shorter than any profile's life."""


def context(fleet: str, profile: Profile, *, now: datetime | None = None) -> ssl.SSLContext:
    """A TLS context that presents this controller's certificate of ``profile``.

    Raises:
        UsageError: The fleet has no CA yet, or its key is needed and cannot be opened.
    """
    folder, name = _present(fleet, profile, now)
    return client_context(folder, name)


def files(fleet: str, profile: Profile, *, now: datetime | None = None) -> TlsFiles:
    """The same as files, for a registry's source.

    Raises:
        UsageError: as ``context``.
    """
    folder, name = _present(fleet, profile, now)
    clients = folder / "ca" / "clients"
    return TlsFiles(clients / f"{name}.crt", clients / f"{name}.key", folder / "ca" / "ca.crt")


def endpoint(host: str, address: str, *, site: str, fleet: str) -> Endpoint:
    """Where the server of an inventory host is, and the name that its certificate must bear."""
    return Endpoint(host, address, server_name(host, site, fleet))


def _present(fleet: str, profile: Profile, now: datetime | None) -> tuple[Path, str]:
    """The fleet's folder and the certificate's name; renewed where it is due."""
    folder = paths.fleet_dir(fleet)
    name = f"controller-{profile.value}"
    if _due(folder, name, now or datetime.now(UTC)):
        opening.for_clients(folder).issue_client(profile, name, now=now)
    return folder, name


def _due(folder: Path, name: str, now: datetime) -> bool:
    """Whether it is missing, not good yet, about to end, or signed by a CA that another one has taken the place of."""
    try:
        present = x509.load_pem_x509_certificate((folder / "ca" / "clients" / f"{name}.crt").read_bytes())
    except (FileNotFoundError, ValueError):
        return True
    if now < present.not_valid_before_utc or present.not_valid_after_utc - now < RENEW_WITH_LEFT:
        return True
    signer = opening.signs_clients(folder)
    return signer is not None and not certificates.issued_by(present, signer)
