"""Keeping the revocation lists of every CA current, and the bundle of them that gateways serve.

Each CA's list is ``ca.crl`` beside its key; ``ca/crl.pem`` is the bundle. A CA whose key is elsewhere (the root's
medium, a gateway) keeps the list that is there, and ``problem`` says so once that is not enough.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow import atomic
from hedgerow.errors import RefusedError
from hedgerow.identity import certificates, issued, revocations
from hedgerow.identity.authority import build, crl, generations, issuing, keys, making, root
from hedgerow.identity.authority.admission import is_of, locked, utc_now
from hedgerow.identity.authority.issuing import IssuingCA
from hedgerow.identity.authority.leaf import read_first
from hedgerow.passphrases import Passphrases

LIST: Final = "ca.crl"
BUNDLE: Final = "crl.pem"


@dataclass(frozen=True)
class Authority:
    """A CA that peers trust: its folder, its certificate, and what people call it."""

    name: str
    home: Path
    certificate: x509.Certificate

    @property
    def is_root(self) -> bool:
        return build.is_root(self.certificate)


@dataclass(frozen=True)
class Status:
    """A CA's list. ``next_update`` None: there is none. ``problem`` says why it is not what it should be."""

    authority: Authority
    changed: bool
    found: x509.CertificateRevocationList | None
    problem: str | None

    @property
    def next_update(self) -> dt.datetime | None:
        return None if self.found is None else self.found.next_update_utc


def authorities(folder: Path) -> list[Authority]:
    """Every CA of the generations that peers trust; ``folder`` is the fleet's ``ca``."""
    everyone = []
    for each in generations.trusted(folder):
        home = generations.home(folder, each.number)
        certificate = generations.certificate(folder, each.number)
        everyone.append(Authority(root.NAME if build.is_root(certificate) else root.SINGLE, home, certificate))
        for below in making.all_homes(home):
            found = read_first(below / issuing.CERTIFICATE)
            if found is not None:
                everyone.append(Authority(issuing.name_of(found), below, found))
    return everyone


def fingerprint(authority: Authority) -> str:
    """SHA-256 (hex) of the CA's certificate."""
    return certificates.fingerprint(authority.certificate)


def refresh(
    folder: Path, passphrases: Passphrases, *, force: bool = False, now: dt.datetime | None = None
) -> list[Status]:
    """Bring every list up to date whose key is here, then write the bundle.

    A list is written anew when what it says changed, half of its life is over, or ``force``.

    Raises:
        UsageError: a passphrase is missing or wrong.
    """
    now = now or utc_now()
    with locked(folder):
        lines, log = revocations.read(folder), list(issued.read_fleet(folder))
        everyone = authorities(folder)
        first = build.authority_key(generations.certificate(folder, 1))
        done = []
        for authority in everyone:
            own = build.authority_key(authority.certificate)
            entries = entries_of(lines, (line for line in log if (line.issuer_key or first) == own), now=now)
            done.append(_refresh(authority, entries, passphrases, force=force, now=now))
        text = crl.bundle((status.authority.certificate, status.found) for status in done if status.found is not None)
        path = folder / BUNDLE
        if not path.exists() or path.read_text(encoding="ascii") != text:
            atomic.write_text(path, text)
    return done


def refresh_own(
    ca: IssuingCA, *, force: bool = False, now: dt.datetime | None = None
) -> x509.CertificateRevocationList:
    """Bring the list of an opened issuing CA up to date, ``ca.crl`` in its state's folder. For a gateway."""
    now = now or utc_now()
    with locked(ca.folder):
        entries = entries_of(revocations.read(ca.folder), issued.read(ca.log), now=now)
        last = _read(ca.folder / LIST, ca.certificate)
        if last is not None and not force and crl.current(last, entries, now=now):
            return last
        return _write(ca.folder / LIST, ca.certificate, ca.key, entries, last=last, now=now)


def entries_of(lines: Iterable[revocations.Line], log: Iterable[issued.Issued], *, now: dt.datetime) -> list[crl.Entry]:
    """Which certificates of ``log`` are revoked: named in the ledger, or their holder's from before he was revoked.

    The second counts for what a gateway renewed and the controller had not seen yet. All of a holder's are revoked
    while the last line says so, whenever they were issued.
    """
    lines = list(lines)
    named: dict[str, str] = {}
    for line in lines:
        if isinstance(line, revocations.Revoked):
            named.update((serial, line.time) for serial in line.certificates if serial not in named)
    found = []
    for entry in log:
        if dt.datetime.fromisoformat(entry.not_after) + crl.KEEP < now:
            continue
        at = named.get(entry.serial_number) or _revoked_at(lines, entry)
        if at is not None:
            found.append(crl.Entry(entry.serial_number, dt.datetime.fromisoformat(at)))
    return found


def _revoked_at(lines: list[revocations.Line], entry: issued.Issued) -> str | None:
    own = [line for line in lines if is_of(entry, line.kind, line.holder)]
    revoked = [line for line in own if isinstance(line, revocations.Revoked)]
    if not revoked:
        return None
    if own[-1] is revoked[-1]:
        return revoked[-1].time
    # Admitted again: what was issued up to the last revocation stays revoked. Times are RFC 3339 in UTC: they compare.
    return revoked[-1].time if entry.time <= revoked[-1].time else None


def _refresh(
    authority: Authority, entries: list[crl.Entry], passphrases: Passphrases, *, force: bool, now: dt.datetime
) -> Status:
    path = authority.home / LIST
    last = _read(path, authority.certificate)
    if last is not None and not force and crl.current(last, entries, now=now):
        return Status(authority, changed=False, found=last, problem=None)
    if not keys.is_here(authority.home):
        return Status(authority, changed=False, found=last, problem=_problem(last, entries, now))
    key = keys.load(authority.home, authority.name, passphrases)
    keys.require_pair(key, certificates.certificate_public_der(authority.certificate), authority.home)
    fresh = _write(path, authority.certificate, key, entries, last=last, now=now)
    return Status(authority, changed=True, found=fresh, problem=None)


def _problem(last: x509.CertificateRevocationList | None, entries: list[crl.Entry], now: dt.datetime) -> str | None:
    if last is None:
        return "its key is not here, and there is no list yet"
    if not {entry.serial_number for entry in entries} <= crl.serials(last):
        return "its key is not here, and its list lacks what was revoked since"
    if last.next_update_utc is None or last.next_update_utc <= now:
        return "its key is not here, and its list has ended"
    return None


def _write(
    path: Path,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    entries: list[crl.Entry],
    *,
    last: x509.CertificateRevocationList | None,
    now: dt.datetime,
) -> x509.CertificateRevocationList:
    life = crl.ROOT_LIFE if build.is_root(certificate) else crl.ISSUING_LIFE
    fresh = crl.build_list(certificate, key, entries, last=last, now=now, life=life)
    atomic.write_text(path, crl.pem(fresh))
    return fresh


def _read(path: Path, issuer: x509.Certificate) -> x509.CertificateRevocationList | None:
    """The list at ``path``; None if there is none that can be read.

    Raises:
        RefusedError: another CA signed it.
    """
    try:
        found = x509.load_pem_x509_crl(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not crl.is_of(found, issuer):
        raise RefusedError(
            "this revocation list is not of the CA that it lies beside",
            where=str(path),
            next_step="remove it, or fetch it again from the gateway, then: hedgerow ca crl",
        )
    return found
