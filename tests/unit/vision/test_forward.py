"""Frames that leave: to a folder, and to a sink over HTTPS on a real socket."""

from __future__ import annotations

import http.server
import json
import ssl
import stat
import threading
from dataclasses import dataclass, field

import av
import pytest
import server_support as support
import vision_support as vision

from hedgerow.errors import MachineError
from hedgerow.vision.config import Folder, Forward, Https, When
from hedgerow.vision.detector import Detection, Result
from hedgerow.vision.forward import FolderSink, Forwarder, jpeg
from hedgerow.vision.latest import Frame

CAT = Result("3", (Detection("cat", 0.5, (1.0, 2.0, 30.0, 40.0)),))


@dataclass
class Sink:
    """In memory; ``gate`` holds a delivery up."""

    fails: Exception | None = None
    gate: threading.Event | None = None
    entered: threading.Event = field(default_factory=threading.Event)
    got: list[tuple[str, bytes, bytes]] = field(default_factory=list)

    def deliver(self, name: str, jpeg: bytes, description: bytes) -> None:
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(support.PATIENCE_S)
        if self.fails is not None:
            raise self.fails
        self.got.append((name, jpeg, description))


def settings(to=None, **others) -> Forward:
    return Forward(**({"when": When(classes=("cat",)), "to": to or Folder(path="unused"), "burst": 100} | others))


def frame(number: int = 1, size=(64, 48)) -> Frame:
    return Frame(vision.frame(vision.plain(120, size)), 0.0, number)


def send(forwarder: Forwarder, *frames: Frame, result: Result = CAT, now: float = 0.0) -> list[str]:
    """The outcomes, once all are delivered."""
    outcomes: list[str] = []
    forwarder.start()
    for each in frames:
        forwarder.consider("door", each, result, drifting=False, now=now, counted=outcomes.append)
    forwarder.close()
    return outcomes


def decoded(data: bytes) -> av.VideoFrame:
    codec = av.CodecContext.create("mjpeg", "r")
    return [*codec.decode(av.Packet(data)), *codec.decode(None)][0]


def test_what_is_kept_of_a_frame(tmp_path):
    folder = tmp_path / "frames"
    assert send(Forwarder(settings(Folder(path=folder))), frame(7)) == ["sent"]
    picture, description = sorted(folder.iterdir())
    assert (picture.suffix, description.suffix) == (".jpg", ".json")
    assert picture.name.endswith("-door-7.jpg")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, picture, description)] == [0o700, 0o600, 0o600]
    told = json.loads(description.read_bytes())
    assert told["detections"] == [{"label": "cat", "confidence": 0.5, "box": [1.0, 2.0, 30.0, 40.0]}]
    assert (told["camera"], told["reason"], told["model_version"], told["size"]) == ("door", "class", "3", [64, 48])
    assert abs(float(decoded(picture.read_bytes()).to_ndarray(format="rgb24").mean()) - 120) < 4


def test_a_folder_keeps_the_newest(tmp_path):
    sink = FolderSink(tmp_path, most_frames=3)
    for number in range(5):
        sink.deliver(f"{number}", b"picture", b"{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{number}.{kind}" for number in (2, 3, 4) for kind in ("jpg", "json")
    ]


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be made"):
        FolderSink(tmp_path / "file" / "frames", most_frames=1)


@pytest.mark.parametrize("size,expected", [((1920, 1080), (640, 360)), ((64, 48), (64, 48)), ((101, 51), (100, 50))])
def test_pictures_are_made_small_never_large(size, expected):
    data = jpeg(vision.frame(vision.plain(9, size)), 640)
    found = decoded(data)
    assert (found.width, found.height) == expected
    assert b"Exif" not in data


def test_frames_that_are_not_exceptional_stay():
    sink = Sink()
    assert send(Forwarder(settings(), sink), frame(), result=Result("3", ())) == []
    assert sink.got == []


def test_no_more_than_the_allowance():
    sink = Sink()
    outcomes = send(Forwarder(settings(burst=2, per_hour=1), sink), *(frame(n) for n in range(4)))
    assert sorted(outcomes) == ["limited", "limited", "sent", "sent"]
    assert len(sink.got) == 2


def test_a_slow_sink_holds_up_nobody():
    sink = Sink(gate=threading.Event())
    forwarder = Forwarder(settings(), sink)
    outcomes: list[str] = []
    forwarder.start()

    def consider(number: int) -> None:
        forwarder.consider("door", frame(number), CAT, drifting=False, now=0.0, counted=outcomes.append)

    consider(0)
    assert sink.entered.wait(support.PATIENCE_S)
    for number in range(1, 8):  # four wait
        consider(number)
    assert outcomes == ["busy"] * 3
    sink.gate.set()
    forwarder.close()
    assert len(sink.got) == 5


def test_what_cannot_be_delivered_is_counted_and_forgotten(caplog):
    sink = Sink(fails=ConnectionResetError("https://sink.example/?key=hidden"))
    assert send(Forwarder(settings(), sink), frame(1), frame(2)) == ["failed", "failed"]
    assert "ConnectionResetError" in caplog.text
    assert "hidden" not in caplog.text


# ── over HTTPS ──────────────────────────────────────────────────────────────


class Received(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), body))
        self.send_response(self.server.status)
        self.send_header("Location", "https://elsewhere.example/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def sink_server(tmp_path, running):
    """``serve(status)`` → URL, CA and what was received."""
    own = vision.certificate(tmp_path, "localhost")

    class Serving:
        def __init__(self, status: int) -> None:
            self.server = http.server.HTTPServer(("127.0.0.1", 0), Received)
            self.server.requests, self.server.status = [], status
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(own)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.url = f"https://localhost:{self.server.server_address[1]}/frames"
            self.ca = own
            self._thread = threading.Thread(target=self.server.serve_forever)
            self._thread.start()

        def close(self) -> None:
            self.server.shutdown()
            self.server.server_close()
            self._thread.join(support.PATIENCE_S)

    def serve(status: int) -> Serving:
        running.append(Serving(status))
        return running[-1]

    return serve


def test_a_post_with_a_token(tmp_path, sink_server):
    serving = sink_server(201)
    token = tmp_path / "token"
    token.write_text("abc\n")
    token.chmod(0o600)
    to = Https(url=serving.url, ca_file=serving.ca, token_file=token)
    assert send(Forwarder(settings(to)), frame(5)) == ["sent"]
    ((path, headers, body),) = serving.server.requests
    assert (path, headers["Authorization"]) == ("/frames", "Bearer abc")
    assert headers["Content-Type"].startswith("multipart/form-data")
    assert b"image/jpeg" in body
    assert b'"reason":"class"' in body


@pytest.mark.parametrize("status", [302, 403, 500])
def test_a_sink_that_refuses_or_sends_elsewhere(sink_server, status, caplog):
    serving = sink_server(status)
    assert send(Forwarder(settings(Https(url=serving.url, ca_file=serving.ca))), frame()) == ["failed"]
    assert f"the sink answers {status}" in caplog.text


def test_a_sink_that_nobody_vouches_for_gets_nothing(tmp_path, sink_server):
    serving = sink_server(200)
    other = vision.certificate(tmp_path, "elsewhere")
    assert send(Forwarder(settings(Https(url=serving.url, ca_file=other))), frame()) == ["failed"]
    assert serving.server.requests == []
