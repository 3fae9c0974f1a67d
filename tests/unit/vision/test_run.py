"""The whole of it: pipelines in this process, and the command as systemd starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
import server_support as support
import vision_support as vision
import yaml

from hedgerow import paths
from hedgerow.vision.client import Refused, Unavailable
from hedgerow.vision.config import Camera, File
from hedgerow.vision.detector import Detector
from hedgerow.vision.drift import ConfidenceDrift
from hedgerow.vision.metrics import Metrics
from hedgerow.vision.pipeline import Pipeline


class Watching:
    """A pipeline over a file, and what its metrics say."""

    def __init__(self, path: Path, asked, *, pace="every_frame", drift=None) -> None:
        self.metrics = Metrics()
        self.seen = []
        self.stop = threading.Event()
        self.drift = drift or ConfidenceDrift(window=10, tolerance=0.1)
        self.pipeline = Pipeline(
            Camera(name="tape", source=File(path=path, pace=pace)),
            Detector(vision.model(labels=("cat",)), asked),
            drift=self.drift,
            metrics=self.metrics,
            stop=self.stop,
            tell=self.seen.append,
        )
        self.pipeline.start()

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"hedgerow_vision_{name}", {"camera": "tape"} | labels)

    def close(self) -> None:
        self.stop.set()
        self.pipeline.wake()
        self.pipeline.join()


def tape(tmp_path, frames: int, **settings) -> Path:
    return vision.write_video(tmp_path / "tape.mkv", [vision.plain(n) for n in range(frames)], **settings)


def sees_a_cat(_):
    return [(32, 32, 16, 8, 0.75)]


def test_every_frame_is_counted_once(tmp_path, running):
    watching = Watching(tape(tmp_path, 12), vision.Answering(sees_a_cat))
    running.append(watching)
    watching.pipeline.join()
    assert [each.frame for each in watching.seen] == list(range(1, 13))
    assert watching.value("frames_total", result="detected") == 12
    assert watching.value("frames_total", result="dropped") == 0
    assert watching.value("detections_total", **{"class": "cat"}) == 12
    assert watching.value("frame_drop_ratio") == 0
    assert watching.value("confidence_mean") == pytest.approx(0.75)
    assert watching.value("confidence_baseline") == pytest.approx(0.75)
    assert watching.value("frame_age_seconds_count") == 12
    assert watching.value("camera_up") == 0, "the file has ended"


def test_a_slow_model_sees_fewer_frames_and_never_old_ones(tmp_path, running):
    asked = vision.Answering(sees_a_cat, gate=threading.Semaphore(0))
    watching = Watching(tape(tmp_path, 30, rate=100), asked, pace="realtime")
    running.append(watching)
    support.wait(lambda: watching.value("frames_total", result="dropped") == 28)
    asked.gate.release(2)
    watching.pipeline.join()
    assert [each.frame for each in watching.seen][-1] == 30, "the newest, not the next"
    assert len(watching.seen) == 2
    assert watching.value("frame_drop_ratio") == pytest.approx(28 / 30)


def test_drift_raises_its_alarm(tmp_path, running, caplog):
    def fades(tensor):
        return [(32, 32, 16, 8, 0.9 if tensor.max() < 0.5 else 0.5)]

    # Frame n is of grey n: the padding is 114 / 255, so the picture alone decides from 128 on.
    path = vision.write_video(tmp_path / "tape.mkv", [vision.plain(grey) for grey in [0] * 10 + [255] * 10])
    watching = Watching(path, vision.Answering(fades))
    running.append(watching)
    watching.pipeline.join()
    assert watching.value("confidence_drift") == 1
    assert watching.value("confidence_baseline") == pytest.approx(0.9)
    assert "mean confidence is" in caplog.text


def test_another_version_has_a_baseline_of_its_own(tmp_path, running):
    class Swapped(vision.Answering):
        def infer(self, name, tensor):
            self.version = "2" if len(self.seen) >= 10 else "1"
            return super().infer(name, tensor)

    asked = Swapped(lambda _: [(32, 32, 16, 8, 0.9 if len(asked.seen) <= 10 else 0.5)])
    watching = Watching(tape(tmp_path, 20), asked)
    running.append(watching)
    watching.pipeline.join()
    assert watching.value("confidence_drift") == 0
    assert watching.value("confidence_baseline") == pytest.approx(0.5)


@pytest.mark.parametrize("error", [Unavailable("not now", 0.0), Refused("never")])
def test_trouble_is_counted_said_once_and_got_over(tmp_path, running, caplog, monkeypatch, error):
    class Failing(vision.Answering):
        def infer(self, name, tensor):
            if len(self.seen) < 3:
                self.seen.append(tensor)
                raise error
            return super().infer(name, tensor)

    monkeypatch.setattr("hedgerow.vision.pipeline._RETRY_S", (0.0, 0.0))
    watching = Watching(tape(tmp_path, 5), Failing(sees_a_cat))
    running.append(watching)
    watching.pipeline.join()
    assert watching.value("frames_total", result="failed") == 3
    assert watching.value("frames_total", result="detected") == 2
    assert caplog.text.count(str(error)) == 1


def test_a_thread_that_breaks_ends_it_all(tmp_path, running, caplog):
    def breaks(_):
        raise RuntimeError("unforeseen")

    watching = Watching(tape(tmp_path, 5), vision.Answering(breaks))
    running.append(watching)
    watching.pipeline.join()
    assert watching.stop.is_set()
    assert watching.pipeline.failure == "RuntimeError (the log has more)"
    assert "unforeseen" in caplog.text


def test_its_metrics_are_those_of_the_contract():
    text = (paths.repository_root() / "docs" / "contracts.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"`hedgerow_vision_`, each with camera: (.*?);", text, re.DOTALL)
    names = {re.sub(r"\{.*?\}", "", each).strip() for each in re.split(r",\s(?![^{]*\})", told)}
    made = {
        family.name.removeprefix("hedgerow_vision_") + ("_total" if family.type == "counter" else "")
        for family in Metrics().registry.collect()
    }
    assert names == made


# ── the command ─────────────────────────────────────────────────────────────


class Command:
    """``hedgerow vision run``."""

    def __init__(self, folder: Path, document: dict, *arguments: str) -> None:
        path = folder / "vision.yml"
        path.write_text(yaml.safe_dump(document))
        self.child = subprocess.Popen(
            [Path(sys.executable).parent / "hedgerow", "vision", "run", "--config", path, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )

    def end(self) -> tuple[int, str, str]:
        out, err = self.child.communicate(timeout=4 * support.PATIENCE_S)
        return self.child.returncode, out, err

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.communicate()


def document(server: str, source: dict, **others) -> dict:
    return {
        "model": {"name": "detector", "decoder": "yolox", "server": server, "labels": ["character"], "confidence": 0.3},
        "cameras": [{"name": "tape", "source": source}],
        "metrics": None,
    } | others


def test_a_file_through_the_command_and_the_real_server(real_model, tmp_path, running):
    server = vision.serve(real_model)
    running.append(server)
    one, _ = vision.picture((416, 416), [("A", 40, 60, 4), ("8", 150, 220, 5)])
    path = vision.write_video(tmp_path / "tape.mkv", [one, vision.plain(255, (416, 416))])
    forward = {"when": {"classes": ["character"]}, "to": {"kind": "folder", "path": str(tmp_path / "frames")}}
    source = {"kind": "file", "path": str(path), "pace": "every_frame"}
    command = Command(tmp_path, document(server.url, source, forward=forward), "--json")
    running.append(command)
    code, out, err = command.end()
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["camera"], line["frame"], len(line["detections"])) for line in lines] == [
        ("tape", 1, 2),
        ("tape", 2, 0),
    ]
    assert {each["label"] for each in lines[0]["detections"]} == {"character"}
    assert len(list((tmp_path / "frames").glob("*.jpg"))) == 1
    assert "frames leave this process" in err


def test_it_serves_metrics_and_ends_by_sigterm(tmp_path, running):
    """Without a server and without its camera: it stays, says so in its metrics, and ends when asked."""
    port = support.free_port()
    source = {"kind": "v4l2", "device": str(tmp_path / "video0")}
    metrics = {"address": "127.0.0.1", "port": port}
    command = Command(tmp_path, document("http://127.0.0.1:1", source, metrics=metrics))
    running.append(command)

    def exposed() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                return answer.read().decode()
        except OSError:
            assert command.child.poll() is None, command.end()
            return ""

    support.wait(lambda: re.search(r'reconnects_total{camera="tape"} [1-9]', exposed()))
    assert 'hedgerow_vision_camera_up{camera="tape"} 0.0' in exposed()
    command.child.send_signal(signal.SIGTERM)
    code, _, err = command.end()
    assert code == 0, err
    assert "camera tape: No such file or directory; again in 1 s" in err


SINK = {"kind": "https", "url": "https://sink.example/"}


@pytest.mark.parametrize(
    "change,code,text",
    [
        ({"model": {"name": "detector", "decoder": "none"}}, 2, "the configuration is not valid"),
        ({}, 1, "tape: No such file or directory"),
        # A file that everybody may read.
        ({"forward": {"when": {"drift": True}, "to": SINK | {"token_file": "/proc/version"}}}, 2, "holds a secret"),
        ({"forward": {"when": {"drift": True}, "to": SINK | {"token_file": "/nowhere"}}}, 2, "cannot be read"),
    ],
)
def test_what_ends_it_with_an_error(tmp_path, running, change, code, text):
    source = {"kind": "file", "path": str(tmp_path / "missing.mkv")}
    command = Command(tmp_path, document("http://127.0.0.1:1", source) | change)
    running.append(command)
    ended, _, err = command.end()
    assert (ended, text in err) == (code, True), err
