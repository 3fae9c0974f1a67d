"""Real files and a real RTSP server; a V4L2 device there is none of here, so only what is asked of FFmpeg is seen."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import threading

import av
import pytest
import server_support as support
import vision_support as vision

from hedgerow.vision.backoff import Backoff
from hedgerow.vision.capture import Capture
from hedgerow.vision.config import File, Rtsp, V4l2
from hedgerow.vision.latest import LatestFrame
from hedgerow.vision.sources import SourceFailed, _arguments, opener


class Counts:
    def __init__(self) -> None:
        self.ups: list[bool] = []
        self.reconnects = 0
        self.drops = 0

    def connected(self, up: bool) -> None:  # noqa: FBT001 - as its protocol has it
        if not self.ups or self.ups[-1] != up:
            self.ups.append(up)

    def reconnecting(self) -> None:
        self.reconnects += 1

    def dropped(self) -> None:
        self.drops += 1


class Reading:
    """A capture on its thread."""

    def __init__(self, open_source, **settings) -> None:
        self.latest = LatestFrame()
        self.counts = Counts()
        self._stop = threading.Event()
        self.capture = Capture("cam", open_source, self.latest, self.counts, self._stop, **settings)
        self._thread = threading.Thread(target=self.capture.run)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self.latest.close(drop=True)
        self._thread.join(support.PATIENCE_S)
        assert not self._thread.is_alive()

    def rest(self) -> list[int]:
        """The first pixel of each frame until the end."""
        found = []
        while (frame := self.latest.take()) is not None:
            found.append(int(frame.image.to_ndarray(format="rgb24")[0, 0, 0]))
        return found


# ── files ───────────────────────────────────────────────────────────────────


def test_every_frame_of_a_file(tmp_path, running):
    path = vision.write_video(tmp_path / "tape.mkv", [vision.plain(n * 8) for n in range(25)])
    reading = Reading(opener(File(path=path)), backoff=None, every_frame=True)
    running.append(reading)
    assert reading.rest() == [n * 8 for n in range(25)]
    assert (reading.counts.drops, reading.capture.failure) == (0, None)


def test_a_file_at_its_own_pace_drops_what_is_not_taken(tmp_path, running):
    path = vision.write_video(tmp_path / "tape.mkv", [vision.plain(n) for n in range(10)], rate=100)
    reading = Reading(opener(File(path=path)), backoff=None, realtime=True)
    running.append(reading)
    support.wait(lambda: reading.counts.ups[-1:] == [False])
    assert reading.rest() == [9], "the newest"
    assert reading.counts.drops == 9


def test_a_picture_is_a_video_of_one_frame(tmp_path, running):
    path = tmp_path / "picture.png"
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png")
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        container.mux(stream.encode(vision.frame(vision.plain(77))))
        container.mux(stream.encode(None))
    reading = Reading(opener(File(path=path)), backoff=None, every_frame=True)
    running.append(reading)
    assert reading.rest() == [77]


@pytest.mark.parametrize("content", [None, b"this is no video" * 100])
def test_a_file_that_is_none(tmp_path, running, content):
    path = tmp_path / "tape.mkv"
    if content is not None:
        path.write_bytes(content)
    reading = Reading(opener(File(path=path)), backoff=None)
    running.append(reading)
    assert reading.rest() == []
    assert reading.capture.failure in {"No such file or directory", "Invalid data found when processing input"}


def test_a_playlist_leads_nowhere(tmp_path, running):
    """A file that names an address on the network is not followed."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0)
    with contextlib.closing(listener):
        path = tmp_path / "list.m3u8"
        path.write_text(
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"
            f"http://127.0.0.1:{listener.getsockname()[1]}/a.ts\n#EXT-X-ENDLIST\n"
        )
        reading = Reading(opener(File(path=path)), backoff=None)
        running.append(reading)
        assert reading.rest() == []
        with pytest.raises(BlockingIOError):
            listener.accept()


# ── a camera of the network ─────────────────────────────────────────────────


# Sessions, RTP and H.264 of package rtsp's own; in a process, so that it can go as a camera does when its power goes.
CAMERA = """
import sys
import numpy as np
import rtsp
from PIL import Image
source = rtsp.Source(f"rtsp://127.0.0.1:{sys.argv[1]}/live", fps=25, size=(160, 120))
source.put(Image.fromarray(np.full((120, 160, 3), int(sys.argv[2]), np.uint8)))
assert source.wait_ready(30) and source.wait_encoding_started(30)
print("ready", flush=True)
sys.stdin.read()
"""


class Camera:
    """A real RTSP server which shows one grey; ``close`` cuts its power."""

    def __init__(self, port: int, grey: int) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", CAMERA, str(port), str(grey)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout.readline() == "ready\n"

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()


def shows(reading: Reading, grey: int) -> bool:
    frame = reading.latest.take()
    assert frame is not None
    return abs(float(frame.image.to_ndarray(format="rgb24").mean()) - grey) < 12


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_camera_that_goes_away_and_comes_back(running, transport):
    port = support.free_port()
    camera = Camera(port, 50)
    source = Rtsp(url=f"rtsp://127.0.0.1:{port}/live", transport=transport, timeout_s=2.0)
    reading = Reading(opener(source), backoff=Backoff(0.05, 0.2))
    running.append(reading)
    support.wait(lambda: shows(reading, 50))
    camera.close()
    support.wait(lambda: reading.counts.ups[-1:] == [False])
    support.wait(lambda: reading.counts.reconnects >= 2)  # nobody answers
    running.append(Camera(port, 200))
    support.wait(lambda: shows(reading, 200))
    assert reading.counts.ups == [True, False, True]


def test_a_camera_that_accepts_and_says_nothing_is_left(running):
    listener = socket.create_server(("127.0.0.1", 0))
    with contextlib.closing(listener):
        source = Rtsp(url=f"rtsp://127.0.0.1:{listener.getsockname()[1]}/live", timeout_s=0.3)
        reading = Reading(opener(source), backoff=Backoff(0.01, 0.01))
        running.append(reading)
        support.wait(lambda: reading.counts.reconnects >= 2)
        assert True not in reading.counts.ups


def test_a_url_and_its_password_stay_out_of_errors(tmp_path):
    secret = tmp_path / "password"
    secret.write_text("p@ss/word\n")
    secret.chmod(0o600)
    source = Rtsp(url=f"rtsp://127.0.0.1:{support.free_port()}/live", user="me", password_file=secret, timeout_s=2.0)
    assert "me:p%40ss%2Fword@127.0.0.1" in _arguments(source)[0]
    with pytest.raises(SourceFailed) as failed, opener(source)():
        pass
    assert str(failed.value) == "Connection refused"
    assert failed.value.__cause__ is None
    assert "word" not in repr(failed.value)


@pytest.mark.parametrize("trusted", [True, False])
def test_rtsps_speaks_only_to_the_camera_it_knows(tmp_path, trusted):
    """What a TLS listener hears of a client: a request behind a verified handshake, or nothing."""
    own, other = vision.certificate(tmp_path, "localhost"), vision.certificate(tmp_path, "elsewhere")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    heard = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(support.PATIENCE_S)

    def listen() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(support.PATIENCE_S)
            with context.wrap_socket(connection, server_side=True) as tls:
                heard.append(tls.recv(4096))

    thread = threading.Thread(target=listen)
    thread.start()
    port = listener.getsockname()[1]
    source = Rtsp(url=f"rtsps://localhost:{port}/live", ca_file=own if trusted else other, timeout_s=5.0)
    with pytest.raises(SourceFailed), opener(source)():
        pass
    thread.join(support.PATIENCE_S)
    listener.close()
    assert [each.partition(b" ")[0] for each in heard if each] == ([b"OPTIONS"] if trusted else [])


# ── a camera of this machine ────────────────────────────────────────────────


def test_what_ffmpeg_is_asked_of_a_v4l2_device():
    name, kind, options, timeout_s = _arguments(V4l2(size=(640, 480), frames_per_s=15, input_format="mjpeg"))
    assert (name, kind) == ("/dev/video0", "v4l2")
    assert options == {"video_size": "640x480", "framerate": "15", "input_format": "mjpeg"}
    assert timeout_s > 0
    assert _arguments(V4l2())[2] == {}


def test_a_device_that_is_missing_is_tried_again(tmp_path, running):
    reading = Reading(opener(V4l2(device=tmp_path / "video9")), backoff=Backoff(0.01, 0.01))
    running.append(reading)
    support.wait(lambda: reading.counts.reconnects >= 2)


def test_this_build_of_ffmpeg_can_read_v4l2():
    assert any("v4l2" in each for each in av.formats_available)
