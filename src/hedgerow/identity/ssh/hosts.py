"""The controller's half of a host's SSH certificate: ask what it has, decide, sign, hand over.

Transport-free: ``Call`` runs a function of ``host_side`` on the host. One call where nothing changes, two where a
certificate is signed. Invariants:

- The key that is certified is the one that is pinned for the host, where one is pinned: whoever answers at its address
  with another key gets nothing.
- A certificate is renewed when less than a third of its life is left, when key or names changed, when another key of
  the CA signs now, and when it was revoked.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.hazmat.primitives.serialization.ssh import SSHCertificate, load_ssh_public_identity

from hedgerow import first_contact
from hedgerow.errors import RefusedError
from hedgerow.identity.ssh import generations, publickey, store
from hedgerow.identity.ssh.authority import SshAuthority, host_names
from hedgerow.inventory import Host

DIRECTORY = "/etc/ssh"
CERTIFICATE = "/etc/ssh/hedgerow/ssh_host_ed25519_key-cert.pub"


class Call(Protocol):
    """Run ``hedgerow.identity.ssh.host_side.<function>(**arguments)`` on the host."""

    def __call__(self, function: str, **arguments: Any) -> Any: ...


@dataclass
class Outcome:
    """``reason`` says why a certificate was signed, or would be in check mode; None if the present one is right."""

    reason: str | None
    expires: dt.datetime | None


def certify(
    call: Call,
    authority: SshAuthority,
    host: Host,
    *,
    known: first_contact.KnownHosts,
    now: dt.datetime,
    days: int | None = None,
    force: bool = False,
    check: bool = False,
    directory: str = DIRECTORY,
    certificate: str = CERTIFICATE,
) -> Outcome:
    """Give ``host`` a certificate for its SSH key, if it needs one.

    Raises:
        DeviceError: the host cannot take it; its old one is as it was.
        RefusedError: its key is not the pinned one, is another host's, or was revoked.
    """
    found = call("status", directory=directory, certificate=certificate)
    public = publickey.parse(found["public_key"], where=f"SSH key of {host.name}")
    pinned = known.get(host.address, host.port)
    if pinned is not None and public.split()[1] != pinned.blob:
        raise RefusedError(
            f"{host.name} says that its key is {publickey.fingerprint(public)}, but {pinned.fingerprint} is pinned",
            where=str(known.path),
            next_step="if the host was rebuilt: set ssh_host_key_sha256 to what its console shows, then first contact",
        )
    present = _parse(found["certificate"])
    reason = reason_to_sign(present, public, authority, host, now=now) or ("asked to renew" if force else None)
    expires = _end(present) if present is not None else None
    if reason is None or check:
        return Outcome(reason, expires)
    text = authority.sign_host(host, public, days=days, reason=reason, now=now)
    call("install", directory=directory, certificate=certificate, text=text)
    signed = _parse(text)
    return Outcome(reason, None if signed is None else _end(signed))


def reason_to_sign(
    present: SSHCertificate | None, public: str, authority: SshAuthority, host: Host, *, now: dt.datetime
) -> str | None:
    """Say why a new certificate is due, or return None."""
    if present is None:
        return "there is no certificate yet"
    written = store.lines(authority.log)
    gone = {serial for serials in store.revoked_serials(written).values() for serial in serials}
    wrong = {
        "the certificate belongs to another key": _line(present.public_key()) != public,
        "another key of the host CA signs now": _line(present.signature_key())
        != generations.current(authority.state.keys, "host").public,
        "the host's names changed": {name.decode() for name in present.valid_principals}
        != set(host_names(host, authority.fleet)),
        "the certificate was revoked": str(present.serial) in gone,
    }
    return next((reason for reason, holds in wrong.items() if holds), None) or _due(present, now)


def _due(present: SSHCertificate, now: dt.datetime) -> str | None:
    end = _end(present)
    if now >= end:
        return f"the certificate expired on {end:%Y-%m-%d %H:%M} UTC"
    if (end - now).total_seconds() < (present.valid_before - present.valid_after) / 3:
        return f"less than a third of its life is left (until {end:%Y-%m-%d %H:%M} UTC)"
    return None


def _parse(text: str | None) -> SSHCertificate | None:
    """None also for a damaged file: it is replaced."""
    try:
        found = None if text is None else load_ssh_public_identity(text.encode())
    except ValueError:
        return None
    return found if isinstance(found, SSHCertificate) else None


def _line(key: Any) -> str:
    return str(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


def _end(certificate: SSHCertificate) -> dt.datetime:
    return dt.datetime.fromtimestamp(certificate.valid_before, dt.UTC)
