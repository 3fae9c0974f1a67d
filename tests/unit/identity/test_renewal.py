"""The gateway's renewal service: real TLS, real issuing CA, its logs on disk; then its decisions one by one."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import functools
import http.client
import importlib.util
import json
import shutil
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hedgerow.chainlog import ChainError
from hedgerow.errors import MachineError, UsageError
from hedgerow.gateway.renewal import config as configs
from hedgerow.gateway.renewal import run
from hedgerow.gateway.renewal.app import ChainProtocol
from hedgerow.gateway.renewal.config import Board, RenewalConfig
from hedgerow.gateway.renewal.history import History
from hedgerow.gateway.renewal.rules import Code, Refusal
from hedgerow.gateway.renewal.service import Renewals
from hedgerow.identity import anchor, certificates, revocations
from hedgerow.identity.authority.issuing import IssuingCA
from hedgerow.identity.profiles import Peer, Profile
from hedgerow.server.config import Limits, Tls
from hedgerow.server.web import Server, uvicorn_config


def _support():
    """The certificates of the server's tests."""
    path = Path(__file__).parents[1] / "server" / "tls_support.py"
    if "tls_support" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tls_support", path)
        sys.modules["tls_support"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["tls_support"])
    return sys.modules["tls_support"]


support = _support()
GATEWAY, OTHER = "00000000000000aa", "00000000000000bb"
NAME = f"gw-1.{support.SITE}.{support.FLEET}"
DAYS = dt.timedelta(days=1)
REFUSED = (ssl.SSLError, ConnectionError)


class Site:
    """A site's CA, its gateway's files, and the boards that it lists."""

    def __init__(self, folder: Path, *, site: str | None = support.SITE) -> None:
        self.folder = folder
        self.root, self.issuing = support.Signer.below(folder, site=site)
        self.home, self.state = folder / "issuing", folder / "state"
        for each in (self.home, self.state, folder / "tls"):
            each.mkdir()
        (self.home / "ca.crt").write_text(certificates.pem(self.issuing.certificate))
        (self.home / "ca.key").touch(mode=0o600)
        (self.home / "ca.key").write_bytes(support.private_pem(self.issuing.key))
        (self.home / "anchors.crt").write_text(certificates.pem(self.root.certificate))
        support.write_server_files(folder / "tls", self.issuing, host="gw-1", serial=GATEWAY)
        self.config = RenewalConfig(
            fleet=support.FLEET,
            site=support.SITE,
            boards=(Board("pi-1", support.SERIAL), Board("pi-2", OTHER), Board("gw-1", GATEWAY, profile="gateway")),
            tls=Tls(
                address="127.0.0.1",
                port=0,
                certificate=str(folder / "tls" / "device.crt"),
                key=str(folder / "tls" / "device.key"),
                client_ca=str(self.home / "anchors.crt"),
                crl=folder / "crl.pem",
            ),
            issuing=str(self.home),
            state_dir=self.state,
        )

    def device(self, **how):
        """A device's key, and its certificate's files."""
        key = certificates.new_key()
        return key, self.issuing.issue(Profile.DEVICE, key=key, **how)

    def renewals(self, **changes) -> Renewals:
        config = msgspec.structs.replace(self.config, **changes)
        cleared = {board.serial: board.cleared for board in config.boards if board.cleared}
        return Renewals(config, IssuingCA.open(self.home, state=self.state), History(self.state, cleared))

    def ask(self, renewals, pair, key, *, serial=support.SERIAL, now=None, peer=None, vouched=None):
        chain = x509.load_pem_x509_certificates(pair.certificate.read_bytes())
        peer = peer or Peer(support.FLEET, Profile.DEVICE, serial, support.SITE)
        return renewals.renew(
            peer, [*chain, self.root.certificate], csr_of(key, serial), now=now or support.now(), vouched=vouched
        )

    def entries(self):
        return [json.loads(line) for line in (self.state / "renewals.jsonl").read_text().splitlines()]


def csr_of(key, serial=support.SERIAL):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, serial)])
    # Asks for more than it may have: nothing of it may be in the certificate.
    wanted = x509.SubjectAlternativeName([x509.DNSName(f"gw-1.{support.SITE}.{support.FLEET}")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(wanted, critical=False)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


class Running:
    """The service on a port, as ``run.serve`` has it, on a thread."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.listener, self.lists = run.prepare(site.config)
        self.port = self.listener.socket.getsockname()[1]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main)
        self._thread.start()
        assert self._ready.wait(30)

    def _main(self):
        async def serve():
            self.loop = asyncio.get_running_loop()
            self.server = Server(uvicorn_config(self.listener, Limits(drain_s=1.0), ChainProtocol))
            self._ready.set()
            await self.server.serve(sockets=[self.listener.socket])

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    def look(self):
        async def on_loop():
            return self.listener.tls.admission.look()

        return asyncio.run_coroutine_threadsafe(on_loop(), self.loop).result(30)

    def close(self):
        self.loop.call_soon_threadsafe(functools.partial(setattr, self.server, "should_exit", True))  # noqa: FBT003
        self._thread.join(30)
        assert not self._thread.is_alive()

    def call(self, pair, path, text=None, headers=""):
        """Status, headers and body."""
        context = support.caller(pair, self.site.root.root)
        with support.connected(self.port, context, NAME) as connection:
            data = (text or "").encode()
            method = "GET" if text is None else "POST"
            head = f"{method} {path} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
            connection.sendall(head.encode() + data)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, dict(response.getheaders()), response.read()


@pytest.fixture
def gateway(site):
    made = Running(site)
    yield made
    made.close()


def test_a_device_renews_and_its_new_certificate_renews_again(gateway, site, tmp_path):
    key, pair = site.device()
    status, _, answer = gateway.call(pair, "/identity/renew", csr_of(key))
    assert status == 200, answer
    found = json.loads(answer)
    leaf, issuing = x509.load_pem_x509_certificates(found["certificate"].encode())
    assert issuing == site.issuing.certificate
    assert found["ca"] == certificates.pem(site.root.certificate)
    assert found["serial_number"] == f"{leaf.serial_number:x}"
    # Its names come from the list, whatever the request said.
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [support.NAME]
    for name, text in (("leaf.pem", found["certificate"]), ("ca.pem", found["ca"])):
        (tmp_path / name).write_text(text)
    verify = ["openssl", "verify", "-x509_strict", "-CAfile", tmp_path / "ca.pem", "-untrusted", tmp_path / "leaf.pem"]
    subprocess.run([*verify, tmp_path / "leaf.pem"], check=True, capture_output=True)
    pair.certificate.write_text(found["certificate"])
    assert gateway.call(pair, "/identity/time")[0] == 200
    assert gateway.call(pair, "/identity/renew", csr_of(key))[0] == 200
    assert [entry["event"] for entry in site.entries()] == ["renewed", "renewed"]
    assert IssuingCA.open(site.home, state=site.state).log.read_text().count('"reason":') == 2


def test_an_expired_certificate_reaches_the_renewal_and_nothing_else(gateway, site):
    key, pair = site.device(ends=-3 * DAYS)
    for path in ("/identity/time", "/identity/crl.pem", "/metrics", "/health/live", "/identity/log"):
        assert gateway.call(pair, path)[0] == 403
    assert gateway.call(pair, "/identity/renew", csr_of(certificates.new_key()))[0] == 403
    status, _, answer = gateway.call(pair, "/identity/renew", csr_of(key))
    assert status == 200, answer
    assert site.entries()[-1]["grace"] is True


def test_who_may_call_what(gateway, site, tmp_path):
    fleet_ca = support.Signer.below(tmp_path)[1]  # of another root: not let in at all
    with pytest.raises(REFUSED):
        gateway.call(fleet_ca.issue(Profile.OPERATOR), "/identity/time")
    issuing = site.root  # whatever it may certify: who may call what is not its business here
    paths = ["/identity/time", "/identity/crl.pem", "/identity/log", "/identity/issued", "/metrics", "/health/live"]
    anyone = {"/identity/time", "/identity/crl.pem"}
    seen = {"/metrics", "/health/live"}
    may = {
        Profile.DEVICE: anyone,
        Profile.GATEWAY: anyone | seen,
        Profile.MONITOR: anyone | seen,
        Profile.CLIENT: anyone,
        Profile.PUBLISHER: anyone,
        Profile.OPERATOR: set(paths),
    }
    for profile, allowed in may.items():
        signer = site.issuing if profile in {Profile.DEVICE, Profile.GATEWAY} else issuing
        pair = signer.issue(profile, **({"host": "gw-1", "serial": GATEWAY} if profile is Profile.GATEWAY else {}))
        assert {path for path in paths if gateway.call(pair, path)[0] == 200} == allowed, profile
        if profile not in {Profile.DEVICE, Profile.GATEWAY}:
            assert gateway.call(pair, "/identity/renew", csr_of(certificates.new_key()))[0] == 403
    elsewhere = issuing.issue(Profile.GATEWAY, host="gw-2", site="meadowside", serial=GATEWAY)
    assert gateway.call(elsewhere, "/metrics")[0] == 403


def test_a_sites_ca_that_names_an_operator_makes_none(gateway, site):
    assert gateway.call(site.issuing.issue(Profile.OPERATOR), "/identity/log")[0] == 403


def test_the_controller_fetches_the_log_in_whole_lines_from_where_it_was(gateway, site):
    operator = site.root.issue(Profile.OPERATOR)
    key, pair = site.device()
    gateway.call(pair, "/identity/renew", csr_of(key))
    status, headers, first = gateway.call(operator, "/identity/log")
    assert (status, first) == (200, (site.state / "renewals.jsonl").read_bytes())
    gateway.call(pair, "/identity/renew", csr_of(key))
    rest = gateway.call(operator, f"/identity/log?from={headers['hedgerow-next']}")[2]
    assert first + rest == (site.state / "renewals.jsonl").read_bytes()
    assert gateway.call(operator, "/identity/log?from=x")[0] == 400
    assert gateway.call(operator, "/identity/issued")[2] == (site.state / "issued.jsonl").read_bytes()


def test_lists_are_served_signed_anew_after_a_revocation_and_enforced_here_too(gateway, site):
    key, pair = site.device()
    other_key, other = site.device(host="pi-2", serial=OTHER)
    status, headers, _ = gateway.call(other, "/identity/crl.pem")
    assert status == 200
    assert gateway.call(other, "/identity/crl.pem", headers=f"If-None-Match: {headers['etag']}\r\n")[0] == 304
    found = json.loads(gateway.call(pair, "/identity/renew", csr_of(key))[2])
    pair.certificate.write_text(found["certificate"])
    # The controller copies its ledger here; it cannot know yet what the gateway has issued since.
    line = revocations.Revoked(
        time="2026-01-01T00:00:00Z", kind="board", holder=support.SERIAL, reason="stolen", by="test", certificates=[]
    )
    revocations.append(site.state, line)
    gateway.lists.refresh()
    text = gateway.call(other, "/identity/crl.pem")[2].decode()
    assert certificates.pem(site.issuing.certificate) in text
    refused = gateway.call(pair, "/identity/renew", csr_of(key))
    assert (refused[0], json.loads(refused[2])["code"]) == (403, "revoked")
    (site.folder / "crl.pem").write_text(text)
    gateway.look()
    with pytest.raises(REFUSED):
        gateway.call(pair, "/identity/time")
    assert gateway.call(other, "/identity/renew", csr_of(other_key, OTHER))[0] == 200


def test_what_is_refused_is_counted_and_says_what_to_do(gateway, site):
    key, pair = site.device()
    status, _, answer = gateway.call(pair, "/identity/renew", "no request")
    assert (status, json.loads(answer)["code"]) == (400, "bad_request")
    assert gateway.call(pair, "/identity/renew", "x" * 9000)[0] == 413
    assert gateway.call(pair, "/identity/renew", csr_of(key))[0] == 200
    second = gateway.call(pair, "/identity/renew", csr_of(certificates.new_key()))
    assert (second[0], json.loads(second[2])["code"]) == (409, "cloned")
    figures = gateway.call(site.issuing.issue(Profile.GATEWAY, host="gw-1", serial=GATEWAY), "/metrics")[2].decode()
    assert 'hedgerow_renewal_requests_total{code="cloned"} 1.0' in figures
    assert 'hedgerow_renewal_requests_total{code="renewed"} 1.0' in figures
    assert "hedgerow_renewal_cloned_serials 1.0" in figures


# ── decisions ───────────────────────────────────────────────────────────────


def refused(code, call):
    with pytest.raises(Refusal) as caught:
        call()
    assert caught.value.code is code
    assert caught.value.next_step
    return caught.value


def test_a_cloned_serial_is_refused_to_both_and_stays_so_until_it_is_cleared(site):
    _, pair = site.device()
    renewals = site.renewals()
    first, second = certificates.new_key(), certificates.new_key()
    renewed = site.ask(renewals, pair, first)
    site.ask(renewals, pair, first)  # its answer was lost
    refused(Code.CLONED, lambda: site.ask(renewals, pair, second))
    refused(Code.CLONED, lambda: site.ask(renewals, pair, first))
    (site.folder / "new.crt").write_text(renewed.certificate)
    new = support.Pair(pair.key, site.folder / "new.crt")
    refused(Code.CLONED, lambda: site.ask(renewals, new, first))
    # Another process, after a restart, knows it from the log.
    again = site.renewals()
    refused(Code.CLONED, lambda: site.ask(again, new, first))
    assert [entry["event"] for entry in site.entries()] == ["renewed", "renewed", "cloned"]
    later = support.now() + dt.timedelta(seconds=1)
    boards = (Board("pi-1", support.SERIAL, cleared=later.strftime("%Y-%m-%dT%H:%M:%SZ")),)
    site.ask(site.renewals(boards=boards), new, certificates.new_key(), now=later + dt.timedelta(minutes=1))


def test_a_copied_card_that_renews_with_its_old_key_is_seen(site):
    """The first board took a new key; the copy still has the old pair and renews that."""
    key, pair = site.device()
    renewals = site.renewals()
    site.ask(renewals, pair, certificates.new_key())
    refused(Code.CLONED, lambda: site.ask(renewals, pair, key))


def test_one_key_for_two_serials_is_refused_to_both(site):
    key, pair = site.device()
    _, other = site.device(host="pi-2", serial=OTHER)
    renewals = site.renewals()
    site.ask(renewals, pair, key)
    refused(Code.CLONED, lambda: site.ask(renewals, other, key, serial=OTHER))
    refused(Code.CLONED, lambda: site.ask(renewals, pair, key))
    refused(Code.CLONED, lambda: site.ask(renewals, other, certificates.new_key(), serial=OTHER))


def test_grace_ends_and_is_bound_to_the_old_key(site):
    key, pair = site.device(ends=-29 * DAYS)
    renewals = site.renewals()
    refused(Code.GRACE_KEY, lambda: site.ask(renewals, pair, certificates.new_key()))
    assert site.ask(renewals, pair, key).not_after > support.now() + 29 * DAYS
    late = support.now() + 2 * DAYS
    refused(Code.EXPIRED, lambda: site.ask(site.renewals(), pair, key, now=late))
    refused(Code.EXPIRED, lambda: site.ask(site.renewals(grace_days=0), pair, key))


def test_a_certificate_that_is_not_valid_yet_renews_nothing(site):
    key, pair = site.device()
    refused(Code.NOT_YET, lambda: site.ask(site.renewals(), pair, key, now=support.now() - 1800 * DAYS))


def test_an_expired_authority_signs_for_nobody(site):
    key, pair = site.device(ends=3000 * DAYS)
    refused(Code.EXPIRED, lambda: site.ask(site.renewals(), pair, key, now=support.now() + 2000 * DAYS))


@pytest.mark.parametrize(
    "peer, code",
    [
        (Peer(support.FLEET, Profile.DEVICE, "00000000000000cc", support.SITE), Code.NOT_LISTED),
        (Peer(support.FLEET, Profile.GATEWAY, support.SERIAL, support.SITE), Code.WRONG_PROFILE),
        (Peer(support.FLEET, Profile.DEVICE, support.SERIAL, "meadowside"), Code.WRONG_PROFILE),
        (Peer("other", Profile.DEVICE, support.SERIAL, support.SITE), Code.WRONG_PROFILE),
        (Peer(support.FLEET, Profile.OPERATOR, support.SERIAL), Code.WRONG_PROFILE),
    ],
)
def test_whoever_is_not_on_the_list_as_it_says_is_refused(site, peer, code):
    key, pair = site.device()
    refused(code, lambda: site.ask(site.renewals(), pair, key, peer=peer))
    assert not (site.state / "renewals.jsonl").exists()


def test_a_request_for_another_serial_is_refused(site):
    key, pair = site.device()
    chain = x509.load_pem_x509_certificates(pair.certificate.read_bytes())
    peer = Peer(support.FLEET, Profile.DEVICE, support.SERIAL, support.SITE)
    refused(Code.BAD_REQUEST, lambda: site.renewals().renew(peer, chain, csr_of(key, OTHER)))


def test_a_board_with_a_key_of_its_own_must_vouch(site):
    own, key = certificates.new_key(), certificates.new_key()
    pair = site.issuing.issue(Profile.DEVICE, key=key)
    public = own.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    renewals = site.renewals(boards=(Board("pi-1", support.SERIAL, anchor=public.decode()),))
    refused(Code.ANCHOR, lambda: site.ask(renewals, pair, key))
    refused(Code.ANCHOR, lambda: site.ask(renewals, pair, key, vouched="bm9uc2Vuc2U="))
    chain = x509.load_pem_x509_certificates(pair.certificate.read_bytes())
    text = csr_of(key)
    word = base64.b64encode(own.sign(anchor.message(text), ec.ECDSA(hashes.SHA256()))).decode()
    peer = Peer(support.FLEET, Profile.DEVICE, support.SERIAL, support.SITE)
    assert renewals.renew(peer, chain, text, vouched=word).certificate


def test_a_board_may_not_ask_without_end(site):
    key, pair = site.device()
    renewals = site.renewals(per_hour=2)
    now = support.now()
    site.ask(renewals, pair, key, now=now)
    site.ask(renewals, pair, key, now=now)
    wait = refused(Code.TOO_OFTEN, lambda: site.ask(renewals, pair, key, now=now + dt.timedelta(minutes=10)))
    assert wait.retry_after_s == 50 * 60 + 1
    site.ask(renewals, pair, key, now=now + dt.timedelta(minutes=61))


def test_a_full_disk_hands_out_nothing(site, monkeypatch):
    key, pair = site.device()
    renewals = site.renewals()

    def full(_line):
        raise MachineError("the disk is full", where="here")

    monkeypatch.setattr(renewals.history.log, "append", full)
    assert refused(Code.UNAVAILABLE, lambda: site.ask(renewals, pair, key)).status == 503
    assert not (site.state / "issued.jsonl").exists()


def test_a_log_that_was_changed_keeps_the_service_from_starting(site):
    key, pair = site.device()
    renewals = site.renewals()
    for _ in range(3):
        site.ask(renewals, pair, key)
    path = site.state / "renewals.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    with pytest.raises(ChainError, match="log of renewals"):
        site.renewals()


def test_the_ca_of_another_site_is_not_used(tmp_path):
    site = Site(tmp_path)
    shutil.rmtree(site.home)
    _, wrong = support.Signer.below(tmp_path, site="meadowside")
    site.home.mkdir()
    (site.home / "ca.crt").write_text(certificates.pem(wrong.certificate))
    (site.home / "ca.key").touch(mode=0o600)
    (site.home / "ca.key").write_bytes(support.private_pem(wrong.key))
    with pytest.raises(UsageError, match="meadowside"):
        run.prepare(site.config)


@pytest.mark.parametrize(
    "text, named",
    [
        ("fleet: f\nsite: s\nboards: [{host: a, serial: 'x'}]\n", "16 lower-case hex"),
        ("fleet: f\nsite: s\nboards: []\nwhatever: 1\n", "whatever"),
        ("fleet: f\nsite: s\nboards: []\ngrace_days: 400\n", "grace_days"),
        (
            "fleet: f\nsite: s\nboards: [{host: a, serial: '0000000000000001'}, {host: b, serial: '0000000000000001'}]",
            "listed twice",
        ),
    ],
)
def test_a_configuration_that_is_wrong_names_the_place(tmp_path, text, named):
    (tmp_path / "renewal.yml").write_text(text)
    with pytest.raises(UsageError, match=named):
        configs.load(tmp_path / "renewal.yml")
