"""Build the certificates of a root and of the issuing CAs below it. Pure: no files, and the time is an argument.

- Every subject says what its holder is: ``O=<fleet>, OU=root-ca|fleet-ca|site-ca, CN=<fleet or site>``, and a serial
  number made from its key, so that two CAs of one name (rotation) are never taken for each other.
- A root signs CAs alone (path length 1), an issuing CA end entities alone (path length 0).
- Critical name constraints: the fleet's for root and fleet CA, ``<site>.<fleet>`` for a site's. Constraints cannot say
  which *profiles* a CA may certify (that would be a directory name, which Go's verifier refuses);
  ``profiles.peer`` reads it from the issuer's subject.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hedgerow.errors import RefusedError
from hedgerow.identity import certificates
from hedgerow.identity.profiles import FLEET_CA, SITE_CA, check_label

ROOT_CA: Final = "root-ca"
ROOT_DAYS: Final = 7300
ISSUING_DAYS: Final = 1095
_KEY_ID_DIGITS = 16


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """The subject key identifier (hex): SHA-1 of the public point, as RFC 5280 has it."""
    return x509.SubjectKeyIdentifier.from_public_key(key).digest.hex()


def authority_key(certificate: x509.Certificate) -> str:
    """The subject key identifier (hex) of a CA; made from its key where its certificate has none."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        found = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    return found.digest.hex()


def short(identifier: str) -> str:
    """The part of a key identifier that names folders and stands in subjects."""
    return identifier[:_KEY_ID_DIGITS]


def ca_subject(fleet: str, unit: str, name: str, key: ec.EllipticCurvePublicKey) -> x509.Name:
    """What a CA of two tiers is called."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, short(key_id(key))),
        ]
    )


def build_root(
    key: ec.EllipticCurvePrivateKey, fleet: str, *, now: dt.datetime, days: int = ROOT_DAYS
) -> x509.Certificate:
    """A self-signed root that signs issuing CAs of its fleet and nothing else."""
    check_label("fleet", fleet)
    name = ca_subject(fleet, ROOT_CA, fleet, key.public_key())
    return _authority(
        name=name,
        issuer=name,
        public=key.public_key(),
        signer=key,
        path_length=1,
        domain=fleet,
        fleet=fleet,
        now=now,
        until=now + dt.timedelta(days=days),
    )


def build_issuing(
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    public: ec.EllipticCurvePublicKey,
    *,
    site: str | None,
    now: dt.datetime,
    days: int = ISSUING_DAYS,
) -> x509.Certificate:
    """An issuing CA for ``public``: of one site, or (None) of the whole fleet.

    Raises:
        UsageError: the site's name is none.
        RefusedError: it would outlive the root.
    """
    fleet = str(root.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)
    if site is not None:
        check_label("site", site)
    until = now + dt.timedelta(days=days)
    if until > root.not_valid_after_utc:
        raise RefusedError(
            f"the root ends on {root.not_valid_after_utc:%Y-%m-%d}, before the issuing CA would",
            where="rule: nothing outlives what signed it",
            next_step="ask for fewer --days, or replace the root: hedgerow ca rotate begin",
        )
    return _authority(
        name=ca_subject(fleet, FLEET_CA if site is None else SITE_CA, site or fleet, public),
        issuer=root.subject,
        public=public,
        signer=root_key,
        path_length=0,
        domain=fleet if site is None else f"{site}.{fleet}",
        fleet=fleet,
        now=now,
        until=until,
    )


def site_of(certificate: x509.Certificate) -> str | None:
    """The site of an issuing CA; None for one of the whole fleet."""
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    if [unit.value for unit in units] != [SITE_CA]:
        return None
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def is_root(certificate: x509.Certificate) -> bool:
    """Whether a CA's certificate is a root of two tiers: it signs itself, and CAs below it."""
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    return certificate.subject == certificate.issuer and constraints.path_length == 1


def _authority(
    *,
    name: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    path_length: int,
    domain: str,
    fleet: str,
    now: dt.datetime,
    until: dt.datetime,
) -> x509.Certificate:
    constraints = x509.NameConstraints(
        permitted_subtrees=[x509.DNSName(domain), x509.UniformResourceIdentifier(fleet)], excluded_subtrees=None
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - certificates.BACKDATE)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(x509.KeyUsage(**certificates.CA_USAGE), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(constraints, critical=True)
        .sign(signer, hashes.SHA256())
    )
