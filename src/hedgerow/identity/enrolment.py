"""The controller's half of enrolment: ask a device what it has, decide, sign, hand over.

Transport-free: ``Call`` runs a function of ``hedgerow.identity.enrol`` on the device,
over Ansible's connection, over SSH, or in this process in tests. One call where
nothing changes, three where a certificate is issued.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hedgerow.errors import DeviceError
from hedgerow.identity import certificates
from hedgerow.identity.issuer import Issuer
from hedgerow.identity.profiles import DeviceNames, Profile


class Call(Protocol):
    """Run ``hedgerow.identity.enrol.<function>(**arguments)`` on the device."""

    def __call__(self, function: str, **arguments: Any) -> Any: ...


@dataclass
class Outcome:
    """What enrolment did, or would do in check mode.

    ``reason`` says why a certificate was issued; None if the present one is right. ``warnings`` are for people.
    ``expires`` is the end of the certificate that is in place now (before the run, in check mode).
    """

    reason: str | None = None
    key_created: bool = False
    repaired: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    expires: dt.datetime | None = None

    @property
    def changed(self) -> bool:
        return bool(self.repaired or self.files or self.reason)


def enrol(
    call: Call,
    ca: Issuer,
    profile: Profile,
    names: DeviceNames,
    *,
    directory: str,
    now: dt.datetime,
    check: bool = False,
    force: bool = False,
    new_key: bool = False,
    days: int | None = None,
) -> Outcome:
    """Give the device of ``names`` a certificate of ``profile``, if it needs one.

    ``force`` renews whatever the present one is; ``new_key`` also has the device make another key. ``check``
    changes nothing and predicts.

    Raises:
        DeviceError: the device cannot; its old files are as they were.
        RefusedError: the CA will not; it revoked the board.
    """
    ca.require_admitted("board", names.serial)
    found = call("status", directory=directory)
    outcome = Outcome(repaired=[f"{fault['path']}: {fault['what']}" for fault in found["faults"]])
    if found["key_exposed"] and not new_key:
        outcome.warnings.append(
            f"other users of {names.host} could read its key until now; replace it: "
            f"ansible-playbook playbooks/rotate_identity.yml --limit {names.host} -e device_identity_new_key=true"
        )
    if outcome.repaired and not check:
        call("repair", directory=directory)

    present = _certificate(found["certificate"])
    revoked = present is not None and f"{present.serial_number:x}" in ca.revoked_certificates()
    new_key = new_key or revoked  # admitted again, and others may have the old one
    outcome.expires = present.not_valid_after_utc if present is not None else None
    outcome.reason = (
        ("its certificate was revoked" if revoked else None)
        or certificates.reason_to_issue(
            present,
            _public_der(found["public_key"]),
            ca=ca.certificate,
            name=certificates.subject(names.fleet, profile, names.serial),
            sans=certificates.device_sans(names, profile),
            now=now,
        )
        or ("a renewal was asked for" if force or new_key else None)
    )

    ca_pem = ca.anchors
    if outcome.reason is None and found["ca"] == ca_pem:
        return outcome
    if check:
        outcome.key_created = new_key or found["public_key"] is None
        outcome.files = ["ca.crt"] if outcome.reason is None else ["device.crt"]
        return outcome

    certificate_pem: str = found["certificate"] or ""
    if outcome.reason is not None:
        asked = call("request", directory=directory, serial=names.serial, new_key=new_key)
        outcome.key_created = asked["key_created"]
        certificate_pem = ca.sign_csr(asked["csr"], profile, names, days=days, reason=outcome.reason, now=now)
    outcome.files = call("install", directory=directory, certificate=certificate_pem, ca=ca_pem)["changed"]
    issued = _certificate(certificate_pem)
    outcome.expires = issued.not_valid_after_utc if issued is not None else None
    return outcome


def _certificate(text: str | None) -> x509.Certificate | None:
    """None also for a damaged file: it is replaced."""
    try:
        return None if text is None else x509.load_pem_x509_certificate(text.encode())
    except ValueError:
        return None


def _public_der(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        key = serialization.load_pem_public_key(text.encode())
    except ValueError as error:
        raise DeviceError(
            "the device sent no public key", where=f"{text[:60]!r}", next_step="openssl pkey -in device.key -pubout"
        ) from error
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
