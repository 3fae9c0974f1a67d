"""The rollout's gate against the real server: another version is switched to while it is asked over mutual TLS."""

from __future__ import annotations

import ssl

import pytest
import server_support as support

from hedgerow.fleet.endpoint import DeviceClient, Endpoint
from hedgerow.identity.profiles import Profile
from hedgerow.registry import manifest as manifests
from hedgerow.rollout.gate.samples import Expectation
from hedgerow.rollout.gate.session import GateSession
from hedgerow.rollout.gate.verdicts import Verdict
from hedgerow.rollout.gate.watcher import HttpsWatcher
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.plan import Release
from hedgerow.rollout.policy import parse

POLICY = parse({"soak": {"passes": 3, "interval_s": 0.2, "deadline_s": 30}}, where="test")


def release_of(device: support.Device, version: str) -> Release:
    data = (device.models / "assistant" / version / "manifest.json").read_bytes()
    manifest = manifests.decode(data, where=version)
    return Release(
        bundle=manifest.reference,
        sha256=manifests.digest(data),
        size_bytes=manifest.size,
        probe=manifest.golden[0],
        probes=list(manifest.golden),
        tensor_types={tensor.name: tensor.dtype for tensor in manifest.inputs},
    )


@pytest.fixture
def device(tmp_path, unit_ca, running) -> support.Device:
    home = tmp_path / "models" / "assistant"
    support.write_bundle(home / "1.0.0", "assistant", "1.0.0", 1.0)
    support.write_bundle(home / "2.0.0", "assistant", "2.0.0", 2.0)
    device = support.start_device(tmp_path, unit_ca)
    running.append(device.process)
    device.process.until(lambda: support.answers(device.http) == 200, "ready")
    return device


@pytest.mark.parametrize("asked, verdict", [("2.0.0", Verdict.PASS), ("1.0.0", Verdict.FAIL)])
def test_a_version_is_measured_switched_and_judged(device, unit_ca, asked: str, verdict: Verdict) -> None:
    """The second release has the questions of the version before: the new one answers them wrongly."""
    files = unit_ca.issue_client(Profile.OPERATOR, "controller")
    context = ssl.create_default_context(cafile=unit_ca.folder / "ca.crt")
    context.load_cert_chain(files.certificate, files.key)
    name = f"{support.HOST}.{support.SITE}.{support.FLEET}"
    release, questions = release_of(device, "2.0.0"), release_of(device, asked)
    release = Release(
        bundle=release.bundle,
        sha256=release.sha256,
        size_bytes=release.size_bytes,
        probe=questions.probe,
        tensor_types=release.tensor_types,
    )
    expected = Expectation(version=release.bundle, sha256=release.sha256)
    with DeviceClient(Endpoint(support.HOST, "127.0.0.1", name, device.https), context) as client:
        gate = GateSession(HttpsWatcher(client), release, expected, POLICY, clock=Clock())
        before = gate.baseline()
        assert before.asked == 30
        device.control("prepare", "2.0.0")
        device.control("switch", "2.0.0")
        found = gate.run()
    assert found.verdict is verdict, found
    evidence = gate.evidence()
    # The server has counted what the gate has asked, in both windows.
    assert evidence.after["reported_requests"] >= before.asked
    assert evidence.after["reported_errors"] == 0
    assert evidence.before["p50_ms"] > 0
    assert {"memory_used_ratio", "reported_p95_ms"} <= set(evidence.after)
