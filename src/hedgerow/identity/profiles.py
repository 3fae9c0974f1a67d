"""Certificate profiles: what a certificate is called and what its holder may do.

Both sides read this one table (docs/contracts.md, "Certificate profiles"): the CA
to issue, every server to decide. Pure and standard library only.

- The profile stands in the subject's OU, once. A subject with two OUs or two CNs has no profile.
- A certificate says its profile a second time as the URI ``hedgerow://<fleet>/profile/<profile>``:
  servers of Go's exporter-toolkit can filter by subject alternative name, not by OU.
- Names are letters, digits, ``-`` and ``_``: OpenSSL takes a dotted CN for a DNS name and holds it
  against the fleet's name constraints, and nothing needs escaping in a distinguished name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hedgerow.errors import UsageError

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_CLIENT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})")
_SERIAL = re.compile(r"[0-9a-f]{16}")

MAXIMUM_DAYS = 90

# The OU of an issuing CA's subject (two tiers). A site's may name machines of its own site alone: X.509's constraints
# hold it to the site's names, and ``peer`` to machines, which constraints cannot say.
FLEET_CA = "fleet-ca"
SITE_CA = "site-ca"


class Profile(StrEnum):
    """What a certificate is for."""

    DEVICE = "device"
    GATEWAY = "gateway"
    MONITOR = "monitor"
    CLIENT = "client"
    OPERATOR = "operator"
    PUBLISHER = "publisher"


class Right(StrEnum):
    """What a server is asked to allow."""

    READ_REGISTRY = "read the registry"
    OBSERVE = "read metrics and health"
    INFER = "infer and chat"
    CONTROL = "load, unload, drain and confirm"
    PUBLISH = "write to the registry"


@dataclass(frozen=True)
class Rule:
    """One row of the table. ``server``: also a server certificate. ``days``: its life unless asked otherwise."""

    rights: frozenset[Right]
    server: bool
    days: int


RULES: Mapping[Profile, Rule] = {
    Profile.DEVICE: Rule(frozenset({Right.READ_REGISTRY}), server=True, days=30),
    Profile.GATEWAY: Rule(frozenset({Right.OBSERVE}), server=True, days=30),
    Profile.MONITOR: Rule(frozenset({Right.OBSERVE}), server=False, days=14),
    Profile.CLIENT: Rule(frozenset({Right.INFER}), server=False, days=14),
    Profile.OPERATOR: Rule(
        frozenset({Right.READ_REGISTRY, Right.OBSERVE, Right.INFER, Right.CONTROL}), server=False, days=7
    ),
    Profile.PUBLISHER: Rule(frozenset({Right.PUBLISH}), server=False, days=7),
}

DEVICE_PROFILES = frozenset(profile for profile, rule in RULES.items() if rule.server)
CLIENT_PROFILES = tuple(profile for profile in Profile if profile not in DEVICE_PROFILES)


@dataclass(frozen=True)
class DeviceNames:
    """What a device or gateway is called; every certificate name follows from these four.

    Raises:
        UsageError: a part is no DNS label, or the serial is not 16 lower-case hex digits.
    """

    fleet: str
    site: str
    host: str
    serial: str

    def __post_init__(self) -> None:
        for key in ("fleet", "site", "host"):
            check_label(key, getattr(self, key))
        if _SERIAL.fullmatch(self.serial) is None:
            raise UsageError(
                f"pi_serial of {self.host} must be 16 lower-case hex digits in quotes, not {self.serial!r}",
                where="inventory",
                next_step="read it on the device: tr -d '\\0' </proc/device-tree/serial-number",
            )

    @property
    def dns(self) -> str:
        """The name that TLS clients verify; they send it as SNI, whatever address they connect to."""
        return f"{self.host}.{self.site}.{self.fleet}"

    @property
    def uri(self) -> str:
        return f"hedgerow://{self.fleet}/device/{self.serial}"


def check_label(key: str, value: str) -> None:
    """Raise UsageError unless ``value`` can be one label of a DNS name."""
    if _LABEL.fullmatch(value) is None:
        raise UsageError(
            f"{key} {value!r} cannot be part of a DNS name: lower-case letters, digits and inner hyphens, at most 63",
            where="inventory",
            next_step=f"rename {key}",
        )


def check_client_name(name: str) -> None:
    """Raise UsageError unless ``name`` can be the CN of a client certificate and a file name."""
    if _CLIENT_NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} cannot name a client: letters, digits, - and _, at most 63, no dots",
            where="--name",
            next_step="use for example jane-doe",
        )


def profile_uri(fleet: str, profile: Profile) -> str:
    """The profile as a subject alternative name."""
    return f"hedgerow://{fleet}/profile/{profile.value}"


@dataclass(frozen=True)
class Peer:
    """Who is on the other end of a verified connection. ``site`` is None for a client."""

    fleet: str
    profile: Profile
    name: str
    site: str | None = None

    def may(self, right: Right, *, site: str) -> bool:
        """Whether the peer has ``right`` on a server of ``site``; a gateway's ends at its own site."""
        if self.profile is Profile.GATEWAY and self.site != site:
            return False
        return right in RULES[self.profile].rights


def peer(certificate: Mapping[str, Any] | None) -> Peer | None:
    """Read ``ssl.SSLSocket.getpeercert()`` of a connection whose chain OpenSSL has verified.

    Returns None for anything that is no certificate of a fleet: no or several profiles, an unknown one, or one that
    its issuer may not certify.
    """
    if not certificate:
        return None
    fleets, units, names = _parts(certificate.get("subject", ()))
    if not (len(fleets) == len(units) == len(names) == 1) or units[0] not in set(Profile):
        return None
    profile = Profile(units[0])
    site = None
    if profile in DEVICE_PROFILES:
        dns = [value.split(".") for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
        if len(dns) != 1 or len(dns[0]) != 3 or dns[0][2] != fleets[0]:  # noqa: PLR2004 - host.site.fleet
            return None
        site = dns[0][1]
    _, issuer_units, issuer_names = _parts(certificate.get("issuer", ()))
    if SITE_CA in issuer_units and (profile not in DEVICE_PROFILES or issuer_names != [site]):
        return None
    return Peer(fleet=fleets[0], profile=profile, name=names[0], site=site)


def _parts(name: Any) -> tuple[list[str], list[str], list[str]]:
    """All of O, OU and CN in a distinguished name as ``getpeercert`` has it."""
    found: dict[str, list[str]] = {}
    for relative_name in name:
        for key, value in relative_name:
            found.setdefault(key, []).append(value)
    return (
        found.get("organizationName", []),
        found.get("organizationalUnitName", []),
        found.get("commonName", []),
    )
