"""Each attack on a registry, by a gateway that lies over a real line: what refuses it, and that nothing of it sticks.

docs/attacks.md is the table of these, and the last test here holds the two together.
"""

from __future__ import annotations

import copy
import gzip
import importlib.util
import json
import re
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from hedgerow.errors import NetworkError
from hedgerow.registry import trust_names as names
from hedgerow.registry.client.errors import Rule, TrustRefusedError
from hedgerow.registry.client.limits import Limits
from hedgerow.registry.client.pace import Pace
from hedgerow.registry.client.trusted import Trusted
from hedgerow.registry.source import HttpsSource, TlsFiles

ROOT = Path(__file__).parents[2]


def _support():
    name = "client_support"
    if name not in sys.modules:
        path = ROOT / "tests/unit/registry/client/support.py"
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


support = _support()
ASSISTANT, NEXT, manifest = support.ASSISTANT, support.NEXT, support.manifest
MANIFEST = f"targets/{names.target('model', NEXT.name, NEXT.version)}"
FAST = Pace(bytes_per_s=1_000_000, window_s=0.2)


@pytest.fixture
def repository(tmp_path):
    """``assistant@1.0.0`` is released; what the attacks are about is 1.1.0."""
    made = support.Repository(tmp_path / "signed", support.Clock())
    made.released()
    return made


@pytest.fixture
def lying(gateway, repository):
    """The gateway, which serves the repository until a test makes it lie."""
    gateway.root = repository.folder
    return gateway


@pytest.fixture
def view(lying, repository, identities, tmp_path):
    """A new process of the device at each call; it has seen version 1.0.0."""
    folder = identities["device"]
    tls = TlsFiles(folder / "device.crt", folder / "device.key", folder / "ca.crt")
    trust = support.device_trust(repository, tmp_path / "trust-dir")
    name = "gw.orchard.meadow-faults"

    def make(*, pace=None, **options):
        source = HttpsSource(lying.url, tls, server_name=name, pace=pace)
        return Trusted(source, trust, now=repository.clock, synced=True, **options)

    assert make().manifest(ASSISTANT)
    return make


def refused(view, reference=NEXT, kind="model"):
    with pytest.raises(TrustRefusedError) as caught:
        view().manifest(reference, kind)
    return caught.value.rule


def honest_again(view, lying, repository, reference=NEXT):
    """The attacker is gone: the device goes on as if nothing had been."""
    lying.alter.clear()
    lying.root = repository.folder
    assert view().manifest(reference)


def later(data):
    document = json.loads(data)
    document["signed"]["expires"] = "2099-01-01T00:00:00Z"
    return json.dumps(document).encode()


# -- tampering ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alter, rule",
    [
        (lambda data: data.replace(b"assistant", b"Assistant"), Rule.MIXTURE),
        (lambda data: data[:-1], Rule.MIXTURE),
        (lambda data: data + b" ", Rule.TOO_LONG),
    ],
    ids=["altered", "shortened", "lengthened"],
)
def test_tampered_target(alter, rule, view, lying, repository):
    repository.released(NEXT)
    lying.alter[MANIFEST] = alter
    assert refused(view) is rule
    honest_again(view, lying, repository)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "build-model", "approve-model"])
def test_tampered_metadata(role, view, lying, repository):
    repository.publish("targets", *repository.release(NEXT))
    version = repository.signed[role].version
    lying.alter[f"metadata/{role if role == 'timestamp' else f'{version}.{role}'}.json"] = later
    assert refused(view) is Rule.SIGNATURE
    honest_again(view, lying, repository)


def test_tampered_root(view, lying, repository):
    repository.rotated("root")
    repository.released(NEXT)
    lying.alter["metadata/2.root.json"] = later
    assert refused(view) is Rule.SIGNATURE
    honest_again(view, lying, repository)


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 15_000, b'{"signed": 1, "signatures": []}'])
def test_metadata_that_are_none(data, view, lying, repository):
    lying.alter["metadata/timestamp.json"] = lambda _: data
    assert refused(view) is Rule.MALFORMED
    repository.released(NEXT)
    honest_again(view, lying, repository)


# -- old things ----------------------------------------------------------------------------


def test_rollback_of_the_whole_registry(view, lying, repository, tmp_path):
    lying.root = shutil.copytree(repository.folder, tmp_path / "yesterday")
    repository.released(NEXT)
    lying.root, yesterday = repository.folder, lying.root
    assert view().manifest(NEXT)
    lying.root = yesterday
    assert refused(view, ASSISTANT) is Rule.ROLLBACK
    honest_again(view, lying, repository)


def test_rollback_of_a_snapshot(view, lying, repository):
    """A stolen timestamp key names a snapshot of before: the device has seen a newer one."""
    repository.released(NEXT)
    assert view().manifest(NEXT)
    stolen = copy.deepcopy(repository.signed["timestamp"])
    repository.signed["timestamp"].snapshot_meta.version -= 1
    repository.write("timestamp", repository.sign("timestamp"))
    assert refused(view) is Rule.ROLLBACK
    assert stolen.snapshot_meta.version > repository.signed["timestamp"].snapshot_meta.version
    repository.publish()
    honest_again(view, lying, repository)


def test_rollback_of_a_role(view, lying, repository):
    """Stolen online keys bring back the approval that was withdrawn: versions in a snapshot never go down."""
    del repository.signed["approve-model"].targets[names.target("model", "assistant", "1.0.0")]
    repository.publish("approve-model")
    assert refused(view, ASSISTANT) is Rule.NOT_APPROVED
    repository.signed["snapshot"].meta["approve-model.json"].version -= 1
    repository.publish()
    assert refused(view, ASSISTANT) is Rule.ROLLBACK


def test_a_role_that_vanishes_from_the_snapshot(view, repository):
    del repository.signed["snapshot"].meta["approve-model.json"]
    repository.publish()
    assert refused(view, ASSISTANT) is Rule.ROLLBACK


def test_freeze(view, lying, repository, tmp_path):
    """Nothing is wrong with the mirror but its age."""
    lying.root = shutil.copytree(repository.folder, tmp_path / "frozen")
    repository.clock.forward(days=1, seconds=1)
    repository.released(NEXT)
    assert refused(view, ASSISTANT) is Rule.EXPIRED
    honest_again(view, lying, repository)


@pytest.mark.parametrize("role", ["build-model", "approve-model"])
def test_freeze_of_a_delegated_role(role, view, repository):
    """Online keys cannot stretch the life of what a builder or an approver has signed."""
    repository.publish("build-model", "approve-model", lifetimes={role: 2})
    repository.clock.forward(days=3)
    repository.publish()
    assert refused(view, ASSISTANT) is Rule.EXPIRED
    repository.publish(role)
    assert view().manifest(ASSISTANT)


# -- mixtures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["snapshot", "targets", "build-model", "approve-model"])
def test_mix_and_match_of_metadata(role, view, lying, repository):
    """Today's metadata with one file of yesterday's, each well signed."""
    before = repository.signed[role].version
    repository.publish("targets", *repository.release(NEXT))
    old = (repository.folder / f"metadata/{before}.{role}.json").read_bytes()
    lying.alter[f"metadata/{repository.signed[role].version}.{role}.json"] = lambda _: old
    assert refused(view) is Rule.ROLLBACK
    honest_again(view, lying, repository)


def test_mix_and_match_of_manifests(view, lying, repository):
    repository.released(NEXT)
    old = (repository.folder / "targets" / names.target("model", "assistant", "1.0.0")).read_bytes()
    lying.alter[MANIFEST] = lambda _: old
    assert refused(view) is Rule.MIXTURE
    honest_again(view, lying, repository)


def test_a_signed_manifest_in_anothers_place(view, repository):
    """Both signed it, where it does not belong: a runtime among the models."""
    repository.released(NEXT, data=manifest(NEXT, kind="runtime"))
    assert refused(view) is Rule.MISNAMED


# -- a peer that does not end, or does not come -------------------------------------------------


class Flooding(BaseHTTPRequestHandler):
    """Answers ``server.flooded`` without end, as fast or slow as ``server.drip_s`` says, until the client hangs up."""

    def do_GET(self):
        server = self.server
        path = self.path.lstrip("/")
        if path != server.flooded:
            file = server.root / path
            if not file.is_file():
                self.send_error(404)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(file.read_bytes())
            return
        try:
            self.flood(server)
        except OSError:
            server.hung_up.set()

    def flood(self, server):
        if server.drip == "head":
            while not server.over.wait(0.01):
                self.wfile.write(b"x")
        self.send_response(200)
        for key, value in server.flood_headers.items():
            self.send_header(key, value)
        self.end_headers()
        while not server.over.wait(0.01 if server.drip else 0):
            piece = b"1" if server.drip else b" " * 65_536
            self.wfile.write(piece)
            server.sent += len(piece)

    def log_message(self, *_):
        """Stay quiet."""


@pytest.fixture
def flooding(lying):
    lying.hung_up, lying.over, lying.sent = threading.Event(), threading.Event(), 0
    lying.flooded, lying.drip, lying.flood_headers = None, None, {}
    lying.RequestHandlerClass = Flooding
    yield lying
    lying.over.set()


@pytest.mark.parametrize(
    "path, most",
    [
        ("metadata/2.root.json", Limits().root),
        ("metadata/timestamp.json", Limits().timestamp),
        ("metadata/3.snapshot.json", Limits().snapshot),
        (MANIFEST, len(manifest(NEXT, kind="model"))),
    ],
)
def test_endless_data(path, most, view, flooding, repository):
    repository.released(NEXT)
    flooding.flooded = path
    assert refused(view) is Rule.TOO_LONG
    assert flooding.hung_up.wait(10)
    assert flooding.sent < most + 16 * (1 << 20)  # what the buffers of both ends hold beyond the limit
    flooding.flooded = None
    assert view().manifest(NEXT)


@pytest.mark.slow
@pytest.mark.parametrize("drip", ["head", "body", "chunk"])
def test_slow_retrieval(drip, view, flooding, repository, monkeypatch):
    """A byte now and then: no single read is ever late. In headers, in content, and in the size of a chunk."""
    monkeypatch.setattr("urllib3.util.retry.time.sleep", lambda _: None)
    repository.released(NEXT)
    flooding.flooded, flooding.drip = "metadata/timestamp.json", drip
    if drip == "chunk":
        flooding.flood_headers = {"Transfer-Encoding": "chunked"}
    with pytest.raises(NetworkError, match=r"sends too slowly: \d+ bytes in \d+ s, less than 1000000 bytes/s"):
        view(pace=FAST).refresh()
    assert flooding.hung_up.wait(10)
    flooding.flooded = None
    assert view().manifest(NEXT)


def test_a_few_bytes_do_not_become_many(view, lying, repository, monkeypatch):
    """A compressed answer is not unpacked: nobody asked for one, and no length could bound it."""
    repository.released(NEXT)
    original = BaseHTTPRequestHandler.end_headers

    def compressed(handler):
        handler.send_header("Content-Encoding", "gzip")
        original(handler)

    monkeypatch.setattr(BaseHTTPRequestHandler, "end_headers", compressed)
    lying.alter[MANIFEST] = lambda data: gzip.compress(data + b" " * 50_000_000, 1)
    assert refused(view) is Rule.TOO_LONG


# -- keys ----------------------------------------------------------------------------------------


def test_threshold_not_met(view, lying, repository):
    role = repository.delegate(names.APPROVE, "model", threshold=2)
    both = repository.signers[role]
    repository.publish("targets", *repository.release(NEXT))
    assert view().manifest(NEXT)
    repository.signers[role] = both[:1]
    repository.publish(role)
    assert refused(view) is Rule.SIGNATURE
    repository.signers[role] = both[:1] * 2  # the one signature twice
    repository.publish(role)
    assert refused(view) is Rule.SIGNATURE
    repository.signers[role] = both
    repository.publish(role)
    honest_again(view, lying, repository)


@pytest.mark.parametrize("purpose", names.PURPOSES)
def test_revoked_delegated_key(purpose, view, lying, repository):
    """A leaked key is replaced; what it signs from then on, and what it alone signed before, is nobody's word."""
    role = names.role(purpose, "model")
    leaked = repository.signers[role]
    repository.delegate(purpose, "model")
    honest = repository.signers[role]
    repository.signers[role] = leaked
    repository.publish("targets", *repository.release(NEXT))
    assert refused(view) is Rule.SIGNATURE
    assert refused(view, ASSISTANT) is Rule.SIGNATURE
    repository.signers[role] = honest
    repository.publish(role)
    honest_again(view, lying, repository)


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_revoked_top_level_key(role, view, lying, repository):
    leaked = repository.signers[role]
    repository.rotate(role)
    honest = repository.signers[role]
    repository.signers[role] = leaked
    repository.publish("root", "targets", *repository.release(NEXT))
    assert refused(view) is Rule.SIGNATURE
    repository.signers[role] = honest
    repository.publish("targets")
    honest_again(view, lying, repository)


def test_a_root_that_the_old_keys_did_not_sign(view, lying, repository):
    """Whoever has the new keys alone, or makes some up, is not the fleet."""
    repository.rotate("root")
    repository.old_root_signers, kept = [], repository.old_root_signers
    repository.publish("root", *repository.release(NEXT))
    assert refused(view) is Rule.SIGNATURE
    repository.pretend("root", 2)
    repository.old_root_signers = kept
    repository.publish("root")
    honest_again(view, lying, repository)


@pytest.mark.parametrize("stolen", [["build-model"], ["approve-model"]])
def test_one_of_the_two_roles_stolen(stolen, view, repository):
    """One role's key, and all online keys with it, release nothing."""
    purpose = stolen[0].partition("-")[0]
    repository.release(NEXT, by=[purpose])
    repository.publish(*stolen)
    assert refused(view) in {Rule.NOT_APPROVED, Rule.NOT_BUILT}


@pytest.mark.parametrize("purpose", names.PURPOSES)
def test_one_of_the_two_roles_missing(purpose, view, lying, repository):
    role = names.role(purpose, "model")
    kept = repository.signed["targets"].delegations.roles.pop(role)
    repository.publish("targets", *repository.release(NEXT))
    assert refused(view) is Rule.NO_ROLE
    repository.signed["targets"].delegations.roles[role] = kept
    repository.publish("targets")
    honest_again(view, lying, repository)


def test_delegations_that_shadow_each_other(view, lying, repository):
    """The owners of another bundle claim this one's paths, first and terminating: they are not asked."""
    delegations = repository.signed["targets"].delegations
    changed = []
    for purpose in names.PURPOSES:
        thief = repository.delegate(purpose, "model", "ears", paths=["models/*/*/*"])
        delegations.roles = {thief: delegations.roles.pop(thief), **delegations.roles}
        changed.append(thief)
    repository.release(NEXT, bundle="ears")
    repository.publish("targets", *changed)
    assert refused(view) is Rule.UNKNOWN
    repository.released(NEXT)
    assert view().vouched(NEXT).by.approve == "approve-model"
    honest_again(view, lying, repository)


def test_fast_forward_recovery(view, lying, repository):
    """Stolen online keys sign the highest versions, so that every honest one looks old. New keys for both end that."""
    honest = {role: repository.signed[role].version for role in ("snapshot", "timestamp")}
    for role in honest:
        repository.pretend(role, 2**31 - 1)
    repository.publish()
    assert view().manifest(ASSISTANT)
    for role, version in honest.items():
        repository.pretend(role, version + 1)
    repository.released(NEXT)
    assert refused(view) is Rule.ROLLBACK
    repository.rotated("snapshot", "timestamp")
    honest_again(view, lying, repository)


# -- the table --------------------------------------------------------------------------------------


def test_the_table_names_every_test():
    """docs/attacks.md says of each attack which test shows it; a test that it forgets, or invents, is found here."""
    table = (ROOT / "docs/attacks.md").read_text(encoding="utf-8")
    here = set(re.findall(r"^def (test_\w+)", Path(__file__).read_text(encoding="utf-8"), re.MULTILINE))
    elsewhere = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests/unit/registry/client").glob("test_*.py")
    )
    named = set(re.findall(r"`(test_\w+)`", table))
    assert here - named == {"test_the_table_names_every_test"}
    assert [each for each in sorted(named - here) if f"def {each}(" not in elsewhere] == []
    rules = set(re.findall(r"`([a-z-]+)`", table))
    assert {str(rule) for rule in Rule} <= rules
