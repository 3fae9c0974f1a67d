"""A server whose board is under pressure, through the data plane: what it answers and tells, how it comes back."""

from __future__ import annotations

import asyncio
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
import server_support as support
from server_support import Script, served

from hedgerow.device.health import Code, Observation, Serving, build
from hedgerow.server.backends import TextRequest
from hedgerow.server.computing import Computing
from hedgerow.server.dataplane import DataPlane
from hedgerow.server.degradation import Level, Policy, Readings
from hedgerow.server.degrading import Degradation
from hedgerow.server.errors import Overloaded
from hedgerow.server.inference import InferRequest
from hedgerow.server.models import Slot

COOL, WARM, HOT, BOILING = (Readings(temperature_c=value) for value in (60.0, 80.0, 82.0, 90.0))
ONE = InferRequest("assistant", {"x": np.ones((1, 2), np.float32)})
EXACT = InferRequest("assistant", {"x": np.ones((1, 2), np.float32)}, "1.0.0")
SMALL = Policy(smaller_model="small@1.0.0")


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    support.write_bundle(tmp_path / "assistant" / "1.0.0", "assistant", "1.0.0", 1.0)
    support.write_bundle(tmp_path / "assistant" / "2.0.0", "assistant", "2.0.0", 2.0)
    (tmp_path / "assistant" / "current").symlink_to("1.0.0")
    support.write_bundle(tmp_path / "small" / "1.0.0", "small", "1.0.0", 5.0)
    return tmp_path


def with_plane(work, folder: Path, policy: Policy | None, clock: Clock) -> None:
    async def main() -> None:
        plane = DataPlane(folder, model="assistant", degradation=policy)
        plane.degradation._clock = clock
        try:
            await asyncio.wait_for(work(plane), support.PATIENCE_S)
        finally:
            await plane.close()

    asyncio.run(main())


def with_text(work, folder: Path, policy: Policy, clock: Clock, script: Script) -> None:
    async def prepared(plane: DataPlane) -> None:
        plane._slots["assistant"] = Slot("assistant", served(script))
        await work(plane)

    with_plane(prepared, folder, policy, clock)


async def said(plane: DataPlane, max_tokens: int = 256) -> tuple[str, str | None]:
    request = TextRequest(prompt="hello", max_tokens=max_tokens)
    pieces = [piece async for batch in plane.generate("assistant", request, protocol="t") for piece in batch]
    return "".join(piece.text for piece in pieces), pieces[-1].finish


async def added(plane: DataPlane, request: InferRequest = ONE) -> float:
    return float((await plane.infer(request, protocol="t")).outputs["y"][0, 0]) - 1


def told(plane: DataPlane) -> list[str]:
    report = build(
        Observation("pi-1", "00", "0.1.0", Serving(300.0), degradation=plane.degradation.shown()), datetime.now(UTC)
    )
    return [reason.code.value for reason in report.reasons if reason.code is not Code.NO_MODEL]


def metric(plane: DataPlane, name: str, **labels: str) -> float | None:
    return plane.metrics.registry.get_sample_value(f"hedgerow_server_{name}", labels)


def test_a_hot_device_shortens_sheds_and_comes_back_step_by_step(folder: Path, clock: Clock) -> None:
    async def work(plane: DataPlane) -> None:
        assert await said(plane) == ("one two three", "stop")
        await plane.degradation.observe(HOT)
        assert await said(plane) == ("one two", "length")
        assert await said(plane, max_tokens=1) == ("one", "length")
        assert told(plane) == ["answers_shortened"]
        assert metric(plane, "degradation_level") == 2
        assert metric(plane, "degraded_requests_total", step="answers_shortened") == 1
        clock.now_s += 1
        await plane.degradation.observe(BOILING)
        with pytest.raises(Overloaded, match=r"under pressure: the processor has 90\.0 °C") as caught:
            await said(plane)
        assert caught.value.retry_after_s == 60
        assert metric(plane, "errors_total", model="assistant", protocol="t", cause="pressure") == 1
        window = plane.serving_figures(restarts=None)
        assert (window.requests, window.errors) == (3, 0)  # a release is not judged by whom the board's state sent away
        assert told(plane) == ["load_shed"]
        clock.now_s += 59
        await plane.degradation.observe(COOL)
        with pytest.raises(Overloaded) as caught:
            await said(plane)
        assert caught.value.retry_after_s == 1
        clock.now_s += 1
        await plane.degradation.observe(COOL)
        assert await said(plane) == ("one two", "length")
        clock.now_s += 59
        await plane.degradation.observe(COOL)
        assert metric(plane, "degradation_level") == 2
        clock.now_s += 1
        await plane.degradation.observe(COOL)
        assert await said(plane) == ("one two three", "stop")
        assert (told(plane), plane.degradation.stood_in, metric(plane, "degradation_level")) == ([], False, 0)

    with_text(work, folder, Policy(max_tokens=2), clock, Script(["one", " two", " three"]))


def test_golden_questions_are_answered_whole(folder: Path, clock: Clock) -> None:
    async def work(plane: DataPlane) -> None:
        plane.serving("assistant").golden_tokens = 3
        await plane.degradation.observe(HOT)
        assert await said(plane, max_tokens=3) == ("one two three", "length")
        assert await said(plane) == ("one two three", "length")

    with_text(work, folder, Policy(max_tokens=2), clock, Script(["one", " two", " three", " four"]))


def test_a_prepared_answer_asks_no_model(folder: Path, clock: Clock) -> None:
    script = Script(["Hi"])

    async def work(plane: DataPlane) -> None:
        await plane.degradation.observe(BOILING)
        assert await said(plane) == ("Ask me again in a minute.", "stop")
        assert script.begun == []
        assert told(plane) == ["answers_canned"]
        assert metric(plane, "degraded_requests_total", step="answers_canned") == 1
        assert metric(plane, "requests_total", model="assistant", version="1.0.0", protocol="t", code="200") == 1
        assert metric(plane, "time_to_first_token_seconds_count", model="assistant") is None
        plane.drain.begin(60)
        with pytest.raises(Overloaded, match="drained"):
            await said(plane)

    with_text(work, folder, Policy(canned_answer="Ask me again in a minute."), clock, script)


def test_tensors_have_no_prepared_answer(folder: Path, clock: Clock) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_current()
        await plane.degradation.observe(HOT)
        assert (plane.degradation.level, told(plane)) == (Level.FULL, [])  # there is nothing to shorten
        await plane.degradation.observe(BOILING)
        assert told(plane) == ["load_shed"]
        with pytest.raises(Overloaded, match="under pressure"):
            await added(plane)

    with_plane(work, folder, Policy(canned_answer="x"), clock)


def test_a_smaller_model_answers_while_it_is_hot(folder: Path, clock: Clock) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_current()
        big = plane.served("assistant")
        await plane.degradation.observe(WARM)
        assert (await added(plane), await added(plane, EXACT)) == (5.0, 1.0)
        shown = plane.degradation.shown()
        assert (shown.answers, shown.level, told(plane)) == ("small@1.0.0", 1, ["smaller_model"])
        assert metric(plane, "degraded_requests_total", step="smaller_model") == 1
        assert plane.serving("assistant") is big  # what a rollout asks after has not changed
        small = plane.degradation._smaller
        clock.now_s += 60
        await plane.degradation.observe(COOL)
        assert (await added(plane), told(plane)) == (1.0, [])
        assert plane.served("assistant") is big
        assert await asyncio.to_thread(small.wait_closed, support.PATIENCE_S)

    with_plane(work, folder, SMALL, clock)


def test_short_of_memory_only_one_of_both_is_loaded(folder: Path, clock: Clock) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_current()
        big = plane.served("assistant")
        await added(plane)
        await plane.degradation.observe(Readings(memory_available_mb=200))
        assert await asyncio.to_thread(big.wait_closed, support.PATIENCE_S)
        assert await added(plane) == 5.0
        assert plane.ready()
        with pytest.raises(Overloaded, match=r"assistant@1\.0\.0 has given its memory to a smaller model"):
            await added(plane, EXACT)
        clock.now_s += 60
        await plane.degradation.observe(Readings(memory_available_mb=384))
        # The bundle says that it takes a megabyte: as much as would be left is too little to leave the step.
        assert plane.degradation.level == Level.SMALLER
        await plane.degradation.observe(Readings(memory_available_mb=385))
        assert (plane.degradation.level, await added(plane), await added(plane, EXACT)) == (Level.FULL, 1.0, 1.0)
        assert plane.served("assistant").since == big.since
        assert plane.statistics("assistant")[0].statistics.success.count == 3

    with_plane(work, folder, SMALL, clock)


def test_what_cannot_be_loaded_again_leaves_the_smaller_model(folder: Path, clock: Clock) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_current()
        await plane.degradation.observe(Readings(memory_available_mb=200))
        shutil.move(folder / "assistant" / "1.0.0", folder / "elsewhere")
        clock.now_s += 60
        await plane.degradation.observe(Readings(memory_available_mb=2000))
        assert (await added(plane), told(plane)) == (5.0, ["smaller_model"])
        assert "assistant@1.0.0 cannot be loaded again" in plane.degradation.shown().hindered
        shutil.move(folder / "elsewhere", folder / "assistant" / "1.0.0")
        await plane.degradation.observe(Readings(memory_available_mb=2000))
        assert await added(plane) == 5.0  # not at every reading
        clock.now_s += 60
        await plane.degradation.observe(Readings(memory_available_mb=2000))
        assert (await added(plane), told(plane)) == (1.0, [])

    with_plane(work, folder, SMALL, clock)


def test_an_activation_while_a_smaller_model_answers(folder: Path, clock: Clock) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_current()
        await plane.degradation.observe(Readings(memory_available_mb=200))
        await plane.prepare("assistant", "2.0.0")
        await plane.switch("assistant", "2.0.0")
        assert await added(plane) == 5.0
        await plane.degradation.observe(Readings(memory_available_mb=200))
        assert plane.served("assistant").retired
        clock.now_s += 60
        await plane.degradation.observe(COOL)
        assert await added(plane) == 2.0

    with_plane(work, folder, SMALL, clock)


@pytest.mark.parametrize(
    "case",
    [
        (lambda home: shutil.rmtree(home / "small"), WARM, "small@1.0.0 is not on this device: hedgerow-device stage"),
        (lambda home: (home / "small/1.0.0/model.onnx").write_bytes(b"junk"), WARM, "INVALID_PROTOBUF"),
        (
            lambda home: support.write_bundle(home / "small/1.0.0", "small", "1.0.0", 5.0, answers=9.0),
            WARM,
            "differs from the golden one",
        ),
        (
            lambda home: None,
            Readings(memory_available_mb=64.5),
            "small@1.0.0 needs 1 MB; 64 MB are available, 64 stay free",
        ),
    ],
)
def test_a_smaller_model_that_cannot_answer_is_passed_over(folder, clock, case, caplog) -> None:
    spoil, readings, says = case
    spoil(folder)

    async def work(plane: DataPlane) -> None:
        await plane.open_current()
        await plane.degradation.observe(readings)
        assert (plane.degradation.level, await added(plane)) == (Level.FULL, 1.0)
        assert says in caplog.text
        assert caplog.text.count("cannot answer") == 1
        await plane.degradation.observe(readings)
        assert caplog.text.count("cannot answer") == 1

    with_plane(work, folder, SMALL, clock)


def test_a_smaller_model_with_other_tensors_is_passed_over(folder: Path, clock: Clock, caplog) -> None:
    (folder / "small" / "1.0.0" / "manifest.json").unlink()
    support.write_identity(folder / "small" / "1.0.0", support.TensorProto.INT64)

    async def work(plane: DataPlane) -> None:
        await plane.open_current()
        await plane.degradation.observe(WARM)
        assert (plane.degradation.level, await added(plane)) == (Level.FULL, 1.0)
        assert "its inputs are x INT64[-1], not x FP32[-1, 2]" in caplog.text

    with_plane(work, folder, SMALL, clock)


def test_a_bundle_says_from_which_heat_on_it_wants_less(folder: Path, clock: Clock) -> None:
    path = folder / "assistant" / "1.0.0" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "thermal": {"degrade_above_c": 55}}))

    async def work(plane: DataPlane) -> None:
        await plane.open_current()
        await plane.degradation.observe(COOL)
        assert plane.degradation.level == Level.SMALLER

    with_plane(work, folder, SMALL, clock)


def test_without_a_policy_nothing_is_given_less_of(folder: Path, clock: Clock) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_current()
        await plane.degradation.observe(BOILING)
        assert (await added(plane), plane.degradation.shown()) == (1.0, None)

    with_plane(work, folder, None, clock)


def test_a_board_that_cannot_be_read_once_is_read_again(folder: Path, clock: Clock) -> None:
    answers = iter([RuntimeError("the sensors are gone"), BOILING])

    def read() -> Readings:
        answer = next(answers, BOILING)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def work(plane: DataPlane) -> None:
        await plane.open_current()
        watching = asyncio.create_task(plane.degradation.watch(read))
        await support.until(lambda: plane.degradation.level == Level.SHED)
        watching.cancel()

    with_plane(work, folder, Policy(every_s=1), clock)


# ── over sockets ────────────────────────────────────────────────────────────


def test_over_http_it_says_when_to_come_again(tmp_path: Path, running, clock: Clock) -> None:
    def prepare(plane: DataPlane) -> None:
        plane._slots["assistant"] = Slot("assistant", served(Script(["Hi"])))
        plane.degradation = Degradation(
            Policy(),
            models_dir=tmp_path,
            computing=Computing(threads=1),
            serving=lambda: plane.serving("assistant"),
            restore=plane._swaps.restore,
            patience=plane._patience.loading,
            metrics=plane.metrics,
            clock=clock,
        )

    server = support.InProcess(prepare, tmp_path, support.Limits())
    running.append(server)
    asyncio.run(server.plane.degradation.observe(BOILING))
    with httpx.Client(base_url=server.url, timeout=support.PATIENCE_S) as client:
        asked = {"model": "assistant", "messages": [{"role": "user", "content": "hello"}]}
        answer = client.post("/v1/chat/completions", json=asked)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        assert "under pressure: the processor has 90.0 °C" in answer.json()["error"]["message"]
        report = client.get("/health/report").json()
        assert report["degradation"]["steps"] == ["load_shed"]
        assert "load_shed" in [reason["code"] for reason in report["reasons"]]
        assert "hedgerow_server_degradation_level 3.0" in client.get("/metrics").text


def test_a_device_reads_its_own_heat(folder: Path, unit_ca, running) -> None:
    """The whole process, on a board that a test heats and cools."""
    sensor = folder / "board" / "sys/class/thermal/thermal_zone0/temp"
    sensor.parent.mkdir(parents=True)
    (folder / "board" / "proc").mkdir()
    (folder / "board" / "proc" / "meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 6000000 kB\n")
    sensor.write_text("91000\n")
    root = folder / "device"
    root.mkdir()
    shutil.copytree(folder / "assistant", root / "models" / "assistant", symlinks=True)
    device = support.start_device(
        root,
        unit_ca,
        environment={"HEDGEROW_HARDWARE_ROOT": str(folder / "board")},
        degradation={"every_s": 1, "minimum_stay_s": 0},
    )
    running.append(device.process)
    asked = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}]}

    def status() -> int | None:
        try:
            return device.plain("/v2/models/assistant/infer", asked)[0]
        except OSError:
            return None

    def codes() -> list[str]:
        return [reason["code"] for reason in device.plain("/health/report")[1]["reasons"]]

    device.process.until(lambda: support.answers(device.http) == 200, "ready")
    device.process.until(lambda: status() == 503, "shedding")
    assert "load_shed" in codes()
    assert device.control("status")[1]["stood_in"] is True
    sensor.write_text("60000\n")
    device.process.until(lambda: status() == 200, "back")
    assert "load_shed" not in codes()
