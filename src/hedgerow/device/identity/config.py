"""What ``identity:`` of ``/etc/hedgerow/device.yml`` may say; all of it has a default."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct

DIRECTORY = Path("/var/lib/hedgerow/identity")
# World-readable: servers run as users of their own and look at it while they run.
REVOCATION = Path("/var/lib/hedgerow/revocation/crl.pem")
PORT = 8445  # docs/contracts.md


class Service(Struct, frozen=True, forbid_unknown_fields=True):
    """Who reads the certificate when it starts, and how it takes a new one; one that does not run is left alone."""

    unit: str
    state: Literal["reloaded", "restarted"] = "restarted"


# As role device_identity has it.
SERVICES = (
    Service("nginx.service", "reloaded"),
    Service("prometheus-node-exporter.service"),
    Service("hedgerow-exporter.service"),
    Service("hedgerow-server.service", "reloaded"),
    Service("hedgerow-renewal.service"),
)


class IdentityConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How this device renews.

    ``renewal_url`` and ``renewal_name`` are the gateway's renewal service and the name that its certificate must have;
    None takes host and name of the registry. ``key`` is where the key is (None: where it is now). ``new_key`` makes
    another key at every renewal. ``crl`` is where the list of what was revoked goes, None fetches none;
    ``crl_services`` have to be told of a new one.
    """

    directory: Path = DIRECTORY
    renewal_url: str | None = None
    renewal_name: str | None = None
    key: Literal["file", "tpm", "otp"] | None = None
    new_key: bool = False
    crl: Path | None = REVOCATION
    services: tuple[Service, ...] = SERVICES
    crl_services: tuple[Service, ...] = ()
