"""The firewall of a host as data: who may come in, what may go out, and the sets that names are kept in.

``PORTS`` is docs/contracts.md, "Ports on a device", as the firewall reads it; a test holds both to each other. What
is not listed is dropped. Two things no list can take away, because they are how a mistake is mended: connections that
stand, and SSH from where operators are.

The ruleset's text is the role's template; here is what stands in it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from hedgerow.converge import apt_sources, egress
from hedgerow.converge.egress import Allow
from hedgerow.errors import RefusedError, UsageError

# Port → (what listens, who may).
PORTS: dict[int, tuple[str, tuple[str, ...]]] = {
    22: ("sshd", ("operators",)),
    8443: ("server", ("operators", "gateways", "clients")),
    8444: ("server over grpc", ("operators", "gateways", "clients")),
    9100: ("node_exporter", ("operators", "gateways", "monitors")),
    9101: ("device exporter", ("operators", "gateways", "monitors")),
}
# The exporters and sshd are on every host, the server on Pis, the registry on gateways.
ON_GATEWAYS: dict[int, tuple[str, tuple[str, ...]]] = {
    22: PORTS[22],
    443: ("registry", ("operators", "readers")),
    # Where the gateway renews certificates (role renewal_service); nothing listens there else.
    egress.RENEWAL: ("renewal", ("operators", "gateways", "monitors", "devices")),
    9100: PORTS[9100],
}
CONTAINER_ENGINES = ("podman", "docker.io", "docker-ce", "containerd", "lxc", "incus")


def plan(state: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the ruleset's template and the device's resolver need.

    ``state`` is ``hedgerow_facts.state``. ``asked`` has ``host``, ``peers`` (what ``peers`` returns), ``gateway``,
    ``renewal`` (on a gateway: it renews certificates; on a Pi: where it has its own renewed, None for nowhere),
    ``registry_url``, ``ntp_servers``, ``forwarding``, ``archives`` (the fleet's own; None: nobody says) and the lists
    ``operators``, ``clients``, ``monitors`` (networks), ``inbound`` and ``egress`` (rules).

    Raises:
        UsageError: a list holds something else than it should.
        RefusedError: this controller would be locked out.
    """
    client = state["ssh_client"]
    require_way_back(asked["operators"], client)
    # Nobody said where operators are. Ports other than SSH are then for the one address that is known to be one.
    operators = list(asked["operators"]) or ([client] if client else [])
    who = sources(
        asked["host"],
        asked["peers"],
        operators=operators,
        clients=asked["clients"],
        monitors=asked["monitors"],
    )
    ssh_open = not asked["operators"]
    let_in = inbound(
        who, gateway=asked["gateway"], renews=bool(asked["renewal"]), ssh_open=ssh_open, listed=asked["inbound"]
    )
    let_out = egress.outbound(
        registry_url=asked["registry_url"],
        apt_sources=archives(state["apt_sources"], asked["archives"]),
        apt_proxies=state["apt_proxies"],
        ntp_servers=asked["ntp_servers"],
        scraped=scraped(asked["host"], asked["peers"]) if asked["gateway"] else [],
        renewal=None if asked["gateway"] else asked["renewal"],
        listed=asked["egress"],
    )
    return {
        "inbound": rendered(let_in, "saddr"),
        "outbound": rendered(let_out, "daddr"),
        "sets": name_sets(let_in, "saddr") | name_sets(let_out, "daddr"),
        "forwards": forwards(asked["forwarding"], state["packages"]),
        "operators": operators,
        "ssh_open": ssh_open,
    }


def peers(hostvars: Mapping[str, Any], names: Iterable[str], gateways: Iterable[str]) -> list[dict[str, Any]]:
    """The hosts of ``names`` as the firewall needs them: name, address, site, what they fetch bundles from."""
    gateways = set(gateways)
    return [
        {
            "name": name,
            "address": str(hostvars[name]["ansible_host"]),
            "site": str(hostvars[name]["site"]),
            "registry": urlsplit(str(hostvars[name]["registry_url"])).hostname,
            "gateway": name in gateways,
        }
        for name in names
    ]


def sources(
    host: str,
    found: Iterable[Mapping[str, Any]],
    *,
    operators: Sequence[str],
    clients: Sequence[str],
    monitors: Sequence[str],
) -> dict[str, list[str]]:
    """Who may, by name. ``found`` is what ``peers`` returns, ``host`` among it."""
    everybody = list(found)
    me = next(peer for peer in everybody if peer["name"] == host)
    others = [peer for peer in everybody if peer["name"] != host]
    return {
        "operators": list(operators),
        "clients": list(clients),
        "monitors": list(monitors),
        "gateways": [peer["address"] for peer in others if peer["gateway"] and peer["site"] == me["site"]],
        "readers": [peer["address"] for peer in others if peer["registry"] == me["address"]],
        "devices": [peer["address"] for peer in others if not peer["gateway"] and peer["site"] == me["site"]],
    }


def archives(
    present: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]] | None
) -> list[Mapping[str, Any]]:
    """Package archives of the host: its own, and the fleet's as the inventory has them.

    The host was read before this very run has placed or removed some of the fleet's (role ``os_pinning``).
    """
    if wanted is None:
        return list(present)
    return [source for source in present if not source["file"].startswith(apt_sources.PREFIX)] + list(wanted)


def scraped(host: str, found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Addresses of the Pis that the gateway ``host`` looks after."""
    everybody = list(found)
    me = next(peer for peer in everybody if peer["name"] == host)
    return [peer["address"] for peer in everybody if not peer["gateway"] and peer["site"] == me["site"]]


def inbound(
    who: Mapping[str, Sequence[str]],
    *,
    gateway: bool,
    renews: bool = False,
    ssh_open: bool,
    listed: Iterable[Mapping[str, Any]],
) -> list[Allow]:
    """The ports of the contract, each for whom it is, and the operator's own. ``renews``: a gateway that does.

    ``ssh_open``: nobody said where operators are, so SSH (keys alone) is for any address rather than for none.
    """
    found = []
    for port, (what, names) in (ON_GATEWAYS if gateway else PORTS).items():
        if port == egress.RENEWAL and not renews:
            continue
        if port == 22 and ssh_open:  # noqa: PLR2004 - the contract's number
            found.append(Allow("ssh", "sshd, for anybody with a key: hardening_operator_networks is empty", (), (22,)))
            continue
        allowed = tuple(dict.fromkeys(address for name in names for address in who[name]))
        name = "ssh" if what == "sshd" else what.replace(" ", "-").replace("_", "-")
        if allowed:
            found.append(Allow(name, f"{what}, for {', '.join(names)}", allowed, (port,)))
    return found + [egress.listed_rule(entry, "hardening_inbound", "from") for entry in listed]


def rendered(allows: Iterable[Allow], side: str) -> list[dict[str, Any]]:
    """Each rule with its nft matches; ``side`` is ``saddr`` (inbound) or ``daddr``.

    Names are looked up in the sets of ``name_sets``; a rule whose addresses are all IPv4 has no IPv6 line.

    Raises:
        UsageError: two rules have one id, so that their counters could not be told apart.
    """
    rules = []
    seen: set[str] = set()
    for allow in allows:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", allow.id) or allow.id in seen:
            raise UsageError(
                f"{allow.id!r} {'is the id of two rules' if allow.id in seen else 'is no id of a rule'}",
                where="hardening_inbound or hardening_egress",
                next_step="give each rule an id of its own: lower-case letters, digits and hyphens",
            )
        seen.add(allow.id)
        rules.append(asdict(allow) | {"matches": [f"{who}{_ports(allow)}" for who in _who(allow, side)]})
    return rules


def name_sets(allows: Iterable[Allow], side: str) -> dict[str, list[str]]:
    """Set → the names whose addresses belong in it; each has a twin with ``6`` in place of the ``4``."""
    found = {}
    for allow in allows:
        names = [peer for peer in allow.peers if egress.is_name(peer)]
        if names:
            found[_set(allow, side)] = names
    return found


def require_way_back(operators: Sequence[str], client: str | None) -> None:
    """Refuse networks that leave out the address which this very controller comes from.

    Names are refused, too: whether an operator gets in must not hang on a name server.

    Raises:
        UsageError: one is no address and no network.
        RefusedError: the next connection would be dropped.
    """
    for network in operators:
        if egress.is_name(network):
            raise UsageError(
                f"{network!r} is no address and no network",
                where="hardening_operator_networks",
                next_step="write 192.0.2.5 or 192.0.2.0/24: with a name, a silent name server would lock operators out",
            )
    if not operators or client is None:
        return
    address = ipaddress.ip_address(client)
    if not any(_contains(network, address) for network in operators):
        raise RefusedError(
            f"the firewall would lock this controller out: it comes from {client}, which is in none of "
            f"{', '.join(operators)}",
            where="hardening_operator_networks",
            next_step=f"add {client} (or its network), or run from a controller inside them",
        )


def forwards(wanted: bool | None, packages: Mapping[str, str]) -> bool:  # noqa: FBT001 - a variable of the role
    """Whether packets may pass through: where nobody said, only where containers need it."""
    return any(engine in packages for engine in CONTAINER_ENGINES) if wanted is None else wanted


def _contains(network: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    within = ipaddress.ip_network(network, strict=False)
    return within.version == address.version and address in within


def _who(allow: Allow, side: str) -> list[str]:
    """What nft matches the peers by: a line a family, literal ones first; an empty text matches anybody."""
    if not allow.peers:
        return [""]
    networks = [ipaddress.ip_network(peer, strict=False) for peer in allow.peers if not egress.is_name(peer)]
    # Collapsed, because nft refuses a set in which one network lies in another.
    version4 = ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv4Network))
    version6 = ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv6Network))
    found = []
    for family, collapsed in (("ip", list(map(_short, version4))), ("ip6", list(map(_short, version6)))):
        if collapsed:
            found.append(f"{family} {side} {{ {', '.join(collapsed)} }} ")
    if any(egress.is_name(peer) for peer in allow.peers):
        name = _set(allow, side).removesuffix("4")
        found += [f"ip {side} @{name}4 ", f"ip6 {side} @{name}6 "]
    return found


def _short(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _set(allow: Allow, side: str) -> str:
    return f"{'from' if side == 'saddr' else 'to'}_{allow.id.replace('-', '_')}_4"


def _ports(allow: Allow) -> str:
    ports = ", ".join(map(str, allow.ports))
    return f"{allow.protocol} dport {ports if len(allow.ports) == 1 else f'{{ {ports} }}'}"
