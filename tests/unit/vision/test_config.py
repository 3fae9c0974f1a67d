"""What the configuration refuses, and that it says so."""

from __future__ import annotations

import re

import pytest

from hedgerow import paths
from hedgerow.errors import UsageError
from hedgerow.vision import config
from hedgerow.vision.config import Rtsp

GOOD = """
model: {name: detector, decoder: yolov8, labels: [person, cat]}
cameras:
  - {name: door, source: {kind: rtsp, url: "rtsp://cam.example/1"}}
  - {name: desk, source: {kind: v4l2, device: /dev/video2, size: [640, 480], frames_per_s: 15}}
  - {name: tape, source: {kind: file, path: tape.mkv, pace: every_frame}}
forward:
  when: {classes: [cat], confidence_between: [0.25, 0.4], drift: true}
  to: {kind: folder, path: /var/lib/frames}
"""


def load(tmp_path, text):
    path = tmp_path / "vision.yml"
    path.write_text(text)
    return config.load(path)


def test_all_of_it(tmp_path):
    loaded = load(tmp_path, GOOD)
    assert [type(each.source).__name__ for each in loaded.cameras] == ["Rtsp", "V4l2", "File"]
    assert loaded.forward.per_hour == 12
    assert loaded.metrics.is_loopback


def test_nothing_is_forwarded_by_default(tmp_path):
    assert load(tmp_path, GOOD.partition("forward:")[0]).forward is None


@pytest.mark.parametrize(
    "old,new,text",
    [
        ("decoder: yolov8", "decoder: yolov9", "yolov9"),
        ("name: detector,", "name: detector, nms: true,", "nms"),
        ("kind: v4l2", "kind: usb", "usb"),
        ("rtsp://cam.example/1", "http://cam.example/1", "rtsp://"),
        ("rtsp://cam.example/1", "rtsp://me:secret@cam.example/1", "password_file"),
        ("rtsp://cam.example/1", "rtsps://cam.example/1", "ca_file"),
        ('1"}}', '1", user: me}}', "go together"),
        ("name: desk", "name: door", "two cameras have one name: desk, door, tape".replace("desk, ", "door, ")),
        ("name: desk", "name: My Desk", "name"),
        ("classes: [cat]", "classes: [dog]", "no label: dog"),
        ("when: {classes: [cat], confidence_between: [0.25, 0.4], drift: true}", "when: {}", "says nothing"),
        ("[0.25, 0.4]", "[0.4, 0.25]", "lower bound"),
        ("kind: folder, path: /var/lib/frames", "kind: https, url: 'http://sink.example/'", "https://"),
        ("kind: folder, path: /var/lib/frames", "kind: https, url: 'https://a:b@sink.example/'", "token_file"),
        ("model:", "metrics: {address: 0.0.0.0, port: 9102}\nmodel:", "loopback"),
        ("name: detector,", "name: detector, server: 'http://10.0.0.1:8000',", "loopback"),
    ],
)
def test_refused_with_a_reason(tmp_path, old, new, text):
    assert old in GOOD
    with pytest.raises(UsageError, match=text) as refused:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert str(tmp_path / "vision.yml") in str(refused.value)
    assert "secret" not in str(refused.value)


def test_no_file(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        config.load(tmp_path / "none.yml")


def test_rtsps_is_verified():
    assert Rtsp(url="rtsps://cam.example/1", ca_file="ca.pem").ca_file == "ca.pem"


@pytest.mark.parametrize("content", ["", "one\ntwo\n", "\n"])
def test_a_secret_is_one_line(tmp_path, content):
    path = tmp_path / "secret"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="exactly one line"):
        config.secret(path)


def test_a_secret(tmp_path):
    path = tmp_path / "secret"
    path.write_text("p@ss:word/\n")
    path.chmod(0o600)
    assert config.secret(path) == "p@ss:word/"


@pytest.mark.parametrize("mode", [0o644, 0o602])
def test_a_secret_that_everybody_may_use_is_none(tmp_path, mode):
    path = tmp_path / "secret"
    path.write_text("p@ss:word/\n")
    path.chmod(mode)
    with pytest.raises(UsageError, match="everybody on this machine") as refused:
        config.secret(path)
    assert refused.value.next_step.startswith(f"chmod o= {path}")
    assert "word/" not in str(refused.value)


def test_the_secrets_of_a_configuration(tmp_path):
    door = "kind: rtsp, url: 'rtsp://cam.example/1', user: me, password_file: /run/door"
    text = re.sub(r"kind: rtsp, url: '?\"?rtsp://cam.example/1'?\"?", door, GOOD)
    to = "kind: https, url: 'https://sink.example/', token_file: /run/sink"
    found = load(tmp_path, text.replace("kind: folder, path: /var/lib/frames", to)).secret_files
    assert [str(path) for path in found] == ["/run/door", "/run/sink"]
    assert load(tmp_path, GOOD).secret_files == []


def test_the_manuals_examples(tmp_path):
    text = (paths.repository_root() / "docs" / "vision.md").read_text(encoding="utf-8")
    # The third, an inventory, is tests/unit/converge/test_vision.py's.
    whole, forward, _ = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(load(tmp_path, whole).cameras) == 3
    assert load(tmp_path, whole + forward).forward.per_hour == 12
    other = re.sub(r"(?m)^  to: .*$", "", forward).replace("  # or: {kind", "  to: {kind")
    assert load(tmp_path, whole + other).forward.to.url == "https://sink.example/frames"
