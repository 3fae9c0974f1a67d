"""Where a device's TLS key is: in a file, or in a TPM 2.0 of which the file holds a sealed blob.

Invariants:

- What kind a key is stands in its file's first line; nobody has to remember it.
- No byte of a private key passes through this process: openssl makes the file, reads it and signs.
- A key is used through its own openssl options (``options``), whoever uses it: requests, signatures, handshakes.

``tpm`` needs Debian's ``tpm2-openssl`` and a resource manager, which the kernel's ``/dev/tpmrm0`` is: a TLS handshake
holds more objects at a time than a bare TPM has places for. The key is a child of the owner hierarchy's primary key:
the blob opens in this TPM alone, and a copied card is worth nothing without its board.
"""

from __future__ import annotations

import base64
import os
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

from hedgerow.identity.keys_device.tool import EnrolError, MissingProgramError, openssl

CURVE = "P-256"
TPM_DEVICE = Path("/dev/tpmrm0")
# Another way to a TPM than the kernel's (tpm2-openssl's own variable): a resource manager on D-Bus, a software TPM.
TPM_VARIABLE = "TPM2OPENSSL_TCTI"


@dataclass(frozen=True)
class Kind:
    """How keys of a kind are made and used. ``mark`` is what the first line of such a file has."""

    name: str
    mark: str
    making: tuple[str, ...]
    options: tuple[str, ...]


FILE = Kind("file", " PRIVATE KEY-----", making=("-pkeyopt", f"ec_paramgen_curve:{CURVE}"), options=())
# Digests and ciphers of TLS stay outside of the TPM: it has three places for objects and no hurry.
_PROVIDERS = ("-provider", "tpm2", "-provider", "default")
TPM = Kind(
    "tpm",
    "TSS2 PRIVATE KEY-----",
    making=(*_PROVIDERS, "-pkeyopt", f"group:{CURVE}"),
    options=(*_PROVIDERS, "-propquery", "?provider=tpm2,tpm2.digest!=yes,tpm2.cipher!=yes"),
)
KINDS = {kind.name: kind for kind in (FILE, TPM)}


def named(name: str) -> Kind:
    """The kind of that name.

    Raises:
        EnrolError: there is none.
    """
    try:
        return KINDS[name]
    except KeyError:
        raise EnrolError(
            f"{name!r} is no kind of key", where="device_identity_key", next_step=f"one of: {', '.join(KINDS)}, otp"
        ) from None


def of(path: Path) -> Kind:
    """What kind of key ``path`` holds; one that says nothing readable is taken for a plain file."""
    try:
        with path.open("rb") as file:
            first = file.readline(128)
    except OSError:
        return FILE
    return TPM if TPM.mark.encode() in first else FILE


def make(kind: Kind, path: Path) -> None:
    """Have a new key made into ``path``.

    Raises:
        EnrolError: openssl cannot; nothing usable is left behind.
    """
    if kind is TPM:
        require_tpm()
    path.unlink(missing_ok=True)
    try:
        # openssl writes the file itself, under our umask: the key passes through no pipe and no argument.
        openssl("genpkey", "-algorithm", "EC", *kind.making, "-out", str(path))
    except EnrolError as fault:
        raise _explained(kind, fault) from fault


def public_key(path: Path) -> str | None:
    """SubjectPublicKeyInfo (PEM) of a key file; None if it is damaged, or sealed by another TPM."""
    try:
        # An empty passphrase, so that an encrypted key is an error and no prompt.
        return openssl("pkey", *of(path).options, "-in", str(path), "-pubout", "-passin", "pass:")
    except MissingProgramError:
        raise
    except EnrolError:
        return None


def request(path: Path, serial: str, challenge: str | None = None) -> str:
    """A certificate request (PEM) for the key in ``path``; ``challenge`` becomes its challenge password (PKCS #9).

    The challenge goes through standard input: a process list shows it to nobody.
    """
    lines = ["[req]", "prompt = no", "distinguished_name = name"]
    lines += [] if challenge is None else ["attributes = more"]
    lines += ["[name]", f"CN = {serial}"]
    lines += [] if challenge is None else ["[more]", f"challengePassword = {challenge}"]
    kind = of(path)
    try:
        made = openssl(
            *("req", *kind.options, "-new", "-sha256", "-config", "/dev/stdin", "-key", str(path)),
            stdin="\n".join(lines) + "\n",
        )
    except EnrolError as fault:
        raise _explained(kind, fault) from fault
    return without_null(made)


# AlgorithmIdentifier of ecdsa-with-SHA256: as RFC 5758 wants it, and with parameters of NULL, as tpm2-openssl 1.1 does.
_ECDSA = bytes.fromhex("300a06082a8648ce3d040302")
_ECDSA_NULL = bytes.fromhex("300c06082a8648ce3d0403020500")


def without_null(csr_pem: str) -> str:
    """The same request, its algorithm named as RFC 5758 wants it, where strict readers would refuse it.

    The name stands outside of what is signed, so the signature holds on.
    """
    lines = csr_pem.split("-----")
    der = base64.b64decode(lines[2])
    _, body = _element(der)
    signed = body[: len(body) - len(_element(body)[0])]
    rest = body[len(signed) :]
    if not rest.startswith(_ECDSA_NULL):
        return csr_pem
    content = signed + _ECDSA + rest[len(_ECDSA_NULL) :]
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    header = b"\x30" + (size if len(content) < 0x80 else bytes([0x80 | len(size)]) + size)  # noqa: PLR2004 - DER
    name = lines[1].removeprefix("BEGIN ")
    text = "\n".join(textwrap.wrap(base64.b64encode(header + content).decode(), 64))
    return f"-----BEGIN {name}-----\n{text}\n-----END {name}-----\n"


def _element(der: bytes) -> tuple[bytes, bytes]:
    """What follows the first element of DER, and its content."""
    size, at = der[1], 2
    if size & 0x80:
        at += size & 0x7F
        size = int.from_bytes(der[2:at], "big")
    return der[at + size :], der[at : at + size]


def sign(path: Path, message: bytes) -> str:
    """ECDSA with SHA-256 over ``message`` by the key in ``path``: DER, in Base64."""
    kind = of(path)
    with tempfile.TemporaryDirectory(prefix="hedgerow-sign-") as folder:
        text, signature = Path(folder, "message"), Path(folder, "signature")
        text.write_bytes(message)
        try:
            openssl(
                *("pkeyutl", *kind.options, "-sign", "-rawin", "-digest", "sha256"),
                *("-inkey", str(path), "-in", str(text), "-out", str(signature)),
            )
        except EnrolError as fault:
            raise _explained(kind, fault) from fault
        return base64.b64encode(signature.read_bytes()).decode()


def require_tpm() -> None:
    """Raise EnrolError where there is no TPM to make a key in."""
    if os.environ.get(TPM_VARIABLE) or TPM_DEVICE.exists():
        return
    raise EnrolError(
        "this board has no TPM 2.0, or its driver is not loaded",
        where=str(TPM_DEVICE),
        next_step="look: ls /dev/tpm*; a TPM on the header needs its overlay in config.txt (dtoverlay=tpm-slb9670)",
    )


def _explained(kind: Kind, fault: EnrolError) -> EnrolError:
    if kind is not TPM or isinstance(fault, MissingProgramError):
        return fault
    if "provider" in fault.what:
        return EnrolError(
            f"openssl cannot use the TPM: {fault.what}",
            where=str(TPM_DEVICE),
            next_step="apt-get install tpm2-openssl; then look whether the TPM answers: ls -l /dev/tpmrm0",
        )
    return EnrolError(
        f"the TPM did not do it: {fault.what}", where=str(TPM_DEVICE), next_step="journalctl -k -g tpm; then try again"
    )
