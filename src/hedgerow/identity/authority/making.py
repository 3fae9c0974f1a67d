"""Making issuing CAs below a root: the key here, or a request from where the key was made (a gateway).

Key first, certificate next, the link ``issuing/<name>`` last: what an interrupted run leaves signs nothing, and the
next run goes on or starts over. A CA that was replaced keeps its folder: its list is needed until what it issued has
ended.
"""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow import atomic
from hedgerow.errors import RefusedError
from hedgerow.identity import certificates, csr, revocations
from hedgerow.identity.authority import build, issuing, keys
from hedgerow.identity.authority.admission import Admission, locked, utc_now
from hedgerow.identity.authority.leaf import read_first
from hedgerow.identity.authority.root import HERE, KeyPlace, RootCA
from hedgerow.passphrases import Passphrases

REQUEST: Final = "ca.csr"


@dataclass(frozen=True)
class Made:
    """An issuing CA in use; ``reason`` says why it was signed now, None if it was still good."""

    home: Path
    certificate: x509.Certificate
    reason: str | None

    @property
    def changed(self) -> bool:
        return self.reason is not None


def add(
    root: RootCA,
    name: str,
    passphrases: Passphrases | None,
    *,
    by: str,
    place: KeyPlace = HERE,
    days: int = build.ISSUING_DAYS,
    replace: bool = False,
    now: dt.datetime | None = None,
) -> Made:
    """Make the issuing CA ``name`` (a site, or ``fleet``) with a key here, unless there is one.

    ``replace`` makes another one that takes its place. ``passphrases`` None leaves the key unencrypted.

    Raises:
        UsageError: no such name, the passphrase is too short, or the key's place is none.
        RefusedError: it would outlive the root.
    """
    now = now or utc_now()
    with locked(root.folder):
        link = root.home / issuing.FOLDER / name
        present = read_first(link / issuing.CERTIFICATE)
        reason = _reason_to_make(root, present, name, replace=replace)
        if present is not None and reason is None:
            return Made(link.resolve(), present, None)
        staged = link.with_name(f".new-{name}")
        key = keys.make(staged, name, passphrases, uri=place.uri, module=place.pkcs11_module)
        certificate = _sign(root, name, key.public_key(), days=days, by=by, reason=str(reason), now=now)
        atomic.write_text(staged / issuing.CERTIFICATE, certificates.pem(certificate))
        home = _home(link, certificate)
        if home.exists():  # the same token key again: its folder is there already
            shutil.rmtree(staged)
            atomic.write_text(home / issuing.CERTIFICATE, certificates.pem(certificate))
        else:
            staged.rename(home)
        _link(link, home)
    return Made(home, certificate, reason)


def sign_request(
    root: RootCA,
    request_pem: str,
    name: str,
    *,
    by: str,
    where: str,
    days: int = build.ISSUING_DAYS,
    now: dt.datetime | None = None,
) -> Made:
    """Certify an issuing CA whose key was made elsewhere; of the request only its key is taken.

    The same key again gets another certificate once less than a third of the present one's life is left.

    Raises:
        UsageError: it is no request.
        RefusedError: its key is not on P-256, was revoked, or is that of the root or of another site's CA.
    """
    now = now or utc_now()
    public = csr.public_key(csr.parse_csr(request_pem, where=where))
    with locked(root.folder):
        link = root.home / issuing.FOLDER / name
        Admission(root.folder).require_admitted("authority", build.key_id(public))
        _require_unused(root, public, name)
        home = link.with_name(f"{name}-{build.short(build.key_id(public))}")
        present = read_first(home / issuing.CERTIFICATE)
        reason = certificates.due(present, now) if present is not None else f"{name} asked with a new key"
        if present is not None and reason is None:
            _link(link, home)
            return Made(home, present, None)
        certificate = _sign(root, name, public, days=days, by=by, reason=str(reason), now=now)
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic.write_text(home / issuing.CERTIFICATE, certificates.pem(certificate))
        _link(link, home)
    return Made(home, certificate, reason)


def request(home: Path, name: str, passphrases: Passphrases | None) -> str:
    """The request (PEM) of an issuing CA whose key is to be in ``home``; the key is made there unless it is.

    For a gateway; ``passphrases`` None leaves the key unencrypted, where systemd or the disk protects it.
    """
    key = keys.make(home, name, passphrases)
    return certificates.request(key, name)


def kept_request(home: Path, name: str) -> Path:
    """The same in a file beside the key, made once for a key: ``home/ca.csr``."""
    text = request(home, name, None)
    path = home / REQUEST
    wanted = csr.public_key(csr.parse_csr(text, where=str(path)))
    present = None
    if path.exists():
        present = csr.public_key(csr.parse_csr(path.read_text(encoding="ascii"), where=str(path)))
    if present is None or certificates.public_der(present) != certificates.public_der(wanted):
        atomic.write_text(path, text, mode=0o600)
    return path


def all_homes(home: Path) -> list[Path]:
    """Folders of every issuing CA of a generation: those in use, replaced, and with keys elsewhere."""
    folder = home / issuing.FOLDER
    return sorted(
        path.parent
        for path in folder.glob(f"*-*/{issuing.CERTIFICATE}")
        if not path.parent.is_symlink() and not path.parent.name.startswith(".")
    )


def in_use(home: Path) -> dict[str, Path]:
    """Name → folder of the issuing CAs of a generation that links name."""
    folder = home / issuing.FOLDER
    links = sorted(folder.iterdir()) if folder.is_dir() else []
    return {link.name: link.resolve() for link in links if link.is_symlink() and link.exists()}


def _reason_to_make(root: RootCA, present: x509.Certificate | None, name: str, *, replace: bool) -> str | None:
    if present is None:
        return f"there was no issuing CA {name} yet"
    line = revocations.standing(revocations.read(root.folder), "authority", build.authority_key(present))
    if line is not None:
        return f"the one before was revoked on {line.time[:10]}"
    return "another was asked for" if replace else None


def _sign(
    root: RootCA, name: str, public: ec.EllipticCurvePublicKey, *, days: int, by: str, reason: str, now: dt.datetime
) -> x509.Certificate:
    site = None if name == issuing.FLEET else name
    return root.sign_issuing(public, site=site, days=days, by=by, reason=reason, now=now)


def _require_unused(root: RootCA, public: ec.EllipticCurvePublicKey, name: str) -> None:
    """One key, one CA: a request may not lift the key of another site, or the root's own, into this one's place."""
    wanted = build.short(build.key_id(public))
    others = [
        path for path in all_homes(root.home) if path.name.endswith(f"-{wanted}") and path.name != f"{name}-{wanted}"
    ]
    if wanted == build.short(build.authority_key(root.certificate)) or others:
        raise RefusedError(
            "the request's key is already that of another CA",
            where=", ".join(str(path) for path in others) or str(root.home),
            next_step="make a new key where this CA is to sign",
        )


def _home(link: Path, certificate: x509.Certificate) -> Path:
    return link.with_name(f"{link.name}-{build.short(build.authority_key(certificate))}")


def _link(link: Path, home: Path) -> None:
    if not link.is_symlink() or link.readlink() != Path(home.name):
        atomic.symlink(home.name, link)
