"""Where a caching gateway fetches from: the inventory's word as what nginx and the firewall need.

- An origin is a static HTTPS server: a bucket's, a CDN's, or another gateway of the fleet. What it serves is signed, so
  it needs no secret here, and its address has none in it.
- Another gateway is told by its address in the inventory. Its name, the fleet's CA and the certificate to show follow
  from that; and the other way round, whose origin a gateway is, it lets in.
- Everything that becomes part of nginx's configuration is of a few plain characters, so that nothing needs quoting.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from hedgerow.errors import UsageError

FLEET_CA = "/var/lib/hedgerow/identity/ca.crt"
OWN_CA = "/etc/nginx/hedgerow-origin-ca.crt"
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"

_KEY = "registry_mirror_origin"
_WRITE = "write the https address that devices could read the registry at: https://models.example.org/meadow"
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
# Seconds for which a device may be told of the release before; a refresh of its own is not longer believed by it.
_MOST_METADATA_S = 60
# Fewer slices than that are gone before a release is through.
_LEAST_CACHE_MB = 64


def gateways(hostvars: Mapping[str, Any], names: Iterable[str]) -> list[dict[str, str | None]]:
    """The fleet's gateways as origins and as readers of origins."""
    return [
        {
            "name": name,
            "address": str(hostvars[name]["ansible_host"]),
            "dns": f"{name}.{hostvars[name]['site']}.{hostvars[name]['fleet']}",
            "serial": str(hostvars[name]["pi_serial"]),
            "origin": hostvars[name].get(_KEY),
        }
        for name in names
    ]


def readers(host: str, found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Serial numbers of the gateways whose origin ``host`` is.

    Raises:
        UsageError: an origin is no address of a server.
    """
    everybody = list(found)
    me = next((each for each in everybody if each["name"] == host), None)
    if me is None:
        return []
    return sorted(
        each["serial"]
        for each in everybody
        if each["origin"] is not None and each is not me and _parts(each["origin"]).hostname == me["address"]
    )


def plan(
    asked: Mapping[str, Any], *, host: str, found: Iterable[Mapping[str, Any]], nameservers: Sequence[str]
) -> dict[str, Any] | None:
    """What the template of nginx needs; None without an origin.

    ``asked`` has the role's variables without their prefix: ``origin``, ``origin_ca``, ``origin_name``,
    ``origin_certificate``, ``origin_resolvers``, ``metadata_s``, ``cache_mb`` and ``cache_free_mb``. ``found`` is what
    ``gateways`` returns, ``nameservers`` whom ``host`` itself asks.

    Raises:
        UsageError: one of them cannot be; the message repeats no secret.
    """
    if asked["origin"] is None:
        return None
    everybody = list(found)
    parts = _parts(asked["origin"])
    address = str(parts.hostname)
    upstream = next((each for each in everybody if each["address"] == address), None)
    _refuse_circles(host, everybody)
    literal = _is_address(address)
    name = asked["origin_name"] or (upstream["dns"] if upstream else None) or (None if literal else address)
    if name is None:
        raise UsageError(
            f"{address} is no gateway of this fleet, and an address is in no certificate that nginx can verify",
            where=_KEY,
            next_step="write the server's name in the URL, or say it: registry_mirror_origin_name: models.example.org",
        )
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is no name of a server",
            where="registry_mirror_origin_name",
            next_step="write the DNS name that the origin's certificate is for",
        )
    _check_numbers(asked)
    port = parts.port or 443
    return {
        "authority": f"{_bracketed(address)}:{port}",
        "prefix": parts.path.rstrip("/"),
        "name": name,
        "header": name if port == 443 else f"{name}:{port}",  # noqa: PLR2004 - the port that URLs leave out
        "resolvers": [] if literal else _resolvers(asked["origin_resolvers"], nameservers),
        "trusted": OWN_CA if asked["origin_ca"] is not None else FLEET_CA if upstream else SYSTEM_CA,
        "own_certificate": bool(asked["origin_certificate"] or upstream),
    }


def address(origin: str) -> tuple[str, int]:
    """Host and port that a gateway connects to.

    Raises:
        UsageError: it is no origin.
    """
    parts = _parts(origin)
    return str(parts.hostname), parts.port or 443


def _parts(origin: str) -> SplitResult:
    try:
        parts = urlsplit(str(origin))
        port = parts.port
    except ValueError as error:
        raise UsageError("it is no URL", where=_KEY, next_step=_WRITE) from error
    # Never repeated: what stands there may be a secret.
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError(
            "an origin's address has no user, password, query or token in it; what lies there is signed, not secret",
            where=_KEY,
            next_step="let the bucket be read by all, from the gateway's network, or with the gateway's certificate "
            "(registry_mirror_origin_certificate: true)",
        )
    if parts.scheme == "s3":
        raise UsageError(
            "a gateway fetches over HTTPS and has no credentials of a store",
            where=_KEY,
            next_step="write the bucket's own address: https://BUCKET.s3.REGION.amazonaws.com/PREFIX",
        )
    hostname = parts.hostname or ""
    if parts.scheme != "https" or port == 0 or not (_is_address(hostname) or _NAME.fullmatch(hostname)):
        raise UsageError(f"{origin!r} is no https address of a server", where=_KEY, next_step=_WRITE)
    if _PREFIX.fullmatch(parts.path.rstrip("/")) is None or ".." in parts.path.split("/"):
        raise UsageError(
            f"the path {parts.path!r} has other characters than letters, digits and . _ ~ - between its slashes",
            where=_KEY,
            next_step="give the registry a plain prefix in its bucket",
        )
    return parts


def _refuse_circles(host: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Follow the gateways' origins from ``host``; one that comes twice would ask itself for ever."""
    by_address = {each["address"]: each for each in found}
    seen: list[str] = []
    each = next((each for each in found if each["name"] == host), None)
    while each is not None:
        if each["name"] in seen:
            raise UsageError(
                f"gateways fetch from each other in a circle: {' from '.join([*seen, each['name']])}",
                where=_KEY,
                next_step="let one of them fetch from the bucket, or be what playbooks/publish.yml fills",
            )
        seen.append(each["name"])
        origin = each["origin"]
        each = None if origin is None else by_address.get(str(_parts(origin).hostname))


def _resolvers(listed: Sequence[str], nameservers: Sequence[str]) -> list[str]:
    """Name servers as nginx writes them. Link-local ones are left out: it knows no scopes."""
    for server in listed:
        if not _is_address(server):
            raise UsageError(
                f"{server!r} is no address of a name server",
                where="registry_mirror_origin_resolvers",
                next_step="write addresses: [192.0.2.53]",
            )
    usable = [server for server in listed or nameservers if not ipaddress.ip_address(server).is_link_local]
    if not usable:
        raise UsageError(
            "nobody can be asked for the origin's name: the host's /etc/resolv.conf has no server that nginx could ask",
            where=_KEY,
            next_step="write registry_mirror_origin_resolvers: [ADDRESS of a name server]",
        )
    return [_bracketed(server) for server in dict.fromkeys(usable)]


def _check_numbers(asked: Mapping[str, Any]) -> None:
    if not 1 <= asked["metadata_s"] <= _MOST_METADATA_S:
        raise UsageError(
            f"{asked['metadata_s']} s is not between 1 and {_MOST_METADATA_S}",
            where="registry_mirror_metadata_s",
            next_step="write the seconds for which devices may be told of the release before, such as 5",
        )
    if asked["cache_mb"] < _LEAST_CACHE_MB or asked["cache_free_mb"] < 0:
        raise UsageError(
            f"a cache of {asked['cache_mb']} MB with {asked['cache_free_mb']} MB left free holds no release",
            where="registry_mirror_cache_mb, registry_mirror_cache_free_mb",
            next_step=f"write {_LEAST_CACHE_MB} MB or more, best what two releases take, and 0 or more to be left free",
        )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
