"""Who asks for an SSH certificate: a request signed with the key of the operator's own X.509 certificate.

A request names a challenge of the authority, which counts once and for five minutes (``challenges``), so that a request
that was seen on its way opens nothing later. What is signed is the request's exact text behind a header that no other
signature of the fleet has. Whose certificate counts:

- it verifies against the fleet's trust bundle, for TLS clients, at this time (``openssl verify``: Python's
  ``cryptography`` cannot verify chains with URI constraints);
- it has the profile ``operator``, and no site's CA signed it: those may name devices alone;
- neither it, nor its holder, nor an issuing CA on the way stands in the fleet CA's ledger of revocations.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from hedgerow.errors import MachineError, RefusedError, UsageError
from hedgerow.identity import certificates, revocations
from hedgerow.identity.profiles import Profile

HEADER: Final = b"hedgerow ssh request v1\n"
_SITE_CA: Final = "site-ca"
_TIMEOUT_S = 30


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator asks for. ``seconds`` is the life, None the role's own; ``source`` are addresses or networks."""

    fleet: str
    challenge: str
    role: str
    sites: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    seconds: int | None = None
    public_key: str
    source: tuple[str, ...] = ()
    reason: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``asked`` as the exact text that was signed, the operator's certificate (PEM, its chain behind it), the proof."""

    asked: str
    certificate: str
    signature: str


@dataclass(frozen=True)
class Operator:
    """Whose key signed a request. ``not_after``: nothing that is signed for it may live longer."""

    name: str
    not_after: dt.datetime
    sha256: str


def ask(asked: Asked, *, key: Path, certificate: Path) -> Request:
    """Sign a request with the operator's key, on the machine that has it.

    Raises:
        UsageError: key or certificate cannot be read, or do not belong together.
    """
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        chain = certificate.read_text(encoding="ascii")
        public = x509.load_pem_x509_certificate(chain.encode()).public_key()
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"the operator's certificate or key cannot be used: {error}",
            where=f"{certificate}, {key}",
            next_step="hedgerow ca issue --profile operator --name NAME",
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != public:
        raise UsageError("the operator's key and certificate do not belong together", where=f"{certificate}, {key}")
    text = msgspec.json.encode(asked)
    signature = private.sign(HEADER + text, ec.ECDSA(hashes.SHA256()))
    return Request(asked=text.decode(), certificate=chain, signature=base64.b64encode(signature).decode())


def verify(request: Request, *, fleet: str, ca_folder: Path, now: dt.datetime) -> tuple[Operator, Asked]:
    """Who asks, and for what. The challenge is not looked at here.

    Raises:
        RefusedError: the proof does not hold, or its certificate is none of an operator of this fleet.
        UsageError: it is no request.
    """
    try:
        chain = x509.load_pem_x509_certificates(request.certificate.encode())
        asked = msgspec.json.decode(request.asked, type=Asked)
        signature = base64.b64decode(request.signature, validate=True)
    except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
        raise UsageError(
            f"this is no request for an SSH certificate: {error}", next_step="hedgerow ssh request"
        ) from error
    leaf = chain[0]
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _refused("its certificate has a key of another kind than the fleet's")
    try:
        key.verify(signature, HEADER + request.asked.encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise _refused("it is not signed by the key of the certificate that it brings") from error
    name = _operator(leaf, fleet)
    lines = revocations.read(ca_folder)
    _verify_chain(chain, ca_folder, frozenset(revocations.certificates(lines)), now)
    _require_standing(leaf, name, lines)
    if asked.fleet != fleet:
        raise _refused(f"it is for fleet {asked.fleet}, this authority is of fleet {fleet}")
    return Operator(name, leaf.not_valid_after_utc, certificates.fingerprint(leaf)), asked


def _operator(leaf: x509.Certificate, fleet: str) -> str:
    """The name in a certificate that has the profile ``operator``."""

    def values(name: x509.Name, kind: ObjectIdentifier) -> list[str]:
        return [str(attribute.value) for attribute in name.get_attributes_for_oid(kind)]

    organizations, units, names = (
        values(leaf.subject, kind)
        for kind in (NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME)
    )
    if organizations != [fleet] or units != [Profile.OPERATOR.value] or len(names) != 1:
        raise _refused(f"{leaf.subject.rfc4514_string()} is no operator of fleet {fleet}")
    if _SITE_CA in values(leaf.issuer, NameOID.ORGANIZATIONAL_UNIT_NAME):
        raise _refused("a site's CA signed its certificate, which may name devices alone")
    return names[0]


def _verify_chain(chain: list[x509.Certificate], ca_folder: Path, revoked: frozenset[str], now: dt.datetime) -> None:
    """Have OpenSSL find a way to an anchor; an issuing CA that was revoked is none of its steps, whoever brought it."""
    anchors = ca_folder / "ca.crt"
    if not anchors.is_file():
        raise UsageError("the fleet has no CA yet", where=str(anchors), next_step="hedgerow ca init -i INVENTORY")
    issuing = [
        certificate
        for path in sorted(ca_folder.glob("issuing/*/ca.crt"))
        for certificate in x509.load_pem_x509_certificates(path.read_bytes())
    ]
    steps = [step for step in (*chain[1:], *issuing) if f"{step.serial_number:x}" not in revoked]
    with tempfile.TemporaryDirectory(prefix="hedgerow-proof-") as name:
        leaf, others = Path(name, "leaf.pem"), Path(name, "others.pem")
        leaf.write_text(certificates.pem(chain[0]), encoding="ascii")
        others.write_text("".join(map(certificates.pem, steps)), encoding="ascii")
        command = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-attime", str(int(now.timestamp()))]
        command += ["-no-CApath", "-no-CAstore", "-CAfile", str(anchors)]
        command += ["-untrusted", str(others)] if others.stat().st_size else []
        try:
            done = subprocess.run(
                [*command, str(leaf)], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except (FileNotFoundError, subprocess.TimeoutExpired) as error:
            raise MachineError(f"openssl cannot be run: {error}", next_step="apt-get install openssl") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("error ")]
        raise _refused(f"its certificate does not verify: {' '.join(said) or done.stderr.strip()}")


def _require_standing(leaf: x509.Certificate, name: str, lines: list[revocations.Line]) -> None:
    line = revocations.standing(lines, "client", name)
    if line is not None:
        raise _refused(f"{name} was revoked on {line.time[:10]}: {line.reason}")
    if f"{leaf.serial_number:x}" in set(revocations.certificates(lines)):
        raise _refused(f"the certificate that {name} signed with was revoked")


def _refused(why: str) -> RefusedError:
    return RefusedError(
        f"the request is refused: {why}",
        where="rule: an SSH certificate is signed for an operator of the fleet who proves it",
        next_step="hedgerow ca issue --profile operator --name NAME, and sign the request with that key",
    )
