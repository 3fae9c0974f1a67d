"""Speak to devices and gateways with a client certificate of the fleet (controller side).

    context = client_context(paths.fleet_dir("meadow"), "demo")
    with httpx.Client(verify=context) as client:
        client.get(
            f"https://{host.address}:8443/health/report",
            extensions={"sni_hostname": server_name(host.name, host.site, "meadow")},
        )

A certificate names its holder ``<host>.<site>.<fleet>``; no address is in it, so a
device keeps its certificate when it moves. The name is verified through SNI,
whatever address the connection goes to.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from hedgerow.errors import UsageError


def server_name(host: str, site: str, fleet: str) -> str:
    """The name to send as SNI and to verify."""
    return f"{host}.{site}.{fleet}"


def client_context(fleet_dir: Path, name: str) -> ssl.SSLContext:
    """Return a context that trusts the fleet CA alone and presents ``clients/<name>``.

    TLS 1.3 only: both ends are ours.

    Raises:
        UsageError: there is no such client, or its files are damaged.
    """
    folder = fleet_dir / "ca"
    certificate, key = folder / "clients" / f"{name}.crt", folder / "clients" / f"{name}.key"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(folder / "ca.crt")
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"the client certificate {name} cannot be used: {error.strerror or error}",
            where=str(certificate),
            next_step=f"hedgerow ca issue --profile operator --name {name}",
        ) from error
    return context
