"""The fleet's certificate authority: one key, one certificate, and a log of all it issued.

Lives in ``var/fleets/<fleet>/ca/`` on the controller (docs/contracts.md). Invariants:

- Names in a certificate are computed here from the inventory. A request proves
  possession of a key and says which serial it is for; its names are never copied.
- A certificate is in ``issued.jsonl``, on disk, before anyone gets it.
- Who stands in the ledger of revocations gets none, and a key whose certificate was revoked never gets another one.
- ``ca.key`` is 0600, encrypted if ``HEDGEROW_CA_PASSPHRASE_FILE`` names a passphrase.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hedgerow import atomic
from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity import certificates, issued, keyfile, revocations
from hedgerow.identity.profiles import (
    CLIENT_PROFILES,
    DEVICE_PROFILES,
    MAXIMUM_DAYS,
    RULES,
    DeviceNames,
    Profile,
    check_client_name,
    check_label,
)


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


class FleetCA:
    """An opened CA; make one with ``FleetCA.open`` or ``FleetCA.init``."""

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.folder = folder
        self.certificate = certificate
        self._key = key

    @classmethod
    def init(cls, fleet_dir: Path, fleet: str, *, now: dt.datetime | None = None) -> tuple[FleetCA, bool]:
        """Make the CA of ``fleet`` unless there is one; return it and whether it was made."""
        check_label("fleet", fleet)
        folder = fleet_dir / "ca"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        with _locked(folder):
            # Key first, certificate last: a key alone is what an interrupted init leaves, and nothing trusts it yet.
            if (folder / "ca.crt").exists():
                return cls.open(fleet_dir), False
            if (folder / "issued.jsonl").exists():
                raise RefusedError(
                    "this CA has issued certificates, but its own certificate is gone",
                    where=str(folder / "ca.crt"),
                    next_step=f"restore {folder} from your backup; a new CA would lock every device out",
                )
            key = certificates.new_key()
            certificate = certificates.build_ca(key, fleet, now=now or _now())
            atomic.write_bytes(folder / "ca.key", keyfile.encode(key, keyfile.passphrase()), mode=0o600)
            atomic.write_text(folder / "ca.crt", certificates.pem(certificate))
        return cls(folder, certificate, key), True

    @classmethod
    def open(cls, fleet_dir: Path) -> FleetCA:
        """Read the CA of a fleet.

        Raises:
            UsageError: there is none, or the passphrase is missing or wrong.
            RefusedError: others can read the key, or key and certificate do not belong together.
        """
        folder = fleet_dir / "ca"
        certificate = read_certificate(fleet_dir)
        key_file = folder / "ca.key"
        key = keyfile.load(key_file)
        if certificates.public_der(key.public_key()) != certificates.certificate_public_der(certificate):
            raise RefusedError(
                "the CA's key and certificate do not belong together",
                where=str(folder),
                next_step="restore both files from the same backup",
            )
        return cls(folder, certificate, key)

    @property
    def fleet(self) -> str:
        return fleet_of(self.certificate)

    @property
    def log(self) -> Path:
        return self.folder / "issued.jsonl"

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
        """Return the certificate (PEM) for a device's or gateway's request.

        ``csr_pem`` must be signed by its own P-256 key, and its CN must be ``names.serial``. Whatever else it
        asks for is ignored. ``days`` (default 30) may not exceed 90.

        Raises:
            RefusedError: the request is not for this device, not of this fleet, or asks for too long a life.
            UsageError: it is no certificate request.
        """
        if profile not in DEVICE_PROFILES:
            raise RefusedError(
                f"profile {profile.value} is not for devices; its keys are made on the controller",
                where=f"request of {names.host}",
                next_step=f"hedgerow ca issue --profile {profile.value} --name NAME",
            )
        if names.fleet != self.fleet:
            raise RefusedError(
                f"{names.host} is of fleet {names.fleet}, this CA is of fleet {self.fleet}",
                where=str(self.folder),
                next_step="name the inventory of that fleet: -i",
            )
        request = parse_csr(csr_pem, where=f"request of {names.host}")
        asked = request_serial(request)
        if asked != names.serial:
            raise RefusedError(
                f"the request is for serial {asked!r}, the inventory says {names.serial} for {names.host}",
                where="rule: a certificate is issued to the serial that the inventory holds",
                next_step="correct pi_serial in the inventory if the board was exchanged",
            )
        key = _public_key(request)
        with _locked(self.folder):
            self.require_admitted("board", names.serial)
            self._require_other_key(key, names)
            return certificates.pem(
                self._issue(
                    key,
                    profile,
                    names.serial,
                    certificates.device_sans(names, profile),
                    days=days,
                    reason=reason,
                    now=now or _now(),
                )
            )

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
        now = now or _now()
        folder = self.folder / "clients"
        folder.mkdir(mode=0o700, exist_ok=True)
        key_file, certificate_file = folder / f"{name}.key", folder / f"{name}.crt"
        sans = certificates.client_sans(self.fleet, profile)
        # As in ``sign_csr`` and ``revoke``: nothing is issued between a revocation's look and its line.
        with _locked(self.folder):
            self.require_admitted("client", name)
            present = _read_certificate_or_none(certificate_file)
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
            fresh = self._issue(key.public_key(), profile, name, sans, days=days, reason=reason or "", now=now)
            atomic.write_bytes(key_file, keyfile.encode(key, None), mode=0o600)
            atomic.write_text(certificate_file, certificates.pem(fresh))
        return ClientFiles(key_file, certificate_file, fresh.not_valid_after_utc, reason)

    def revoke(
        self, kind: revocations.Kind, holder: str, *, reason: str, by: str, now: dt.datetime | None = None
    ) -> tuple[revocations.Revoked, bool]:
        """Give ``holder`` no certificate any more, and revoke those that have life left.

        Returns the line that stands, and whether it was written now: a second call changes nothing.
        """
        now = now or _now()
        with _locked(self.folder):
            lines = revocations.read(self.folder)
            gone = set(revocations.certificates(lines))
            profiles = DEVICE_PROFILES if kind == "board" else CLIENT_PROFILES
            alive = [
                entry.serial_number
                for entry in issued.read(self.log)
                if entry.name == holder
                and entry.profile in {profile.value for profile in profiles}
                and entry.serial_number not in gone
                and dt.datetime.fromisoformat(entry.not_after) > now
            ]
            present = revocations.standing(lines, kind, holder)
            if present is not None and not alive:
                return present, False
            line = revocations.Revoked(
                time=_rfc3339(now), kind=kind, holder=holder, reason=reason, by=by, certificates=alive
            )
            revocations.append(self.folder, line)
        return line, True

    def readmit(
        self, kind: revocations.Kind, holder: str, *, reason: str, by: str, now: dt.datetime | None = None
    ) -> bool:
        """Let ``holder`` have a certificate again, for another key; False if nothing stood against it."""
        with _locked(self.folder):
            if revocations.standing(revocations.read(self.folder), kind, holder) is None:
                return False
            revocations.append(
                self.folder,
                revocations.Readmitted(time=_rfc3339(now or _now()), kind=kind, holder=holder, reason=reason, by=by),
            )
        return True

    def require_admitted(self, kind: revocations.Kind, holder: str) -> None:
        """Raise RefusedError if ``holder`` stands in the ledger of revocations."""
        line = revocations.standing(revocations.read(self.folder), kind, holder)
        if line is not None:
            raise RefusedError(
                f"{holder} was revoked on {line.time[:10]}: {line.reason}",
                where=f"{self.folder / revocations.FILE}; rule: who was revoked gets no certificate",
                next_step=f"if it may come back: hedgerow ca readmit {holder} --reason WHY",
            )

    def revoked_certificates(self) -> frozenset[str]:
        """Serial numbers (hex) of every certificate that was revoked."""
        return frozenset(revocations.certificates(revocations.read(self.folder)))

    def _require_other_key(self, key: ec.EllipticCurvePublicKey, names: DeviceNames) -> None:
        """A key is revoked with its certificate: who else has it may have it still."""
        gone = self.revoked_certificates()
        digest = hashlib.sha256(certificates.public_der(key)).hexdigest()
        if gone and any(entry.serial_number in gone and entry.key_sha256 == digest for entry in issued.read(self.log)):
            raise RefusedError(
                f"{names.host} asks for a certificate for a key that was revoked",
                where="rule: a revoked key is never certified again",
                next_step=f"ansible-playbook playbooks/rotate_identity.yml --limit {names.host} "
                "-e device_identity_new_key=true",
            )

    def _issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        profile: Profile,
        name: str,
        sans: tuple[x509.GeneralName, ...],
        *,
        days: int | None,
        reason: str,
        now: dt.datetime,
    ) -> x509.Certificate:
        not_after = now + self._life(profile, days)
        if not_after > self.certificate.not_valid_after_utc:
            raise RefusedError(
                f"the fleet CA ends on {self.certificate.not_valid_after_utc:%Y-%m-%d}, before the certificate would",
                where=str(self.folder / "ca.crt"),
                next_step="ask for fewer --days, and plan the CA's replacement",
            )
        certificate = certificates.build_leaf(
            ca=self.certificate,
            ca_key=self._key,
            public_key=public_key,
            profile=profile,
            name=certificates.subject(self.fleet, profile, name),
            sans=sans,
            not_before=now - certificates.BACKDATE,
            not_after=not_after,
        )
        entry = issued.Issued(
            time=_rfc3339(now),
            serial_number=f"{certificate.serial_number:x}",
            profile=profile.value,
            name=name,
            dns=[san.value for san in sans if isinstance(san, x509.DNSName)],
            uris=[san.value for san in sans if isinstance(san, x509.UniformResourceIdentifier)],
            not_before=_rfc3339(certificate.not_valid_before_utc),
            not_after=_rfc3339(certificate.not_valid_after_utc),
            certificate_sha256=certificates.fingerprint(certificate),
            key_sha256=hashlib.sha256(certificates.public_der(public_key)).hexdigest(),
            reason=reason,
        )
        issued.append(self.log, entry)
        return certificate

    @staticmethod
    def _life(profile: Profile, days: int | None) -> dt.timedelta:
        if days is None:
            days = RULES[profile].days
        if not 1 <= days <= MAXIMUM_DAYS:
            raise RefusedError(
                f"a certificate lives 1 to {MAXIMUM_DAYS} days, not {days}",
                where=f"profile {profile.value}",
                next_step=f"leave days out for the default ({RULES[profile].days})",
            )
        return dt.timedelta(days=days)


def read_certificate(fleet_dir: Path) -> x509.Certificate:
    """The fleet CA's certificate, without its key."""
    path = fleet_dir / "ca" / "ca.crt"
    certificate = _read_certificate_or_none(path)
    if certificate is None:
        raise UsageError(
            "the fleet has no CA yet" if not path.exists() else "the CA's certificate cannot be read",
            where=str(path),
            next_step="hedgerow ca init -i INVENTORY",
        )
    return certificate


def fleet_of(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)


def profile_of(certificate: x509.Certificate) -> str | None:
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return str(units[0].value) if len(units) == 1 else None


def parse_csr(csr_pem: str, *, where: str) -> x509.CertificateSigningRequest:
    """Decode a request and check that its own key signed it."""
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
    except ValueError as error:
        raise UsageError(
            "this is no certificate request", where=where, next_step="make one: openssl req -new -key device.key"
        ) from error
    if not request.is_signature_valid:
        raise RefusedError(
            "the request is not signed by the key it names",
            where=where,
            next_step="make a new request on the device; the key must be the one that stays there",
        )
    return request


def request_serial(request: x509.CertificateSigningRequest) -> str:
    """The CN of a request: the board's serial."""
    names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _public_key(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RefusedError(
            "the request's key is not on the curve P-256",
            where="rule: one kind of key for files, TPMs and the Pi's OTP key",
            next_step="openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        )
    return key


def _read_certificate_or_none(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for one process at a time; the lock ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def _rfc3339(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
