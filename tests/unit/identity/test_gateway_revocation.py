"""One bundle of revocation lists on a gateway, whoever brought which, and nginx's map of it."""

import datetime as dt

import pytest
from cryptography import x509

from hedgerow.device.identity import renewal as device_renewal
from hedgerow.errors import PartialError, PublisherError, UsageError
from hedgerow.gateway import cli, nginx, revocation
from hedgerow.identity import certificates
from hedgerow.identity.authority import crl, making
from hedgerow.identity.authority.crl import Entry
from hedgerow.identity.authority.issuing import IssuingCA


class Gateway:
    """A root, the site's CA below it, and the places of a gateway."""

    def __init__(self, folder, root, now):
        self.root, self.now = root, now
        home = folder / "issuing"
        request = making.request(home, "orchard", None)
        made = making.sign_request(root, request, "orchard", by="ada@desk", where="request")
        (home / "ca.crt").write_text(certificates.pem(made.certificate))
        self.ca = IssuingCA.open(home, state=folder)
        self.places = revocation.Places(
            bundle=folder / "revocation/crl.pem",
            own=folder / "ca.crl",
            issuing=home / "ca.crt",
            anchors=folder / "anchors.crt",
        )
        self.places.bundle.parent.mkdir()
        self.places.anchors.write_text(certificates.pem(root.certificate))

    def of_root(self, *revoked, later=0):
        return self._list(self.root, revoked, later)

    def of_site(self, *revoked, later=0):
        return self._list(self.ca, revoked, later)

    def _list(self, authority, revoked, later):
        now = self.now + dt.timedelta(seconds=later)
        entries = [Entry(serial, now) for serial in revoked]
        return crl.build_list(authority.certificate, authority.key, entries, last=None, now=now, life=crl.ISSUING_LIFE)

    def place(self, *found):
        self.places.placed.write_text("".join(map(crl.pem, found)))

    def sign_own(self, found):
        self.places.own.write_text(crl.pem(found))

    def revoked(self):
        """Serial numbers on the lists in place."""
        blocks = self.places.bundle.read_text().split("-----BEGIN X509 CRL-----")[1:]
        found = [x509.load_pem_x509_crl(f"-----BEGIN X509 CRL-----{block}".encode()) for block in blocks]
        return set().union(*map(crl.serials, found))


@pytest.fixture
def gateway(tmp_path, root, now):
    return Gateway(tmp_path / "gateway", root, now)


def test_nothing_brought_is_nothing_in_place(gateway):
    done = revocation.gather(gateway.places)
    assert (done.changed, done.map_changed, done.numbers) == (False, True, {})
    assert gateway.places.nginx_map.read_text() == nginx.HEAD
    assert not gateway.places.bundle.exists()


def test_both_are_put_together_and_in_nginx_s_map(gateway):
    gateway.place(gateway.of_root("a1"))
    gateway.sign_own(gateway.of_site("b2"))
    done = revocation.gather(gateway.places)
    assert (done.changed, done.map_changed, len(done.numbers)) == (True, True, 2)
    assert gateway.revoked() == {"a1", "b2"}
    text = gateway.places.nginx_map.read_text()
    assert ':A1" 1;' in text
    assert "OU=site-ca" in text
    again = revocation.gather(gateway.places)
    assert (again.changed, again.map_changed) == (False, False)


def test_what_a_converge_brings_from_last_week_takes_nothing_back(gateway):
    gateway.sign_own(gateway.of_site("b2", later=100))
    revocation.gather(gateway.places)
    # The controller's copy of the site's list, from before.
    gateway.place(gateway.of_root(), gateway.of_site())
    gateway.places.own.unlink()
    revocation.gather(gateway.places)
    assert gateway.revoked() == {"b2"}


def test_a_newer_list_takes_the_place_of_an_older_one(gateway):
    gateway.place(gateway.of_root("a1"))
    revocation.gather(gateway.places)
    gateway.place(gateway.of_root("a1", "a2", later=10))
    assert revocation.gather(gateway.places).map_changed
    assert gateway.revoked() == {"a1", "a2"}


def test_a_bundle_that_was_damaged_is_made_anew(gateway):
    gateway.place(gateway.of_root("a1"))
    gateway.places.bundle.write_text("-----BEGIN X509 CRL-----\nxx\n-----END X509 CRL-----\n")
    assert revocation.gather(gateway.places).changed
    assert gateway.revoked() == {"a1"}


def test_a_damaged_list_is_said_and_changes_nothing(gateway):
    gateway.place(gateway.of_root("a1"))
    revocation.gather(gateway.places)
    gateway.places.placed.write_text("-----BEGIN X509 CRL-----\nxx\n-----END X509 CRL-----\n")
    with pytest.raises(UsageError, match="damaged"):
        revocation.gather(gateway.places)
    assert gateway.revoked() == {"a1"}


def test_a_list_that_its_ca_did_not_sign_is_refused(gateway):
    forged = crl.build_list(
        gateway.root.certificate, certificates.new_key(), (), last=None, now=gateway.now, life=crl.ROOT_LIFE
    )
    gateway.place(forged)
    with pytest.raises(PublisherError, match="not signed by it"):
        revocation.gather(gateway.places)
    assert not gateway.places.bundle.exists()


def test_a_stranger_s_list_is_left_out(gateway, now):
    key = certificates.new_key()
    stranger = certificates.build_ca(key, "elsewhere", now=now)
    gateway.place(gateway.of_root("a1"), crl.build_list(stranger, key, (), last=None, now=now, life=crl.ROOT_LIFE))
    done = revocation.gather(gateway.places)
    assert len(done.left_out) == 1
    assert gateway.revoked() == {"a1"}


def test_nginx_is_told_of_a_new_map_alone_and_a_failure_is_said(gateway, monkeypatch, capsys):
    told = []

    def tell(services):
        told.append([(each.unit, each.state) for each in services])
        return ["nginx.service"] if len(told) > 1 else []

    monkeypatch.setattr(device_renewal, "tell", tell)
    monkeypatch.setattr(revocation, "Places", lambda: gateway.places)
    gateway.place(gateway.of_root("a1"))
    command = cli.gather_lists.callback
    command(unit="nginx.service")
    command(unit="nginx.service")
    assert told == [[("nginx.service", "reloaded")]]
    assert "1 lists, as before" in capsys.readouterr().out
    gateway.place(gateway.of_root("a1", "a2", later=10))
    with pytest.raises(PartialError, match="goes by the ones before"):
        command(unit="nginx.service")
