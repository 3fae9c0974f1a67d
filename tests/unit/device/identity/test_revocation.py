"""The list of revoked certificates on a device: from a gateway that may lie, leave out, and bring back old ones."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import Encoding

from hedgerow.device.identity import revocation
from hedgerow.errors import NetworkError, PublisherError
from hedgerow.identity import certificates


def make_list(certificate, key, number, *, signer=None, revoked=(), days=3):
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(now + dt.timedelta(days=min(0, days - 1)))
        .next_update(now + dt.timedelta(days=days))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(certificate.public_key()), critical=False)
    )
    for serial_number in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial_number).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(signer or key, hashes.SHA256()).public_bytes(Encoding.PEM)


class Authority:
    """A root, and an issuing CA below it."""

    def __init__(self, now):
        self.root_key, self.issuing_key = certificates.new_key(), certificates.new_key()
        self.root = _ca("root", self.root_key, "root", self.root_key, now)
        self.issuing = _ca("orchard", self.issuing_key, "root", self.root_key, now)

    def of_root(self, number, **options):
        return make_list(self.root, self.root_key, number, **options)

    def of_site(self, number, **options):
        return make_list(self.issuing, self.issuing_key, number, **options)

    @property
    def chain(self):
        return self.issuing.public_bytes(Encoding.PEM)


def _ca(name, key, issuer, issuer_key, now):
    def named(text):
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    usage = dict.fromkeys(certificates._NO_USAGE, False) | {"key_cert_sign": True, "crl_sign": True}
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=90))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if name != issuer:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        builder = builder.add_extension(identifier, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


@pytest.fixture
def two_tiers(now):
    return Authority(now)


@pytest.fixture
def anchors(two_tiers, tmp_path):
    path = tmp_path / "anchors.crt"
    path.write_bytes(two_tiers.root.public_bytes(Encoding.PEM))
    return path


@pytest.fixture
def refresh(tmp_path, anchors):
    path = tmp_path / "revocation" / "crl.pem"

    def refresh_(*blocks, chain=b""):
        return revocation.refresh(path, b"".join(blocks), anchors, chain)

    refresh_.path = path
    return refresh_


def test_lists_of_both_tiers_are_taken_and_readable_by_all(refresh, two_tiers):
    found = refresh(two_tiers.of_root(1), two_tiers.chain, two_tiers.of_site(7, revoked=[42]))
    assert found.changed
    assert sorted(found.numbers.values()) == [1, 7]
    assert refresh.path.stat().st_mode & 0o777 == 0o644
    assert refresh.path.parent.stat().st_mode & 0o777 == 0o755
    blocks = refresh.path.read_bytes().split(b"-----BEGIN X509 CRL-----")
    assert len(blocks) == 3


def test_the_same_lists_again_change_nothing(refresh, two_tiers):
    data = (two_tiers.of_root(1), two_tiers.chain, two_tiers.of_site(7))
    refresh(*data)
    before = refresh.path.stat().st_mtime_ns
    assert not refresh(*data).changed
    assert refresh.path.stat().st_mtime_ns == before


def test_an_issuing_ca_may_come_with_the_devices_own_chain(refresh, two_tiers):
    assert refresh(two_tiers.of_site(7), chain=two_tiers.chain).changed


def test_a_number_never_goes_back(refresh, two_tiers):
    refresh(two_tiers.of_root(5))
    before = refresh.path.read_bytes()
    with pytest.raises(PublisherError, match="has number 4, this device has 5"):
        refresh(two_tiers.of_root(4))
    assert refresh.path.read_bytes() == before
    assert refresh(two_tiers.of_root(6)).changed


@pytest.mark.parametrize("with_chain", [False, True])
def test_a_list_is_never_left_out(refresh, two_tiers, with_chain):
    """Nor can it be hidden by leaving out the certificate that vouches for it."""
    refresh(two_tiers.of_root(5), two_tiers.chain, two_tiers.of_site(7, revoked=[42]))
    before = refresh.path.read_bytes()
    with pytest.raises(PublisherError, match="is missing"):
        refresh(two_tiers.of_root(6), two_tiers.chain if with_chain else b"")
    assert refresh.path.read_bytes() == before


def test_a_list_that_another_key_signed_is_refused(refresh, two_tiers):
    refresh(two_tiers.of_root(5))
    before = refresh.path.read_bytes()
    with pytest.raises(PublisherError, match="not signed by it"):
        refresh(two_tiers.of_root(6, signer=certificates.new_key()))
    assert refresh.path.read_bytes() == before


def test_a_strangers_list_and_ca_count_for_nothing(refresh, two_tiers, now):
    stranger = Authority(now)
    stranger.issuing = _ca("moor", stranger.issuing_key, "elsewhere", certificates.new_key(), now)
    found = refresh(two_tiers.of_root(5), stranger.chain, stranger.of_site(1))
    assert found.left_out == ("CN=moor",)
    assert list(found.numbers.values()) == [5]


def test_a_device_certificate_signs_no_list(refresh, two_tiers, now):
    """A leaf of the fleet that calls itself an issuer."""
    key = certificates.new_key()
    leaf = certificates.build_leaf(
        ca=two_tiers.root,
        ca_key=two_tiers.root_key,
        public_key=key.public_key(),
        profile=certificates.Profile.DEVICE,
        name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "leaf")]),
        sans=[x509.DNSName("leaf")],
        not_before=now,
        not_after=now + dt.timedelta(days=1),
    )
    found = refresh(two_tiers.of_root(5), leaf.public_bytes(Encoding.PEM), make_list(leaf, key, 1))
    assert found.left_out == ("CN=leaf",)


@pytest.mark.parametrize("text", [b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"])
def test_what_cannot_be_read_changes_nothing(refresh, two_tiers, text):
    refresh(two_tiers.of_root(5))
    with pytest.raises(PublisherError, match="cannot be read"):
        refresh(text)
    with pytest.raises(PublisherError, match="is missing"):
        refresh(b"hello")


def test_a_list_without_a_number_is_refused(refresh, two_tiers, now):
    bare = x509.CertificateRevocationListBuilder().issuer_name(two_tiers.root.subject).last_update(now)
    bare = bare.next_update(now + dt.timedelta(days=1)).sign(two_tiers.root_key, hashes.SHA256())
    with pytest.raises(PublisherError, match="has no number"):
        refresh(bare.public_bytes(Encoding.PEM))
    assert not refresh.path.exists()


def test_a_damaged_file_is_replaced(refresh, two_tiers):
    refresh(two_tiers.of_root(5))
    refresh.path.write_bytes(b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    assert refresh(two_tiers.of_root(5)).changed


def test_a_list_that_has_run_out_is_better_than_none(refresh, two_tiers):
    assert refresh(two_tiers.of_root(5, days=-2)).changed


def _key(authority):
    return serialization.load_pem_private_key((authority.folder / "ca.key").read_bytes(), None)


def test_it_comes_from_the_gateway_and_bounds_the_time(enrolled, device, gateway, authority, now):
    enrolled(ago=10)
    assert device().refresh_list() is None
    gateway.crl = make_list(authority.certificate, _key(authority), 1)
    assert device().refresh_list().changed
    assert device().own.crl.read_bytes() == gateway.crl
    slow = device(now - dt.timedelta(days=900))
    assert slow.time.floor.proven_by == "the list of revoked certificates"


def test_a_gateway_that_refuses_or_lies_is_said(enrolled, device, gateway, authority):
    folder = enrolled()
    gateway.crl = make_list(authority.certificate, _key(authority), 1, signer=certificates.new_key())
    with pytest.raises(PublisherError, match="not signed by it"):
        device().refresh_list()
    gateway.rejected.add(x509.load_pem_x509_certificate((folder / "device.crt").read_bytes()).serial_number)
    with pytest.raises(Exception, match="was revoked"):
        device().refresh_list()
    with pytest.raises(NetworkError):
        device(renewal_name="nobody").refresh_list()
