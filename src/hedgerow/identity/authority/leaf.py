"""Signing certificates of machines and clients with a key at hand: what the single tier and issuing CAs share.

- Names in a certificate are computed here from the inventory. A request proves possession of a key and says which
  serial it is for; its names are never copied.
- A certificate is in the issuance log, on disk, before anyone gets it. A batch is one write and one ``fsync``.
- Who stands in the ledger of revocations gets none, and a key whose certificate was revoked never gets another one.
  Look and line are under one lock, so that nothing is issued in between.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hedgerow import atomic
from hedgerow.errors import HedgerowError, RefusedError
from hedgerow.identity import certificates, issued, keyfile, revocations
from hedgerow.identity.authority import build
from hedgerow.identity.authority.admission import Admission, locked, rfc3339, utc_now
from hedgerow.identity.authority.rules import admissible, life_of
from hedgerow.identity.issuer import Request
from hedgerow.identity.profiles import CLIENT_PROFILES, DeviceNames, Profile, check_client_name


@dataclass(frozen=True)
class ClientFiles:
    """Where a client's key (0600) and certificate are; ``reason`` says why it was issued, None if it was still good."""

    key: Path
    certificate: Path
    expires: dt.datetime
    reason: str | None

    @property
    def changed(self) -> bool:
        return self.reason is not None


class LeafIssuer(Admission, ABC):
    """``folder`` has ledger, log and ``clients/``; ``certificate`` is the CA's whose ``key`` signs."""

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        super().__init__(folder)
        self.certificate = certificate
        self.by = ""
        """Who asks for what is signed, for the log; commands set it."""
        self.key = key

    @property
    def fleet(self) -> str:
        return fleet_of(self.certificate)

    @property
    def log(self) -> Path:
        return self.folder / issued.FILE

    @property
    @abstractmethod
    def anchors(self) -> str:
        """The roots to trust (PEM), the active one first."""

    @abstractmethod
    def chain(self, certificate: x509.Certificate) -> str:
        """``certificate`` and what chains it to a root (PEM)."""

    def require_own(self, profile: Profile, site: str | None) -> None:
        """Raise RefusedError if this CA may not certify ``profile``, or nobody of ``site`` (None: a client)."""

    def sign_csr(
        self,
        csr_pem: str,
        profile: Profile,
        names: DeviceNames,
        *,
        days: int | None = None,
        reason: str = "requested",
        now: dt.datetime | None = None,
    ) -> str:
        """Return the certificate (PEM, with its chain) for a device's or gateway's request.

        ``csr_pem`` must be signed by its own P-256 key, and its CN must be ``names.serial``. Whatever else it
        asks for is ignored. ``days`` (default 30) may not exceed 90.

        Raises:
            RefusedError: the request is not for this device, not of this fleet, or asks for too long a life.
            UsageError: it is no certificate request.
            MachineError: the issuance log cannot be written.
        """
        (answer,) = self.sign_many([Request(csr_pem, profile, names, days, reason)], now=now)
        if isinstance(answer, HedgerowError):
            raise answer
        return answer

    def sign_many(self, requests: Sequence[Request], *, now: dt.datetime | None = None) -> list[str | HedgerowError]:
        """Sign what a wave asks at once: one lock, one write of the log; each request has its own answer, in order.

        Raises:
            MachineError: the issuance log cannot be written; nothing was handed out.
        """
        now = now or utc_now()
        keys = [self._admissible(request) for request in requests]
        answers: list[tuple[x509.Certificate, issued.Issued] | HedgerowError] = []
        with locked(self.folder):
            lines, gone = revocations.read(self.folder), self.revoked_keys()
            for request, key in zip(requests, keys, strict=True):
                answers.append(key if isinstance(key, HedgerowError) else self._answer(request, key, lines, gone, now))
            entries = [answer[1] for answer in answers if not isinstance(answer, HedgerowError)]
            if entries:
                issued.append(self.log, entries)
        return [answer if isinstance(answer, HedgerowError) else self.chain(answer[0]) for answer in answers]

    def issue_client(
        self,
        profile: Profile,
        name: str,
        *,
        days: int | None = None,
        force: bool = False,
        now: dt.datetime | None = None,
    ) -> ClientFiles:
        """Make key and certificate of a client in ``clients/``; what has a third of its life left stays.

        A renewal makes a new key.
        """
        if profile not in CLIENT_PROFILES:
            raise RefusedError(
                f"profile {profile.value} is for machines of the inventory; their keys are made on them",
                where=f"--profile {profile.value}",
                next_step="run playbooks/site.yml, which enrols every host",
            )
        check_client_name(name)
        self.require_own(profile, None)
        now = now or utc_now()
        folder = self.folder / "clients"
        folder.mkdir(mode=0o700, exist_ok=True)
        key_file, certificate_file = folder / f"{name}.key", folder / f"{name}.crt"
        sans = certificates.client_sans(self.fleet, profile)
        with locked(self.folder):
            self.require_admitted("client", name)
            present = read_first(certificate_file)
            if present is not None and f"{present.serial_number:x}" in self.revoked_certificates():
                present = None
            reason = certificates.reason_to_issue(
                present,
                keyfile.public_der(key_file),
                ca=self.certificate,
                name=certificates.subject(self.fleet, profile, name),
                sans=sans,
                now=now,
            )
            reason = reason or ("asked to renew" if force else None)
            if present is not None and reason is None:
                key_file.chmod(0o600)
                return ClientFiles(key_file, certificate_file, present.not_valid_after_utc, None)
            if present is not None and (other := profile_of(present)) not in {profile, None}:
                raise RefusedError(
                    f"{name} already is a client of profile {other}",
                    where=str(certificate_file),
                    next_step=f"use another name, or remove {key_file} and {certificate_file} first",
                )
            key = certificates.new_key()
            fresh, entry = self._build(
                key.public_key(), profile, name, sans, life=life_of(profile, days), reason=reason or "", now=now
            )
            issued.append(self.log, [entry])
            atomic.write_bytes(key_file, keyfile.encode(key, None), mode=0o600)
            atomic.write_text(certificate_file, self.chain(fresh))
        return ClientFiles(key_file, certificate_file, fresh.not_valid_after_utc, reason)

    def _admissible(self, request: Request) -> ec.EllipticCurvePublicKey | HedgerowError:
        """The key to certify; or what is wrong, whatever the ledger says."""
        try:
            self.require_own(request.profile, request.names.site)
            return admissible(request, self.fleet, self.folder)
        except HedgerowError as error:
            return error

    def _answer(
        self,
        request: Request,
        key: ec.EllipticCurvePublicKey,
        lines: list[revocations.Line],
        gone: frozenset[str],
        now: dt.datetime,
    ) -> tuple[x509.Certificate, issued.Issued] | HedgerowError:
        names, profile = request.names, request.profile
        try:
            self.refuse_revoked(lines, "board", names.serial)
            self.require_other_key(key, names, gone)
            return self._build(
                key,
                profile,
                names.serial,
                certificates.device_sans(names, profile),
                life=life_of(profile, request.days),
                reason=request.reason,
                now=now,
            )
        except HedgerowError as error:
            return error

    def _build(
        self,
        public_key: ec.EllipticCurvePublicKey,
        profile: Profile,
        name: str,
        sans: tuple[x509.GeneralName, ...],
        *,
        life: dt.timedelta,
        reason: str,
        now: dt.datetime,
    ) -> tuple[x509.Certificate, issued.Issued]:
        """The certificate, and its line in the log, which must be on disk before the certificate leaves."""
        if now + life > self.certificate.not_valid_after_utc:
            raise RefusedError(
                f"the CA ends on {self.certificate.not_valid_after_utc:%Y-%m-%d}, before the certificate would",
                where=str(self.folder),
                next_step="ask for fewer --days, and replace the CA: hedgerow ca rotate, or ca issuing add --replace",
            )
        certificate = certificates.build_leaf(
            ca=self.certificate,
            ca_key=self.key,
            public_key=public_key,
            profile=profile,
            name=certificates.subject(self.fleet, profile, name),
            sans=sans,
            not_before=now - certificates.BACKDATE,
            not_after=now + life,
        )
        return certificate, entry_of(
            certificate, profile.value, name, self.certificate, reason=reason, now=now, by=self.by
        )


def entry_of(
    certificate: x509.Certificate,
    profile: str,
    name: str,
    issuer: x509.Certificate,
    *,
    reason: str,
    now: dt.datetime,
    by: str = "",
) -> issued.Issued:
    """The line of the issuance log that ``certificate`` gets."""
    sans = certificates.alternative_names(certificate)
    return issued.Issued(
        time=rfc3339(now),
        serial_number=f"{certificate.serial_number:x}",
        profile=profile,
        name=name,
        dns=sorted(san.value for san in sans if isinstance(san, x509.DNSName)),
        uris=sorted(san.value for san in sans if isinstance(san, x509.UniformResourceIdentifier)),
        not_before=rfc3339(certificate.not_valid_before_utc),
        not_after=rfc3339(certificate.not_valid_after_utc),
        certificate_sha256=certificates.fingerprint(certificate),
        key_sha256=hashlib.sha256(certificates.certificate_public_der(certificate)).hexdigest(),
        reason=reason,
        issuer_key=build.authority_key(issuer),
        key_id=build.authority_key(certificate) if profile == issued.ISSUING_CA else "",
        by=by,
    )


def read_first(path: Path) -> x509.Certificate | None:
    """The first certificate of a file; None if there is none that can be read."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def fleet_of(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)


def profile_of(certificate: x509.Certificate) -> str | None:
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return str(units[0].value) if len(units) == 1 else None
