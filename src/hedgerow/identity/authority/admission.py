"""Who may get a certificate, whichever CA would sign it: the ledger of revocations over all issuance logs.

Needs no key: a board is revoked while the CA's key is offline.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow.errors import RefusedError
from hedgerow.identity import certificates, issued, revocations
from hedgerow.identity.profiles import CLIENT_PROFILES, DEVICE_PROFILES, DeviceNames

_PROFILES = {
    "board": {profile.value for profile in DEVICE_PROFILES},
    "client": {profile.value for profile in CLIENT_PROFILES},
}


class Admission:
    """The ledger in ``folder``: the fleet's ``ca``, or the folder of a gateway that issues for its site."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def revoke(
        self, kind: revocations.Kind, holder: str, *, reason: str, by: str, now: dt.datetime | None = None
    ) -> tuple[revocations.Revoked, bool]:
        """Give ``holder`` no certificate any more, and revoke those that have life left.

        Returns the line that stands, and whether it was written now: a second call changes nothing.
        """
        now = now or utc_now()
        with locked(self.folder):
            lines = revocations.read(self.folder)
            gone = set(revocations.certificates(lines))
            alive = [
                entry.serial_number
                for entry in issued.read_fleet(self.folder)
                if is_of(entry, kind, holder)
                and entry.serial_number not in gone
                and dt.datetime.fromisoformat(entry.not_after) > now
            ]
            present = revocations.standing(lines, kind, holder)
            if present is not None and not alive:
                return present, False
            line = revocations.Revoked(
                time=rfc3339(now), kind=kind, holder=holder, reason=reason, by=by, certificates=alive
            )
            revocations.append(self.folder, line)
        return line, True

    def readmit(
        self, kind: revocations.Kind, holder: str, *, reason: str, by: str, now: dt.datetime | None = None
    ) -> bool:
        """Let ``holder`` have a certificate again, for another key; False if nothing stood against it."""
        with locked(self.folder):
            if revocations.standing(revocations.read(self.folder), kind, holder) is None:
                return False
            revocations.append(
                self.folder,
                revocations.Readmitted(time=rfc3339(now or utc_now()), kind=kind, holder=holder, reason=reason, by=by),
            )
        return True

    def require_admitted(self, kind: revocations.Kind, holder: str) -> None:
        """Raise RefusedError if ``holder`` stands in the ledger of revocations."""
        self.refuse_revoked(revocations.read(self.folder), kind, holder)

    def revoked_certificates(self) -> frozenset[str]:
        """Serial numbers (hex) of every certificate that was revoked."""
        return frozenset(revocations.certificates(revocations.read(self.folder)))

    def revoked_keys(self) -> frozenset[str]:
        """SHA-256 (hex) of every key whose certificate was revoked: who else has it may have it still."""
        gone = self.revoked_certificates()
        if not gone:
            return frozenset()
        return frozenset(entry.key_sha256 for entry in issued.read_fleet(self.folder) if entry.serial_number in gone)

    def require_other_key(
        self, key: ec.EllipticCurvePublicKey, names: DeviceNames, gone: frozenset[str] | None = None
    ) -> None:
        """Raise RefusedError if ``key`` was revoked with its certificate; ``gone`` is ``revoked_keys`` where known."""
        digest = hashlib.sha256(certificates.public_der(key)).hexdigest()
        if digest in (self.revoked_keys() if gone is None else gone):
            raise RefusedError(
                f"{names.host} asks for a certificate for a key that was revoked",
                where="rule: a revoked key is never certified again",
                next_step=f"ansible-playbook playbooks/rotate_identity.yml --limit {names.host} "
                "-e device_identity_new_key=true",
            )

    def refuse_revoked(self, lines: list[revocations.Line], kind: revocations.Kind, holder: str) -> None:
        """``require_admitted`` by ``lines`` of the ledger that were read already."""
        line = revocations.standing(lines, kind, holder)
        if line is not None:
            raise RefusedError(
                f"{holder} was revoked on {line.time[:10]}: {line.reason}",
                where=f"{self.folder / revocations.FILE}; rule: who was revoked gets no certificate",
                next_step=f"if it may come back: hedgerow ca readmit {holder} --reason WHY",
            )


def is_of(entry: issued.Issued, kind: revocations.Kind, holder: str) -> bool:
    """Whether a certificate was issued to ``holder``."""
    if kind == "authority":
        return entry.profile == issued.ISSUING_CA and entry.key_id == holder
    return entry.name == holder and entry.profile in _PROFILES[kind]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for one process at a time; the lock ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def rfc3339(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
