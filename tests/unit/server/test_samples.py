"""The folder of kept answers: whose it is, what is in it, how long."""

from __future__ import annotations

import json
import os
import stat
import threading

import httpx
import pytest
import server_support as support
from server_support import Script, served

from hedgerow.errors import MachineError
from hedgerow.server.config import Limits
from hedgerow.server.models import Slot
from hedgerow.server.redaction import Redactor
from hedgerow.server.telemetry.caller import Caller
from hedgerow.server.telemetry.config import Samples as Settings
from hedgerow.server.telemetry.config import Telemetry as TelemetrySettings
from hedgerow.server.telemetry.finished import Finished
from hedgerow.server.telemetry.samples import Folder
from hedgerow.server.telemetry.service import Telemetry

DAY_S = 86400


def finished(number: int = 0, text: str = "an answer") -> Finished:
    return Finished(
        Caller(f"{number:032x}"), f"{number:016x}", "assistant", "1.0.0", "openai", 200, None,
        arrived=0.0, started=0.0, began=0.0, first=0.0, last=1.0, ended=1.0, tokens=20, prompt_tokens=10,
        finish="stop", text=text,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """``folder(now, …)`` → a folder at a time."""

    def make(now: float = 1e9, **settings) -> Folder:
        made = Settings(tmp_path / "samples", **{"per_hour": 60, **settings})
        return Folder(made, Redactor(words=["Hedge"]), wall=lambda: now)

    return make


@pytest.fixture
def serve(tmp_path, running):
    """``serve(script)`` → a client of a server that keeps samples; ``client.ended()``: what waits is written."""

    def start(script: Script, **settings) -> httpx.Client:
        def prepare(plane) -> None:
            plane._slots["assistant"] = Slot("assistant", served(script))
            kept = None if settings.get("folder", ...) is None else Settings(tmp_path / "samples", per_hour=60)
            prepare.telemetry = Telemetry(TelemetrySettings(samples=kept), plane.recorder, plane.metrics, {})

        server = support.InProcess(prepare, tmp_path, Limits())
        client = httpx.Client(base_url=server.url, timeout=support.PATIENCE_S)
        client.server, client.ended = server, prepare.telemetry.close
        running.insert(0, client)
        running.insert(0, server)
        return client

    return start


def names(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "samples").iterdir())


def test_what_is_kept_of_an_answer(serve, tmp_path) -> None:
    client = serve(Script(["Write to ", "jane@", "example.org", "."]))
    messages = [{"role": "user", "content": "My card is 4111 1111 1111 1111."}]
    asked = {"model": "assistant", "messages": messages, "max_tokens": 9, "temperature": 0}
    request_id = client.post("/v1/chat/completions", json=asked).headers["x-request-id"]
    client.ended()
    (path,) = (tmp_path / "samples").iterdir()
    kept = json.loads(path.read_bytes())
    assert kept["answer"] == "Write to [email]."
    assert kept["asked"]["messages"] == [{"role": "user", "content": "My card is [card]."}]
    assert (kept["asked"]["max_tokens"], kept["asked"]["temperature"]) == (9, 0)
    assert (kept["class"], kept["finish"], kept["tokens"], kept["prompt_tokens"]) == ("short", "stop", 4, 7)
    assert (kept["model"], kept["version"], kept["request_id"]) == ("assistant", "1.0.0", request_id)
    counted = client.server.plane.metrics.registry.get_sample_value
    assert counted("hedgerow_server_samples_total", {"class": "short", "outcome": "kept"}) == 1


def test_a_streamed_answer_is_kept_whole(serve, tmp_path) -> None:
    client = serve(Script(["one ", "two ", "three"]))
    asked = {"model": "assistant", "prompt": "count", "stream": True}
    client.post("/v1/completions", json=asked)
    support.wait(lambda: (tmp_path / "samples").exists() and names(tmp_path))
    client.ended()
    (path,) = (tmp_path / "samples").iterdir()
    kept = json.loads(path.read_bytes())
    assert (kept["answer"], kept["asked"]["prompt"]) == ("one two three", "count")


def test_off_by_default(serve, tmp_path) -> None:
    client = serve(Script(["Hi"]), folder=None)
    client.post("/v1/completions", json={"model": "assistant", "prompt": "hello"})
    client.ended()
    assert not client.server.plane.recorder.keeps_text
    assert not (tmp_path / "samples").exists()


def test_an_answer_that_failed_or_was_left_is_not_kept(serve, tmp_path) -> None:
    client = serve(Script(["a", "b"], fails_at=1))
    assert client.post("/v1/completions", json={"model": "assistant", "prompt": "hello"}).status_code == 500
    client.ended()
    assert names(tmp_path) == []


def test_nobody_else_can_read_them(folder, tmp_path) -> None:
    before = os.umask(0)
    try:
        path = folder().write(finished(), "usual")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "samples").stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o770])
def test_a_folder_that_others_can_read_is_refused(folder, tmp_path, mode) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples").chmod(mode)
    with pytest.raises(MachineError, match=f"{mode:04o}") as raised:
        folder()
    assert "chmod 0700" in str(raised.value.next_step)


def test_a_link_is_refused(folder, tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "samples").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match="no folder"):
        folder()


def test_a_folder_that_cannot_be_made_keeps_no_device_from_serving(serve, tmp_path, caplog) -> None:
    (tmp_path / "samples").write_text("a file is in the way")
    client = serve(Script(["Hi"]))
    asked = {"model": "assistant", "prompt": "hello"}
    assert client.post("/v1/completions", json=asked).status_code == 200
    client.ended()
    assert "samples cannot be kept here" in caplog.text


def test_words_of_the_operators_are_redacted_too(folder) -> None:
    assert json.loads(folder().write(finished(text="Ask Hedge."), "usual").read_bytes())["answer"] == "Ask [redacted]."


def test_a_secret_that_reaches_over_the_cut_is_redacted(folder) -> None:
    path = folder(max_characters=10).write(finished(text="1234 jane.doe@example.org"), "usual")
    assert json.loads(path.read_bytes())["answer"] == "1234 [emai…"


def test_they_are_deleted_when_they_are_too_old(folder, tmp_path) -> None:
    kept = folder(max_days=7)
    old, young = (kept.write(finished(number), "usual") for number in range(2))
    os.utime(old, (1e9 - 7 * DAY_S - 1,) * 2)
    os.utime(young, (1e9 - 7 * DAY_S + 1,) * 2)
    folder(max_days=7)  # also when the server starts
    assert names(tmp_path) == [young.name]


def test_the_oldest_are_deleted_when_all_are_too_large(folder, tmp_path) -> None:
    kept = folder(max_bytes=1024 * 1024)
    paths = [kept.write(finished(number), "usual") for number in range(5)]
    for number, path in enumerate(paths):
        os.utime(path, (1e9 + number,) * 2)
    size = sum(path.stat().st_size for path in paths[2:])
    folder(max_bytes=max(1024, size)).sweep()
    assert names(tmp_path) == sorted(path.name for path in paths[2:])


def test_a_write_that_was_cut_off_is_cleaned_up(folder, tmp_path) -> None:
    folder()
    (tmp_path / "samples" / ".x.json.abc").write_text("half")
    folder()
    assert names(tmp_path) == []


def test_what_comes_too_fast_to_be_written_is_counted(serve, tmp_path, monkeypatch) -> None:
    gate, begun = threading.Event(), threading.Event()
    real = Folder.write

    def slow(self, request, name):
        begun.set()
        assert gate.wait(support.PATIENCE_S)
        return real(self, request, name)

    monkeypatch.setattr(Folder, "write", slow)
    monkeypatch.setattr("hedgerow.server.telemetry.samples._WAITING", 1)
    client = serve(Script(["Hi"]))
    counted = client.server.plane.metrics.registry.get_sample_value
    asked = {"model": "assistant", "prompt": "hello"}
    client.post("/v1/completions", json=asked)
    assert begun.wait(support.PATIENCE_S)
    for _ in range(3):
        assert client.post("/v1/completions", json=asked).status_code == 200
    support.wait(lambda: counted("hedgerow_server_samples_total", {"class": "short", "outcome": "queue_full"}) == 2)
    gate.set()
    client.ended()
    assert len(names(tmp_path)) == 2
