"""Revocation for nginx, as a map of certificates. Pure.

nginx's own ``ssl_crl`` has OpenSSL refuse every client once a list is out of date or one authority of a chain has none.
A map keeps the fleet's rule: what a list names is refused, out of date or not, and nobody else is. nginx shows a
certificate's issuer and serial number; those of revoked issuing CAs are refused by the issuer's name, which has its
key's identifier in it and so is one CA's alone.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID

from hedgerow.identity.revoked import Lists, certificates

HEAD = "# Written by hedgerow-device renewal nginx-map: issuer:serial -> 1 where a certificate was revoked.\n"


def revocation_map(bundle: bytes) -> str:
    """Rows for nginx's map of ``$ssl_client_i_dn:$ssl_client_serial``.

    Whoever places the bundle has verified it. It has the certificates of issuing CAs in it (docs/identity.md), by which
    a root's list counts: nginx sees no more of a chain than the holder's own certificate.

    Raises:
        ValueError: a list is damaged.
    """
    lists = Lists.parse(bundle).lists if b"BEGIN X509 CRL" in bundle else ()
    rows = set()
    for each in lists:
        issuer = _as_nginx_shows(each.crl.issuer)
        rows |= {f'"{issuer}:{serial_text(serial)}" 1;' for serial in each.serials}
    gone = [
        _as_nginx_shows(authority.subject)
        for authority in certificates(bundle)
        if any(authority.serial_number in each.serials and authority.issuer == each.crl.issuer for each in lists)
    ]
    rows |= {f'"~^{_quoted(name)}:" 1;' for name in gone}
    return HEAD + "".join(f"{row}\n" for row in sorted(rows))


def serial_text(serial: int) -> str:
    """A serial number as nginx shows it: upper-case hex, whole bytes."""
    text = f"{serial:X}"
    return text.zfill(len(text) + len(text) % 2)


def _as_nginx_shows(name: x509.Name) -> str:
    """OpenSSL's RFC 4514 form, which has a name for serial numbers of names where ``cryptography`` has digits."""
    return name.rfc4514_string({NameOID.SERIAL_NUMBER: "serialNumber"})


def _quoted(name: str) -> str:
    """A distinguished name of ours in a regular expression: letters, digits, ``- _ , =``, dots, spaces."""
    return name.replace(".", "\\.").replace("+", "\\+")
