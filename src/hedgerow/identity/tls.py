"""Both ends of mutual TLS within a fleet. Standard library only: devices use it, too.

A controller speaks to devices and gateways with a client certificate:

    context = client_context(paths.fleet_dir("meadow"), "demo")
    with httpx.Client(verify=context) as client:
        client.get(
            f"https://{host.address}:8443/health/report",
            extensions={"sni_hostname": server_name(host.name, host.site, "meadow")},
        )

A certificate names its holder ``<host>.<site>.<fleet>``; no address is in it, so a
device keeps its certificate when it moves. The name is verified through SNI,
whatever address the connection goes to.

A server answers with ``server_context`` and then asks ``profiles.peer`` who called:
a verified chain says that a certificate is the fleet's, not what its holder may do.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from hedgerow.errors import DeviceError, UsageError

CRL: Final = Path("/var/lib/hedgerow/revocation/crl.pem")
"""Where a host has the lists of revoked certificates: every service may read it, which the folder of keys lets none."""


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


def server_context(directory: Path) -> ssl.SSLContext:
    """Return a context for a server with the device's own certificate, which takes clients of the fleet alone.

    ``directory`` holds ``device.key``, ``device.crt`` and ``ca.crt``: a service's ``$CREDENTIALS_DIRECTORY``.

    Raises:
        DeviceError: the files are missing or damaged.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    # A resumed session would outlive the certificate that opened it.
    context.num_tickets = 0
    try:
        context.load_verify_locations(directory / "ca.crt")
        context.load_cert_chain(directory / "device.crt", directory / "device.key")
    except (OSError, ssl.SSLError) as error:
        raise DeviceError(
            f"the device's certificate cannot be used: {error.strerror or error}",
            where=str(directory),
            next_step="ansible-playbook playbooks/site.yml --tags device_identity",
        ) from error
    return context
