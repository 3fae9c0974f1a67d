"""What a host may reach: from the inventory and from what the host itself is configured to use.

- The registry, the host's package archives (and the proxy to them), its time servers, a gateway's Pis, and what the
  operator lists. Nothing is guessed: a destination without a name or an address of its own is refused.
- A destination is an address, a network or a name. Addresses stand in the ruleset; names go into sets, which the
  device fills from its own resolver's answers (``hedgerow.device.egress``), again and again.
- Time is never cut off: time servers behind a rotating pool answer under other addresses each time, so without named
  servers UDP 123 is open to any address. A wrong clock makes every certificate of the fleet invalid.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from hedgerow.errors import UsageError

_PORTS = {"http": 80, "https": 443}
PROTOCOLS = ("tcp", "udp")
_LAST_PORT = 65535
RENEWAL = 8445
"""Where gateways renew certificates (docs/contracts.md)."""


@dataclass(frozen=True, slots=True)
class Allow:
    """Who or what may talk on ``ports``: ``peers`` are addresses, networks and names; none at all means anybody."""

    id: str
    why: str
    peers: tuple[str, ...]
    ports: tuple[int, ...]
    protocol: str = "tcp"


def outbound(
    *,
    registry_url: str,
    apt_sources: Iterable[Mapping[str, Any]],
    apt_proxies: Iterable[str],
    ntp_servers: Sequence[str],
    scraped: Sequence[str],
    renewal: str | None = None,
    listed: Iterable[Mapping[str, Any]],
) -> list[Allow]:
    """The allowlist. ``scraped`` are the Pis of a gateway's site; ``listed`` is the operator's own list.

    ``renewal`` is the URL where a Pi renews its certificate; None: it does not.

    Raises:
        UsageError: an entry of ``listed`` is no destination.
    """
    found = [_url("registry", "bundles and their signatures (registry_url)", registry_url)]
    found += _archives([uri for source in apt_sources for uri in source["uris"]], "packages (apt's own sources)")
    found += _archives(list(apt_proxies), "packages, through the proxy that apt is told of", prefix="apt-proxy")
    if ntp_servers:
        found.append(Allow("time", "time (base_ntp_servers)", tuple(ntp_servers), (123,), "udp"))
    else:
        found.append(
            Allow("time", "time, from anybody: pools answer under other addresses each time", (), (123,), "udp")
        )
    if scraped:
        found.append(Allow("scrape", "metrics and health of this site's Pis", tuple(scraped), (8443, 9100, 9101)))
    if renewal is not None:
        found.append(_url("renewal", "its own certificate (device_identity_renewal)", renewal, port=RENEWAL))
    return found + [listed_rule(entry, "hardening_egress", "to") for entry in listed]


def listed_rule(entry: Mapping[str, Any], where: str, peers: str) -> Allow:
    """One entry of an operator's list, ``{id, to|from, ports, protocol, reason}``.

    Raises:
        UsageError: it says not enough, or something else than it should.
    """
    name = str(entry.get("id") or entry.get(peers) or entry)
    needed = {"id", peers, "ports", "reason"}
    unknown = sorted(set(entry) - needed - {"protocol"})
    missing = sorted(key for key in needed if not entry.get(key))
    if missing or unknown:
        raise UsageError(
            f"an entry has {'no ' + ', '.join(missing) if missing else 'an unknown ' + ', '.join(unknown)}",
            where=f"{where}: {name}",
            next_step=f"write - {{ id: NAME, {peers}: [ADDRESS, NETWORK or NAME], ports: [443], reason: WHY }}",
        )
    ports = tuple(entry["ports"])
    if not all(isinstance(port, int) and 0 < port <= _LAST_PORT for port in ports):
        raise UsageError(f"{list(ports)} are no ports", where=f"{where}: {name}", next_step="write ports: [443]")
    protocol = str(entry.get("protocol", "tcp"))
    if protocol not in PROTOCOLS:
        raise UsageError(
            f"{protocol!r} is no protocol with ports", where=f"{where}: {name}", next_step="write tcp or udp"
        )
    given = entry[peers]
    return Allow(
        str(entry["id"]), str(entry["reason"]), tuple([given] if isinstance(given, str) else given), ports, protocol
    )


def is_name(peer: str) -> bool:
    """Whether ``peer`` has to be resolved: it is neither an address nor a network."""
    try:
        ipaddress.ip_network(peer, strict=False)
    except ValueError:
        return True
    return False


def _archives(uris: list[str], why: str, *, prefix: str = "apt") -> list[Allow]:
    """A rule for each port that archives use; a ``file:`` or ``cdrom:`` source needs none."""
    by_port: dict[int, dict[str, None]] = {}
    for uri in uris:
        parts = urlsplit(uri.removeprefix("mirror+"))  # the list of mirrors; these themselves are to be listed
        if parts.scheme in _PORTS and parts.hostname:
            by_port.setdefault(parts.port or _PORTS[parts.scheme], {})[parts.hostname] = None
    return [Allow(f"{prefix}-{port}", why, tuple(hosts), (port,)) for port, hosts in sorted(by_port.items())]


def _url(name: str, why: str, url: str, *, port: int | None = None) -> Allow:
    """``port`` is the one that a URL without any means."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise UsageError(f"{url!r} is no URL of a server", where=name, next_step="write https://HOST/")
    return Allow(name, why, (parts.hostname,), (parts.port or port or _PORTS[parts.scheme],))
