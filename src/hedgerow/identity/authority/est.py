"""An authority elsewhere that speaks EST (RFC 7030): machines' requests go to its ``simpleenroll``.

What comes back is handed out only if it is what was asked for: this key, exactly these names, this profile's usages,
no longer a life, signed by the CA that ``est.yml`` names. EST has no field for names: its server makes them from the
serial in the request's CN. Ledger and log are the fleet's own, as for every issuer.

- Trust is explicit: the server by ``server_ca``, the answers by ``issuer``; nothing is learnt from ``/cacerts``.
- Asked without the CA's lock, which a slow server would hold; the ledger is looked at again before the answer leaves.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import httpx
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID
from msgspec import Meta, Struct

from hedgerow import configfile
from hedgerow.errors import HedgerowError, NetworkError, RefusedError, UsageError
from hedgerow.identity import certificates, csr, issued
from hedgerow.identity.authority import generations
from hedgerow.identity.authority.admission import Admission, locked, utc_now
from hedgerow.identity.authority.leaf import entry_of, read_first
from hedgerow.identity.authority.rules import admissible, life_of
from hedgerow.identity.issuer import Request
from hedgerow.identity.profiles import DeviceNames, Profile
from hedgerow.passphrases import read_passphrase

FILE: Final = "est.yml"
_MAX_ANSWER = 64 * 1024
_SLACK = dt.timedelta(hours=1)

Text = Annotated[str, Meta(min_length=1, max_length=1024)]


class Settings(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``ca/est.yml``. Paths are relative to it.

    ``url`` is ``https://HOST[:PORT]/.well-known/est[/LABEL]``. We are known by ``certificate`` and ``key``, or by
    ``user`` and ``password_file``.
    """

    url: Annotated[str, Meta(pattern=r"^https://[^?#\s]+[^/?#\s]$", max_length=1024)]
    fleet: Text
    server_ca: Text
    issuer: Text
    certificate: Text | None = None
    key: Text | None = None
    user: Text | None = None
    password_file: Text | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=300)] = 30.0


class EstIssuer(Admission):
    """An ``Issuer`` whose signatures are made elsewhere. ``folder`` is the fleet's ``ca``."""

    def __init__(self, folder: Path, settings: Settings, certificate: x509.Certificate, client: httpx.Client) -> None:
        super().__init__(folder)
        self.certificate = certificate
        self.by = ""
        """Who asks for what is signed, for the log; commands set it."""
        self._settings = settings
        self._client = client

    @classmethod
    def open(cls, folder: Path) -> EstIssuer:
        """Read ``est.yml`` and what it names; the server is not asked yet.

        Raises:
            UsageError: a file is missing or damaged, or everybody may read the password.
        """
        path = folder / FILE
        try:
            settings = configfile.decode(path.read_bytes(), Settings)
        except (FileNotFoundError, msgspec.DecodeError) as error:
            raise UsageError(f"it cannot be read which authority to ask: {error}", where=str(path)) from error
        certificate = read_first(folder / settings.issuer)
        if certificate is None:
            raise UsageError(
                "the certificate of the authority that signs is not there",
                where=str(folder / settings.issuer),
                next_step="ask its operator for it, and compare its fingerprint by another way",
            )
        return cls(folder, settings, certificate, _client(folder, settings))

    @property
    def fleet(self) -> str:
        return self._settings.fleet

    @property
    def anchors(self) -> str:
        return (self.folder / generations.CERTIFICATE).read_text(encoding="ascii")

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
        """As ``Issuer.sign_csr``.

        Raises:
            RefusedError: refused here or there, or the answer is not what was asked for.
            NetworkError: the server was not reached, or is not ready; worth another try.
        """
        (answer,) = self.sign_many([Request(csr_pem, profile, names, days, reason)], now=now)
        if isinstance(answer, HedgerowError):
            raise answer
        return answer

    def sign_many(self, requests: Sequence[Request], *, now: dt.datetime | None = None) -> list[str | HedgerowError]:
        """As ``Issuer.sign_many``; the server is asked one by one."""
        now = now or utc_now()
        return [self._sign(request, now) for request in requests]

    def _sign(self, request: Request, now: dt.datetime) -> str | HedgerowError:
        try:
            key = admissible(request, self.fleet, self.folder)
            life_of(request.profile, request.days)  # refused before anybody is asked
            self._require(key, request.names)
            certificate = self._enroll(request, key)
            self._check(certificate, request, now)
            entry = entry_of(
                certificate,
                request.profile.value,
                request.names.serial,
                self.certificate,
                reason=request.reason,
                now=now,
                by=self.by,
            )
            with locked(self.folder):
                self._require(key, request.names)
                issued.append(self.folder / issued.FILE, [entry])
        except HedgerowError as error:
            return error
        text = certificates.pem(certificate)
        return (
            text if self.certificate.subject == self.certificate.issuer else text + certificates.pem(self.certificate)
        )

    def _require(self, key: ec.EllipticCurvePublicKey, names: DeviceNames) -> None:
        self.require_admitted("board", names.serial)
        self.require_other_key(key, names)

    def _enroll(self, request: Request, key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        parsed = csr.parse_csr(request.csr_pem, where=f"request of {request.names.host}")
        body = base64.encodebytes(parsed.public_bytes(Encoding.DER))
        headers = {"Content-Type": "application/pkcs10", "Content-Transfer-Encoding": "base64"}
        url = f"{self._settings.url}/simpleenroll"
        try:
            with self._client.stream("POST", url, content=body, headers=headers) as response:
                answer = _read(response, url)
        except httpx.HTTPError as error:
            raise NetworkError(
                f"the EST server was not reached: {error or type(error).__name__}",
                where=url,
                next_step="see whether it runs and whether server_ca is its CA; then try again",
            ) from error
        wanted = certificates.public_der(key)
        for found in _certificates(answer, url):
            if certificates.certificate_public_der(found) == wanted:
                return found
        raise RefusedError(
            "the EST server answered with a certificate for another key",
            where=url,
            next_step="look at its log; a server that makes keys itself is not for machines that have their own",
        )

    def _check(self, certificate: x509.Certificate, request: Request, now: dt.datetime) -> None:
        """Raise RefusedError unless the answer is what was asked for, no more and no less."""
        wrong = _difference(certificate, request, self.fleet, self.certificate, now)
        if wrong is not None:
            raise RefusedError(
                f"the EST server answered with a certificate that {wrong}; it was not handed out",
                where=f"{self._settings.url}, request of {request.names.host}",
                next_step="correct the server's template for this profile, and revoke there what it signed",
            )


def _difference(
    certificate: x509.Certificate, request: Request, fleet: str, issuer: x509.Certificate, now: dt.datetime
) -> str | None:
    names, profile = request.names, request.profile
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return "another authority signed"
    if certificate.subject != certificates.subject(fleet, profile, names.serial):
        return f"has the subject {certificate.subject.rfc4514_string()}"
    if certificates.alternative_names(certificate) != set(certificates.device_sans(names, profile)):
        return "has other alternative names"
    if certificate.not_valid_after_utc > now + life_of(profile, request.days) + _SLACK:
        return f"lives until {certificate.not_valid_after_utc:%Y-%m-%d}, longer than was asked"
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        return "is not valid now"
    return _wrong_extension(certificate)


def _wrong_extension(certificate: x509.Certificate) -> str | None:
    try:
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return "is a CA's"
        usages = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound as error:
        return f"lacks an extension: {error}"
    except ValueError as error:
        return f"cannot be read: {error}"
    wanted = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    return None if usages == wanted else "is for other uses than client and server"


def _client(folder: Path, settings: Settings) -> httpx.Client:
    try:
        context = ssl.create_default_context(cafile=folder / settings.server_ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate is not None:
            key = None if settings.key is None else folder / settings.key
            context.load_cert_chain(folder / settings.certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"what the EST server is known by, or we are, cannot be used: {error.strerror or error}",
            where=f"{folder / FILE}: server_ca, certificate, key",
            next_step="correct the paths; they are relative to this file",
        ) from error
    auth = None
    if settings.user is not None and settings.password_file is not None:
        auth = httpx.BasicAuth(settings.user, read_passphrase(folder / settings.password_file))
    # No proxy, no .netrc: where a fleet's requests go stands in one file.
    return httpx.Client(verify=context, auth=auth, timeout=settings.timeout_s, trust_env=False, follow_redirects=False)


def _read(response: httpx.Response, url: str) -> bytes:
    """The answer's body, if it is one."""
    data = b""
    for piece in response.iter_bytes():
        data += piece
        if len(data) > _MAX_ANSWER:
            raise RefusedError(f"the EST server's answer is longer than {_MAX_ANSWER} bytes", where=url)
    status = response.status_code
    if status == httpx.codes.OK:
        return data
    said = data.decode("utf-8", "replace").strip()[:200]
    if status == httpx.codes.ACCEPTED or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        wait = response.headers.get("Retry-After")
        raise NetworkError(
            f"the EST server is not ready (status {status}){f': {said}' if said else ''}",
            where=url,
            next_step=f"try again in {wait} s" if wait else "try again later, or ask its operator",
        )
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise UsageError(
            f"the EST server does not take us (status {status}){f': {said}' if said else ''}",
            where=url,
            next_step=f"look at certificate and key, or user and password_file, in {FILE}",
        )
    raise RefusedError(
        f"the EST server refuses the request (status {status}){f': {said}' if said else ''}",
        where=url,
        next_step="ask its operator which template takes this request",
    )


def _certificates(answer: bytes, url: str) -> list[x509.Certificate]:
    try:
        return pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer, validate=False))
    except (ValueError, binascii.Error) as error:
        raise RefusedError(
            f"the EST server's answer holds no certificates: {error}",
            where=url,
            next_step="see that url ends with /.well-known/est, or its label",
        ) from error
