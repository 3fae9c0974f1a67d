"""The controller's half of enrolment: ask a device what it has, decide, sign, hand over.

Transport-free: ``Call`` runs a function of ``hedgerow.identity.enrol`` on the device,
over Ansible's connection, over SSH, or in this process in tests. One call where
nothing changes, three where a certificate is issued.

A request is good for one visit: it carries a word that was made for it, signed by its own key. A request from another
time is refused, whoever sends it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import AttributeOID

from hedgerow.errors import DeviceError, RefusedError
from hedgerow.identity import anchor, certificates, csr
from hedgerow.identity.holders import Anchored, Holders, anchor_of, judge, rfc3339
from hedgerow.identity.issuer import Issuer
from hedgerow.identity.profiles import DeviceNames, Profile


class Call(Protocol):
    """Run ``hedgerow.identity.enrol.<function>(**arguments)`` on the device."""

    def __call__(self, function: str, **arguments: Any) -> Any: ...


@dataclass(frozen=True)
class Wishes:
    """What was asked for beside a certificate; all of it has a default that changes nothing.

    ``key`` is where the key is to be (``file``, ``tpm``, ``otp``; None: where it is), ``layout`` how the folder is laid
    out (``files``, ``generations``; None: as it is), ``peer`` whom a new pair is tried with before it is switched to
    (``host``, ``port``, ``name``, ``path``). ``strict``: one key at a time (``hedgerow.identity.holders``).
    """

    key: str | None = None
    layout: str | None = None
    peer: dict[str, Any] | None = None
    strict: bool = False


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
    wishes: Wishes | None = None,
    holders: Holders | None = None,
    at_gateway: x509.Certificate | None = None,
) -> Outcome:
    """Give the device of ``names`` a certificate of ``profile``, if it needs one.

    ``force`` renews whatever the present one is; ``new_key`` also has the device make another key. ``check``
    changes nothing and predicts. ``holders`` is the fleet's history of keys; None keeps none. ``at_gateway`` is the
    site's CA on its gateway: what the device has from there is left alone.

    Raises:
        DeviceError: the device cannot; its old files are as they were.
        RefusedError: the CA will not; it revoked the board, or two boards show one identity.
    """
    ca.require_admitted("board", names.serial)
    wishes = wishes or Wishes()
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
    public = _public_der(found["public_key"])
    # What this CA certified for this board and key was renewed at a gateway, which nobody told the history.
    authority = _authority(present, ca, at_gateway)
    strict = wishes.strict and not _certified(present, public, authority)
    copied = None if public is None else _look(holders, names, public, now, strict=strict, check=check, new_key=new_key)
    if copied is not None:
        outcome.warnings.append(f"{names.host}: {copied}; it gets a key of its own, and the other should get one, too")
        new_key = True
    kind = "file" if wishes.key == "otp" else wishes.key
    other_kind = kind is not None and found["key_kind"] not in {None, kind}
    outcome.expires = present.not_valid_after_utc if present is not None else None
    outcome.reason = (
        ("its certificate was revoked" if revoked else None)
        or ("its key is another board's" if copied is not None else None)
        or certificates.reason_to_issue(
            present,
            public,
            ca=authority,
            name=certificates.subject(names.fleet, profile, names.serial),
            sans=certificates.device_sans(names, profile),
            now=now,
        )
        or (f"its key moves to {wishes.key}" if other_kind else None)
        or ("a renewal was asked for" if force or new_key else None)
    )
    new_layout = wishes.layout == "generations" != found["layout"]  # and no way back

    ca_pem = ca.anchors
    if outcome.reason is None and found["ca"] == ca_pem and not new_layout:
        if holders is not None and not check and present is not None and public is not None:
            holders.seen(names.host, names.serial, _digest(public), present.not_valid_after_utc, now)
        return outcome
    if check:
        outcome.key_created = new_key or other_kind or found["public_key"] is None
        outcome.files = ["device.crt"] if outcome.reason is not None else ["ca.crt"]
        if outcome.reason is None and found["ca"] == ca_pem:
            outcome.files = ["current"]
        return outcome

    certificate_pem: str = found["certificate"] or ""
    if outcome.reason is not None:
        word = secrets.token_hex(16)
        options = {} if wishes.key is None else {"key": wishes.key}
        asked = call("request", directory=directory, serial=names.serial, new_key=new_key, challenge=word, **options)
        outcome.key_created = asked["key_created"]
        _require_word(asked["csr"], word, names)
        _require_anchor(asked, names, holders, now)
        certificate_pem = ca.sign_csr(asked["csr"], profile, names, days=days, reason=outcome.reason, now=now)
    more = {name: value for name, value in (("layout", wishes.layout), ("peer", wishes.peer)) if value is not None}
    answer = call("install", directory=directory, certificate=certificate_pem, ca=ca_pem, **more)
    outcome.files = answer["changed"] or (["current"] if new_layout else [])
    issued = _certificate(certificate_pem)
    outcome.expires = issued.not_valid_after_utc if issued is not None else None
    if holders is not None and issued is not None:
        digest = _digest(certificates.certificate_public_der(issued))
        holders.seen(names.host, names.serial, digest, issued.not_valid_after_utc, now)
    return outcome


def _look(
    holders: Holders | None,
    names: DeviceNames,
    public: bytes,
    now: dt.datetime,
    *,
    strict: bool,
    check: bool,
    new_key: bool,
) -> str | None:
    """Hold the key that was found against the fleet's history; a sentence where it is another board's.

    Raises:
        RefusedError: two boards show one serial; written down as an event unless ``check``.
    """
    if holders is None:
        return None
    verdict = judge(holders.lines(), names.serial, _digest(public), now, strict=strict, new_key=new_key)
    if verdict is None:
        return None
    if not check:
        holders.refused(names.host, names.serial, verdict, now)
    if verdict.code == "copied_card":
        return verdict.what
    raise RefusedError(
        f"{names.host} gets no certificate: {verdict.what}",
        where=f"rule: one board, one key ({verdict.code})",
        next_step=f"find out which board is the right one; then: hedgerow ca settle {names.serial} --reason WHY",
    )


def _authority(present: x509.Certificate | None, ca: Issuer, at_gateway: x509.Certificate | None) -> x509.Certificate:
    """Whose certificate the device should have: this CA's, or the gateway's where that is what it has."""
    if present is not None and at_gateway is not None and certificates.issued_by(present, at_gateway):
        return at_gateway
    return ca.certificate


def _certified(present: x509.Certificate | None, public: bytes | None, ca: x509.Certificate) -> bool:
    """Whether ``ca`` signed the certificate that was found, for the key that was found."""
    if present is None or certificates.certificate_public_der(present) != public:
        return False
    return certificates.issued_by(present, ca)


def _require_word(csr_pem: str, word: str, names: DeviceNames) -> None:
    """Raise RefusedError unless the request was made for this visit."""
    request = csr.parse_csr(csr_pem, where=f"request of {names.host}")
    try:
        found = request.attributes.get_attribute_for_oid(AttributeOID.CHALLENGE_PASSWORD).value
    except x509.AttributeNotFound:
        found = b""
    if not secrets.compare_digest(found, word.encode()):
        raise RefusedError(
            f"the request of {names.host} was not made for this visit",
            where="rule: a request is good for once",
            next_step="run it again; if it happens again, look at what answers on that host",
        )


def _require_anchor(asked: dict[str, Any], names: DeviceNames, holders: Holders | None, now: dt.datetime) -> None:
    """Raise RefusedError where the board has its own key and it does not vouch; pin the key that vouches first."""
    pinned = None if holders is None else anchor_of(holders.lines(), names.serial)
    word = asked.get("anchor")
    if word is None and pinned is None:
        return
    if word is None or not anchor.holds(pinned or word["public_key"], asked["csr"], word["signature"]):
        raise RefusedError(
            f"the board of {names.host} does not vouch for its request with its own key",
            where="rule: a board that has once vouched does so for ever",
            next_step=f"is it the same board? If so: hedgerow ca settle {names.serial} --reason WHY",
        )
    if pinned is None and holders is not None:
        holders.append(Anchored(time=rfc3339(now), serial=names.serial, host=names.host, public_key=word["public_key"]))


def _digest(public_der: bytes) -> str:
    return hashlib.sha256(public_der).hexdigest()


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
