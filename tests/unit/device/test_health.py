from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import msgspec
import pytest

from hedgerow.device import health
from hedgerow.device.health import (
    AgentState,
    ApplicationState,
    Code,
    DegradationState,
    ModelState,
    Observation,
    Serving,
    build,
)
from hedgerow.fleet.reported import decode_report

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SCHEMA = Path(health.__file__).parent / "health.schema.json"
MODEL = ModelState("assistant", "1.0.0", "5a" * 32, NOW, None)
WELL = {
    "board": {"model": "Raspberry Pi 5 Model B Rev 1.1"},
    "throttled": {"now": dict.fromkeys(("undervoltage", "capped", "throttled", "soft_limit"), False)},
    "undervoltage_now": False,
    "thermal": {"soc_c": 48.0, "hat_c": None},
    "hat": {"kind": "hat-plus-2", "mismatch": False, "error": None, "link_speed_gts": 8.0, "link_width": 1},
    "memory": {"available_mb": 4000},
    "disk": {"free_mb": {"/": 9000, "/var": 5000}},
    "clock": {"synced": True},
}  # fmt: skip


def observed(**change) -> Observation:
    hardware = {**WELL, **change.pop("hardware", {})}
    values = {"host": "pi-1", "serial": "00", "runtime": "0.1.0", "serving": Serving(300.0), "model": MODEL}
    return Observation(**values | change, hardware=hardware)


def codes(report: health.HealthReport) -> list[str]:
    return [reason.code.value for reason in report.reasons]


RUNS = (
    ApplicationState("kiosk", "1.0.0", active=True, restarts=3, answers=True),
    ApplicationState("map", None, active=False, restarts=0),
)


@dataclass
class Case:
    """One thing that is not well, and what the report must make of it."""

    change: dict
    code: Code
    status: str
    detail: str = ""


CASES = [
    Case({"model": None}, Code.NO_MODEL, "failing"),
    Case({"model": None, "model_error": "broken"}, Code.MODEL_FAILED, "failing", "(broken)"),
    Case({"draining": True}, Code.DRAINING, "degraded"),
    Case({"confirm_deadline": NOW}, Code.CONFIRM_PENDING, "ok", "2026-11-21 12:00:00 UTC"),
    Case({"server_down": True, "model": None}, Code.SERVER_DOWN, "failing"),
    Case({"hardware": {"throttled": {"now": {"capped": True}}}}, Code.THROTTLED, "degraded", "(capped)"),
    Case({"hardware": {"undervoltage_now": True}}, Code.UNDERVOLTAGE, "degraded"),
    Case({"hardware": {"throttled": {"now": {"undervoltage": True}}}}, Code.UNDERVOLTAGE, "degraded"),
    Case({"hardware": {"thermal": {"soc_c": 80.0}}}, Code.HOT, "degraded", "80.0 °C"),
    Case({"hardware": {"hat": {"mismatch": True, "error": "x"}}}, Code.HAT_MISMATCH, "degraded"),
    Case({"hardware": {"hat": {"error": "status 36"}}}, Code.HAT_ERROR, "degraded", "status 36"),
    Case({"hardware": {"disk": {"free_mb": {"/": 9000, "/var": 255}}}}, Code.DISK_LOW, "degraded", "255 MB"),
    Case({"hardware": {"memory": {"available_mb": 127}}}, Code.MEMORY_LOW, "degraded", "127 MB"),
    Case({"hardware": {"clock": {"synced": False}}}, Code.CLOCK_UNSYNCED, "ok"),
    Case({"certificate_ends": NOW + timedelta(days=2, hours=23)}, Code.CERTIFICATE_ENDS_SOON, "degraded"),
    Case({"certificate_ends": NOW}, Code.CERTIFICATE_EXPIRED, "failing"),
    Case({"revocation_outdated": NOW}, Code.REVOCATION_OUTDATED, "degraded", "since 2026-11-21 12:00 UTC"),
    Case({"serving": Serving(300.0, requests=100, errors=6)}, Code.REQUESTS_FAIL, "degraded", "6 of 100 in 300 s"),
    Case({"agent": AgentState(NOW), "watchdog": "it said no"}, Code.WATCHDOG_FAILING, "failing", "(it said no)"),
    Case({"agent": AgentState(NOW - timedelta(minutes=16))}, Code.AGENT_SILENT, "degraded", "since 2026-11-21 11:44"),
    Case(
        {"applications": (ApplicationState("kiosk", "1.0.0", active=False, restarts=3, trouble="failed, exit-code"),)},
        Code.APPLICATION_FAILING,
        "degraded",
        "(kiosk: failed, exit-code)",
    ),
    *(
        Case({"degradation": DegradationState(1, (code.value,), "85.0 °C", NOW)}, code, "degraded", "(85.0 °C)")
        for code in (Code.SMALLER_MODEL, Code.ANSWERS_SHORTENED, Code.ANSWERS_CANNED, Code.LOAD_SHED)
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code.value)
def test_each_trouble_has_its_code_its_weight_and_a_sentence(case: Case) -> None:
    report = build(observed(**case.change), NOW)
    assert codes(report) == [case.code.value]
    assert report.status == case.status
    assert report.reasons[0].text.startswith(health.REASONS[case.code][1])
    assert case.detail in report.reasons[0].text


def test_every_code_is_tried_above() -> None:
    assert {case.code for case in CASES} == set(Code) == set(health.REASONS)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"hardware": {"thermal": {"soc_c": 79.9}}},
        {"hardware": {"disk": {"free_mb": {"/": 256}}, "memory": {"available_mb": 128}}},
        {"certificate_ends": NOW + timedelta(days=3)},
        {"serving": Serving(300.0, requests=9, errors=9)},
        {"serving": Serving(300.0, requests=100, errors=5)},
        {"agent": AgentState(NOW - timedelta(minutes=15), None, 2)},
        {"hardware": dict.fromkeys(WELL)},
        {"hardware": {group: {} for group in WELL}},
        {"hardware": {"disk": {"free_mb": {"/": None}}}},
        {"applications": RUNS},
    ],
)
def test_what_is_well_or_unknown_is_no_reason(change) -> None:
    report = build(observed(**change), NOW)
    assert (codes(report), report.status) == ([], "ok")


def test_the_worst_reason_gives_the_status() -> None:
    report = build(observed(model=None, draining=True, hardware={"clock": {"synced": False}}), NOW)
    assert codes(report) == ["no_model", "draining", "clock_unsynced"]
    assert report.status == "failing"


def test_since_is_when_a_reason_was_first_seen() -> None:
    seen: dict[Code, datetime] = {}
    later, last = NOW + timedelta(minutes=5), NOW + timedelta(minutes=9)
    build(observed(draining=True), NOW, seen)
    assert build(observed(draining=True), later, seen).reasons[0].since == NOW
    assert build(observed(), later, seen).reasons == ()
    assert seen == {}
    assert build(observed(draining=True), last, seen).reasons[0].since == last


def test_figures_of_the_board() -> None:
    report = build(observed(hardware={"throttled": {"now": {"capped": True}, "since_boot": {"throttled": True}}}), NOW)
    assert report.board.throttled_now == ("capped",)
    assert report.board.throttled_since_boot == ("throttled",)
    assert (report.board.disk_free_mb, report.hat.link, report.clock_synced) == (5000, "8.0 GT/s x1", True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code.value)
def test_schema_and_controller_agree_with_every_report(case: Case) -> None:
    data = msgspec.json.encode(build(observed(**case.change), NOW))
    jsonschema.validate(json.loads(data), json.loads(SCHEMA.read_text()))
    seen = decode_report(data, where="pi-1")
    assert (seen.status, [reason.code for reason in seen.reasons]) == (case.status, [case.code.value])


def test_an_unknown_code_breaks_the_schema() -> None:
    report = json.loads(msgspec.json.encode(build(observed(draining=True), NOW)))
    report["reasons"][0]["code"] = "tired"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, json.loads(SCHEMA.read_text()))


def test_the_schema_beside_the_module_is_generated() -> None:
    done = subprocess.run([sys.executable, "-m", "hedgerow.device.health"], capture_output=True, text=True, check=True)
    assert SCHEMA.read_text() == done.stdout


def test_the_agent_s_figures_stand_in_the_report_and_a_silent_agent_s_finding_does_not() -> None:
    agent = AgentState(NOW, NOW - timedelta(minutes=1), 1)
    assert build(observed(agent=agent), NOW).agent == agent
    silent = AgentState(NOW - timedelta(hours=1), None, 9)
    assert codes(build(observed(agent=silent, watchdog="it said no"), NOW)) == ["agent_silent"]
