"""Build and read X.509 certificates. Pure: no files, and the time is an argument.

Every certificate passes OpenSSL's strict mode (``X509_V_FLAG_X509_STRICT``), which
Python 3.13 switches on by default: key identifiers present, constraints critical.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hedgerow.identity.profiles import RULES, DeviceNames, Profile, profile_uri

CA_DAYS = 3650
# A Pi has no battery-backed clock as it ships: until its first time sync it runs behind ours.
BACKDATE = dt.timedelta(hours=1)

_NO_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)
CA_USAGE = _NO_USAGE | {"key_cert_sign": True, "crl_sign": True}


def new_key() -> ec.EllipticCurvePrivateKey:
    """P-256: what TPMs, the Pi's OTP key and every TLS stack have in common."""
    return ec.generate_private_key(ec.SECP256R1())


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo: equal bytes mean the same key."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def certificate_public_der(certificate: x509.Certificate) -> bytes:
    """``public_der`` of the key that a certificate is for."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate in hex, as ``openssl x509 -fingerprint -sha256`` shows it without colons."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def device_sans(names: DeviceNames, profile: Profile) -> tuple[x509.GeneralName, ...]:
    """The alternative names of a device or gateway."""
    return (
        x509.DNSName(names.dns),
        x509.UniformResourceIdentifier(names.uri),
        x509.UniformResourceIdentifier(profile_uri(names.fleet, profile)),
    )


def client_sans(fleet: str, profile: Profile) -> tuple[x509.GeneralName, ...]:
    """The alternative names of a client."""
    return (x509.UniformResourceIdentifier(profile_uri(fleet, profile)),)


def subject(fleet: str, profile: Profile, common_name: str) -> x509.Name:
    """``CN=<name>,OU=<profile>,O=<fleet>`` as RFC 4514 writes it, which is what nginx shows."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, profile.value),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def build_ca(
    key: ec.EllipticCurvePrivateKey, fleet: str, *, now: dt.datetime, number: int = 1, days: int = CA_DAYS
) -> x509.Certificate:
    """A self-signed CA that can name nothing outside its fleet; ``number`` counts those that took each other's place.

    Critical name constraints permit the DNS domain ``<fleet>`` and URIs whose host is ``<fleet>``. The DNS
    constraint has no leading dot: RFC 5280 (4.2.1.10) gives it that form, and strict verifiers refuse the other.
    """
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{fleet} fleet CA" + (f" {number}" if number > 1 else "")),
        ]
    )
    constraints = x509.NameConstraints(
        permitted_subtrees=[x509.DNSName(fleet), x509.UniformResourceIdentifier(fleet)], excluded_subtrees=None
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**CA_USAGE), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(constraints, critical=True)
        .sign(key, hashes.SHA256())
    )


def build_leaf(
    *,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    public_key: ec.EllipticCurvePublicKey,
    profile: Profile,
    name: x509.Name,
    sans: Iterable[x509.GeneralName],
    not_before: dt.datetime,
    not_after: dt.datetime,
) -> x509.Certificate:
    """A certificate of ``profile`` for ``public_key``; no name in it comes from the requester."""
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if RULES[profile].server:
        usages.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(ca.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**_NO_USAGE | {"digital_signature": True}), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName(sans), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """A certificate request (PEM) that proves possession of ``key``; who signs it computes the names."""
    subject_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject_name).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def reason_to_issue(
    certificate: x509.Certificate | None,
    public_key: bytes | None,
    *,
    ca: x509.Certificate,
    name: x509.Name,
    sans: Iterable[x509.GeneralName],
    now: dt.datetime,
) -> str | None:
    """Say why a new certificate is due, or return None: the present one is right and has life left.

    ``public_key`` is the holder's SubjectPublicKeyInfo (DER), None if there is no usable key.
    """
    if certificate is None or public_key is None:
        return f"there is no {'key' if public_key is None else 'certificate'} yet"
    if not issued_by(certificate, ca):
        return "another authority issued the certificate"
    if certificate_public_der(certificate) != public_key:
        return "the certificate belongs to another key"
    if certificate.subject != name or alternative_names(certificate) != set(sans):
        return "the names or the profile changed"
    return due(certificate, now)


def due(certificate: x509.Certificate, now: dt.datetime) -> str | None:
    """Why a certificate is to be renewed by its age alone; None while it has a third of its life left."""
    end = certificate.not_valid_after_utc
    if now < certificate.not_valid_before_utc:
        return "the certificate is not valid yet"
    if now >= end:
        return f"the certificate expired on {end:%Y-%m-%d %H:%M} UTC"
    if end - now < (end - certificate.not_valid_before_utc) / 3:
        return f"less than a third of its life is left (until {end:%Y-%m-%d %H:%M} UTC)"
    return None


def alternative_names(certificate: x509.Certificate) -> set[x509.GeneralName]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return set()


def issued_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether ``ca`` itself signed the certificate."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def permitted(ca: x509.Certificate) -> list[str]:
    """What a CA may name, as ``DNS:…`` and ``URI:…``."""
    subtrees = ca.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or ()
    kinds = {x509.DNSName: "DNS", x509.UniformResourceIdentifier: "URI"}
    return [f"{kinds.get(type(name), type(name).__name__)}:{name.value}" for name in subtrees]
