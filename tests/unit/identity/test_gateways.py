"""A site's issuing CA whose key is on its gateway: what the controller gives, and what it takes back."""

import json
import stat

import pytest
from cryptography.hazmat.primitives import serialization

from hedgerow.device import site_ca
from hedgerow.errors import DeviceError, RefusedError
from hedgerow.gateway import cli
from hedgerow.gateway.renewal.history import History, Renewed
from hedgerow.identity import certificates, issued
from hedgerow.identity.authority import build, crl, gateways, generations, lists, making
from hedgerow.identity.authority.admission import Admission
from hedgerow.identity.authority.issuing import IssuingCA
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import Profile

BY = "ada@desk"


class Gateway:
    """The gateway's two folders, read as the controller reads them: through JSON."""

    def __init__(self, folder, make_csr, names):
        self.make_csr, self.names = make_csr, names
        self.home, self.state = folder / "issuing", folder / "renewal"
        self.state.mkdir(parents=True)
        self.visits = 0

    def call(self, function, **arguments):
        self.visits += 1
        try:
            return json.loads(json.dumps(getattr(site_ca, function)(**json.loads(json.dumps(arguments)))))
        except site_ca.SiteCAError as fault:
            raise DeviceError(fault.what, where=fault.where, next_step=fault.next_step) from fault

    def request(self):
        return making.kept_request(self.home, "orchard")

    def renew(self, certificate):
        """One renewal, as the service writes it down."""
        (self.home / "ca.crt").write_text(certificate)
        (self.home / "anchors.crt").write_text(certificate)
        ca = IssuingCA.open(self.home, state=self.state)
        line = Renewed(
            time="2026-11-01T00:00:00Z",
            serial=self.names.serial,
            host=self.names.host,
            certificate="1f",
            key_sha256="00",
            grace=False,
        )
        History(self.state, {}).append(line)
        ca.sign_csr(self.make_csr()[0], Profile.DEVICE, self.names)
        lists.refresh_own(ca)
        return ca


@pytest.fixture
def gateway(tmp_path, make_csr, names):
    return Gateway(tmp_path / "gateway", make_csr, names)


@pytest.fixture
def exchange(fleet_dir, gateway):
    def run(**options):
        return gateways.exchange(
            gateway.call, fleet_dir, "orchard", directory=str(gateway.home), state=str(gateway.state), **options
        )

    return run


@pytest.fixture
def signed(root, gateway, exchange):
    """The gateway's key, certified by the root as an operator has it done: by the file that came."""
    gateway.request()
    waiting = exchange()
    made = making.sign_request(root, waiting.request.read_text(), "orchard", by=BY, where="request")
    return certificates.pem(made.certificate), made.home


def test_a_key_is_made_once_and_the_request_is_its_own(gateway):
    path = gateway.request()
    assert stat.S_IMODE((gateway.home / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(gateway.home.stat().st_mode) == 0o700
    before = path.read_text()
    assert gateway.request().read_text() == before
    (gateway.home / "ca.key").unlink()
    assert gateway.request().read_text() != before


def test_before_its_key_there_is_nothing_to_sign(root, exchange):
    found = exchange()
    assert (found.certificate, found.next_step, found.request.exists()) == (None, "its key comes with this run", False)


def test_the_request_comes_here_and_the_operator_is_told_what_to_type(root, gateway, exchange):
    gateway.request()
    assert not exchange(check=True).request.exists()
    found = exchange()
    assert found.certificate is None
    assert f"hedgerow ca issuing sign {found.request} --site orchard" in found.next_step
    assert found.request.read_text() == (gateway.home / "ca.csr").read_text()
    assert stat.S_IMODE(found.request.stat().st_mode) == 0o600


def test_what_the_root_signed_for_this_key_goes_there(signed, exchange):
    assert exchange().certificate == signed[0]


def test_a_ca_of_the_site_with_another_key_is_not_handed_out(root, secrets, gateway, exchange):
    making.add(root, "orchard", secrets, by=BY)
    gateway.request()
    assert exchange().certificate is None


def test_a_key_that_was_revoked_gets_nothing(root, signed, exchange, fleet_dir):
    key = build.authority_key(certificates_of(signed[0]))
    Admission(fleet_dir / "ca").revoke("authority", key, reason="the gateway was stolen", by=BY)
    with pytest.raises(RefusedError, match="the gateway was stolen"):
        exchange()


def certificates_of(pem):
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem.encode())


def test_logs_and_list_come_back_and_are_added_to(signed, gateway, exchange, fleet_dir, names):
    text, home = signed
    gateway.renew(text)
    assert set(exchange().brought) == {"issued.jsonl", "renewals.jsonl", "ca.crl"}
    first = (home / "issued.jsonl").read_text()
    assert first == (gateway.state / "issued.jsonl").read_text()
    assert issued.chain(home / "issued.jsonl").verify().problems == []
    assert exchange().brought == ()
    gateway.renew(text)
    assert "issued.jsonl" in exchange().brought
    assert (home / "issued.jsonl").read_text() == (gateway.state / "issued.jsonl").read_text()
    # What revoking goes by.
    assert sum(entry.name == names.serial for entry in issued.read_fleet(fleet_dir / "ca")) == 2


def test_a_long_log_comes_in_parts(signed, gateway, exchange, monkeypatch):
    text, home = signed
    for _ in range(4):
        gateway.renew(text)
    monkeypatch.setattr(site_ca, "PART_BYTES", 1200)
    gateway.visits = 0
    exchange()
    assert gateway.visits > 1
    assert (home / "issued.jsonl").read_text() == (gateway.state / "issued.jsonl").read_text()
    assert issued.chain(home / "issued.jsonl").verify().problems == []


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_log_that_was_changed_there_is_refused_and_what_is_here_stays(signed, gateway, exchange, names, how):
    text, home = signed
    gateway.renew(text)
    exchange()
    kept = (home / "issued.jsonl").read_text()
    log = gateway.state / "issued.jsonl"
    if how == "gone":
        log.unlink()
    else:
        log.write_text(kept.replace(names.serial, "10000000ffffffff"))
    with pytest.raises(DeviceError, match=r"issued\.jsonl"):
        exchange()
    assert (home / "issued.jsonl").read_text() == kept


def test_a_line_that_was_put_in_is_refused(signed, gateway, exchange):
    text, home = signed
    gateway.renew(text)
    log = gateway.state / "issued.jsonl"
    line = json.loads(log.read_text())
    log.write_text(log.read_text() + json.dumps(line | {"entry": 2, "previous": "0" * 64}) + "\n")
    with pytest.raises(RefusedError, match="does not hold"):
        exchange()
    assert not (home / "issued.jsonl").exists()
    assert [path.name for path in home.iterdir() if path.name.startswith(".")] == []


def test_a_list_of_another_ca_is_refused_and_an_older_one_is_not_taken(signed, gateway, exchange, now, root):
    text, home = signed
    ca = gateway.renew(text)
    exchange()
    kept = (home / "ca.crl").read_text()
    older = crl.build_list(ca.certificate, ca.key, (), last=None, now=now.replace(year=2020), life=crl.ISSUING_LIFE)
    (gateway.state / "ca.crl").write_text(crl.pem(older))
    assert "ca.crl" not in exchange().brought
    strange = crl.build_list(root.certificate, root.key, (), last=None, now=now, life=crl.ROOT_LIFE)
    (gateway.state / "ca.crl").write_text(crl.pem(strange))
    with pytest.raises(RefusedError, match="not signed by its CA"):
        exchange()
    (gateway.state / "ca.crl").write_text("-----BEGIN X509 CRL-----\n")
    with pytest.raises(RefusedError, match="cannot be read"):
        exchange()
    assert (home / "ca.crl").read_text() == kept


def test_the_key_is_never_part_of_what_is_sent(signed, gateway):
    gateway.renew(signed[0])
    known = {name: {"size": 0, "sha256": EMPTY} for name in site_ca.LOGS}
    found = json.dumps(gateway.call("read", directory=str(gateway.home), state=str(gateway.state), known=known))
    key = serialization.load_pem_private_key((gateway.home / "ca.key").read_bytes(), None)
    assert "PRIVATE" not in found
    assert f"{key.private_numbers().private_value:x}" not in found


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_how_deep_a_chain_is_follows_from_the_ca(tmp_path, fleet_dir, secrets, now):
    assert generations.depth(tmp_path / "none") == 1
    FleetCA.init(fleet_dir, "meadow", now=now)
    assert generations.depth(fleet_dir / "ca") == 1


def test_below_a_root_it_is_two(fleet_dir, root):
    assert generations.depth(fleet_dir / "ca") == 2


def test_the_gateway_s_command_says_where_the_request_is_and_what_comes_next(tmp_path, capsys):
    cli.request.callback(site="orchard", directory=tmp_path / "issuing")
    said = capsys.readouterr().out
    assert str(tmp_path / "issuing/ca.csr") in said
    assert "hedgerow ca issuing sign FILE --site orchard" in said
