from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from hedgerow.device import health
from hedgerow.device.processor import ProcessorState
from hedgerow.errors import DeviceError, NetworkError, UsageError
from hedgerow.fleet import access
from hedgerow.fleet.endpoint import DeviceClient, Endpoint
from hedgerow.fleet.reported import decode_report
from hedgerow.identity.profiles import Profile

FLEET = "meadow-unit"


@pytest.fixture
def context(fleet_ca) -> ssl.SSLContext:
    return access.context(FLEET, Profile.OPERATOR)


def test_a_report_over_mutual_tls(pi, context: ssl.SSLContext) -> None:
    with DeviceClient(pi.endpoint, context) as client:
        report = client.report()
        assert client.certificate_expires is not None
        assert timedelta(29) < client.certificate_expires - datetime.now(UTC) < timedelta(31)
    assert (report.status, report.reference, report.board.temperature_c) == ("ok", "assistant@1.0.0", 48.25)
    method, path, _, subject = pi.seen[0]
    assert (method, path) == ("GET", "/health/report")
    assert (subject["organizationalUnitName"], subject["commonName"]) == ("operator", "controller-operator")


def test_a_failing_host_reports_with_an_error_code(pi, context: ssl.SSLContext) -> None:
    pi.report({"status": "failing", "reasons": [{"code": "model_missing", "severity": "error", "text": "no"}]}, 503)
    with DeviceClient(pi.endpoint, context) as client:
        report = client.report()
    assert (report.status, report.model, report.reasons[0].code) == ("failing", None, "model_missing")


def test_another_host_at_the_address_is_refused(pi, context: ssl.SSLContext) -> None:
    stranger = replace(pi.endpoint, server_name=f"pi-2.orchard.{FLEET}")
    with DeviceClient(stranger, context) as client, pytest.raises(NetworkError, match="certificate verify failed"):
        client.report()
    assert pi.seen == []


def test_a_client_of_nobody_is_refused(pi, fleet_ca) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(fleet_ca.folder / "ca.crt")
    with DeviceClient(pi.endpoint, context) as client, pytest.raises(NetworkError, match="cannot be reached"):
        client.report()


def test_a_host_that_is_off(pi, context: ssl.SSLContext) -> None:
    endpoint = pi.endpoint
    pi.stop()
    with DeviceClient(endpoint, context) as client, pytest.raises(NetworkError, match="cannot be reached"):
        client.report()


@pytest.mark.parametrize(
    "answer, says",
    [
        ((502, "text/html", b"<html>bad gateway"), "HTTP 502 instead of a health report"),
        ((200, "application/json", b'{"status": 7}'), r"Expected `str`, got `int` - at `\$.status`"),
        ((200, "application/json", b"not json"), "cannot be read"),
    ],
)
def test_what_is_no_report(pi, context: ssl.SSLContext, answer: tuple[int, str, bytes], says: str) -> None:
    pi.answers["/health/report"] = answer
    with DeviceClient(pi.endpoint, context) as client, pytest.raises(DeviceError, match=says):
        client.report()


def test_a_refused_request_carries_the_servers_words(pi, context: ssl.SSLContext) -> None:
    pi.answers["/v2/models/x/infer"] = (400, "application/json", b'{"error": "no such input"}')
    with DeviceClient(pi.endpoint, context) as client, pytest.raises(DeviceError, match="HTTP 400") as caught:
        client.post("/v2/models/x/infer", {})
    assert "no such input" in str(caught.value.where)


def test_the_view_reads_what_a_device_writes() -> None:
    hardware = {
        "board": {"model": "Raspberry Pi 5 Model B Rev 1.1"},
        "thermal": {"soc_c": 81.5, "hat_c": 50.0},
        "hat": {"kind": "hat-plus-2"},
        "disk": {"free_mb": {"/": 900}},
        "clock": {"synced": False},
    }
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    observed = health.Observation(
        host="pi-1",
        serial="00",
        runtime="0.1.0",
        serving=health.Serving(window_s=60, ttft_p95_ms=240.0, tokens_per_s=11.5),
        hardware=hardware,
        model=health.ModelState("assistant", "1.1.0", "5a", now, "1.0.0"),
        confirm_deadline=now,
        processor=ProcessorState(total_s=80.0, others_s=12.5),
    )
    seen = decode_report(msgspec.json.encode(health.build(observed, now)), where="pi-1")
    assert (seen.status, seen.reference, seen.pending is not None) == ("degraded", "assistant@1.1.0", True)
    assert [reason.code for reason in seen.troubles] == ["hot"]
    assert {reason.code for reason in seen.reasons} == {"hot", "clock_unsynced", "confirm_pending"}
    assert (seen.board.disk_free_mb, seen.board.temperature_c, seen.hat.temperature_c) == (900, 81.5, 50.0)
    assert (seen.serving.tokens_per_s, seen.serving.ttft_p95_ms, seen.hat.kind) == (11.5, 240.0, "hat-plus-2")
    assert seen.processor is not None
    assert (seen.processor.total_s, seen.processor.others_s) == (80.0, 12.5)


def test_an_address_of_version_6_stands_in_brackets() -> None:
    assert Endpoint("pi", "fd00::1", "pi.x.y").url == "https://[fd00::1]:8443"


def test_a_fleet_without_ca_says_what_to_type(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        access.context("nowhere", Profile.CLIENT)
    assert "hedgerow ca init" in str(caught.value.next_step)


def test_a_good_certificate_needs_no_ca_key(fleet_ca) -> None:
    access.context(FLEET, Profile.CLIENT)
    (fleet_ca.folder / "ca.key").unlink()
    access.context(FLEET, Profile.CLIENT)


def test_a_certificate_near_its_end_is_renewed(fleet_ca) -> None:
    certificate = fleet_ca.folder / "clients" / "controller-operator.crt"
    access.context(FLEET, Profile.OPERATOR)
    first = certificate.read_bytes()
    access.context(FLEET, Profile.OPERATOR, now=datetime.now(UTC) + timedelta(days=5))
    assert certificate.read_bytes() == first
    access.context(FLEET, Profile.OPERATOR, now=datetime.now(UTC) + timedelta(days=6, hours=12))
    assert certificate.read_bytes() != first
