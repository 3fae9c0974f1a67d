"""Drain on a real server process, and the device's own question to it."""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import server_support as support
from click.testing import CliRunner

from hedgerow import filelock
from hedgerow.device import cli, events
from hedgerow.device.canonical import Canonical
from hedgerow.device.control import ControlSocket
from hedgerow.device.watchdog import Answer

ROW = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 1.0]}]}
INFER = "/v2/models/assistant/infer"


@pytest.fixture
def device(tmp_path, unit_ca, running):
    """It serves 1.0.0, has 2.0.0, and answers on its control socket."""
    for version, addend in (("1.0.0", 1.0), ("2.0.0", 2.0)):
        support.write_bundle(tmp_path / "models" / "assistant" / version, "assistant", version, addend)
    started = support.start_device(tmp_path, unit_ca, heartbeat=str(tmp_path / "heartbeat.json"))
    running.append(started.process)
    started.process.until(lambda: support.answers(started.http) == 200, "ready")
    return started


@pytest.fixture
def question(device, tmp_path) -> Canonical:
    return Canonical(device.models, "assistant", device.socket, lock=tmp_path / "lock", timeout_s=10.0)


@pytest.fixture
def command(device, tmp_path):
    """``hedgerow-device`` on this device: exit code and JSON."""
    (tmp_path / "activation").mkdir()
    config = {
        "fleet": support.FLEET, "site": support.SITE, "host": support.HOST, "serial": support.SERIAL,
        "registry_url": "https://registry", "serving_model": "assistant", "models_dir": str(device.models),
        "activation_dir": str(tmp_path / "activation"), "control_socket": str(device.socket),
    }  # fmt: skip
    (tmp_path / "device.yml").write_text(json.dumps(config))

    def run(*arguments: str) -> tuple[int, Any]:
        done = CliRunner().invoke(
            cli.cli, [*arguments, "--json", "--config", str(tmp_path / "device.yml")], standalone_mode=False
        )
        assert done.exception is None, done.exception
        return int(done.return_value or 0), json.loads(done.stdout)

    return run


# ── drain ───────────────────────────────────────────────────────────────────


def test_drained_and_back(device, command, tmp_path: Path) -> None:
    code, drained = command("drain", "--within", "60")
    assert (code, drained["changed"], drained["inflight"]) == (0, True, 0)
    left = datetime.fromisoformat(drained["drained_until"]) - datetime.now(UTC)
    assert 50 < left.total_seconds() <= 60
    assert support.answers(device.http) == 503
    assert device.plain(INFER, ROW)[0] == 503
    assert "draining" in [reason["code"] for reason in device.plain("/health/report")[1]["reasons"]]
    assert command("drain")[1]["changed"] is False
    assert command("undrain")[1] == {"changed": True, "drained_until": None, "inflight": 0}
    assert (support.answers(device.http), device.plain(INFER, ROW)[0]) == (200, 200)
    assert command("undrain")[1]["changed"] is False
    assert [line["event"] for line in events.read(tmp_path / "activation")] == ["drained", "undrained"]


def test_whoever_drained_and_vanished_is_not_needed(device, command) -> None:
    command("drain", "--within", "1")
    device.process.until(lambda: support.answers(device.http) == 200, "ready by itself")
    assert "nobody ended the drain within 1 s" in device.process.log
    assert device.plain(INFER, ROW)[0] == 200


def test_a_second_drain_has_its_own_limit(device, command) -> None:
    command("drain", "--within", "1")
    command("drain", "--within", "600")
    control = ControlSocket(device.socket)
    until = control.status().drained_until
    past = time.monotonic() + 1.2
    device.process.until(lambda: time.monotonic() > past, "past the first limit")
    assert control.status().drained_until == until
    assert support.answers(device.http) == 503


@pytest.mark.parametrize("within", [0, -1, 3601, "long", None])
def test_a_drain_is_always_bounded(device, within) -> None:
    status, _ = support.ask(support.UnixConnection(device.socket), "/control/v1/drain", {"within_s": within})
    assert status == 400
    assert support.answers(device.http) == 200


def test_a_server_that_starts_is_not_drained(device, command, unit_ca, running) -> None:
    command("drain")
    device.process.close()
    again = support.start_device(device.folder, unit_ca)
    running.append(again.process)
    again.process.until(lambda: support.answers(again.http) == 200, "ready")


# ── the device's own question ───────────────────────────────────────────────


def test_it_answers_what_its_bundle_says(device, question) -> None:
    assert question.look().answer is Answer.ANSWERED
    device.control("prepare", "2.0.0")
    device.control("switch", "2.0.0")
    assert question.look().answer is Answer.ANSWERED
    assert device.plain("/health/report")[1]["serving"]["requests"] == 2


def test_a_wrong_answer_is_told(device, question) -> None:
    """The manifest on disk says another answer than the model that is loaded gives."""
    home = device.models / "assistant"
    support.write_bundle(home / "1.0.0", "assistant", "1.0.0", 1.0, answers=99.0)
    look = question.look()
    assert (look.answer, look.text) == (
        Answer.FAILED, "output y[0] is 2.0, not 99.0 (atol 1e-06, rtol 0)")  # fmt: skip


def test_a_manifest_that_is_gone_is_a_failure(device, question) -> None:
    (device.models / "assistant/1.0.0/manifest.json").unlink()
    assert question.look().answer is Answer.FAILED


def test_a_drained_server_is_excused(question, command) -> None:
    command("drain")
    look = question.look()
    assert (look.answer, look.text) == (Answer.EXCUSED, "the server is drained")


def test_a_full_queue_is_an_excuse(question, monkeypatch) -> None:
    monkeypatch.setattr(question._door, "post", lambda *_: (429, b"{}"))
    assert question.look().answer is Answer.EXCUSED


def test_a_command_that_works_is_an_excuse(question, tmp_path: Path) -> None:
    with filelock.exclusive(tmp_path / "lock", wait_s=0, work="testing"):
        assert question.look().answer is Answer.EXCUSED
    assert question.look().answer is Answer.ANSWERED


def test_a_server_that_is_down_is_unready_and_a_device_without_a_model_excused(device, question) -> None:
    device.process.close()
    assert question.look().answer is Answer.UNREADY
    shutil.rmtree(device.models / "assistant")
    assert question.look().answer is Answer.EXCUSED


def test_a_question_over_a_switch_counts_for_neither_version(device, question, monkeypatch) -> None:
    """Asked of 1.0.0, answered by 2.0.0, which adds another number."""
    ask = question._door.post

    def late(*arguments: Any) -> tuple[int, bytes]:
        device.control("prepare", "2.0.0")
        device.control("switch", "2.0.0")
        return ask(*arguments)

    monkeypatch.setattr(question._door, "post", late)
    assert question.look().answer is Answer.EXCUSED


def test_the_report_tells_what_the_agent_says(device) -> None:
    report = device.plain("/health/report")[1]
    assert report["agent"] is None
    beat = {"at": "2026-11-21T12:00:00Z", "last_answer": None, "failures": 4, "failing": "it said no"}
    beat["at"] = datetime.now(UTC).isoformat()
    (device.folder / "heartbeat.json").write_text(json.dumps(beat))
    report = device.plain("/health/report")[1]
    assert (report["agent"]["failures"], report["status"]) == (4, "failing")
    assert "watchdog_failing" in [reason["code"] for reason in report["reasons"]]
