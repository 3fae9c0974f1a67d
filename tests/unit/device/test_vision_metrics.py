"""What cameras have counted, by way of the device exporter: a real process's registry, and one that was taken over."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from hedgerow.device import vision_metrics
from hedgerow.device.vision_metrics import VisionCollector


@pytest.fixture
def serving() -> Iterator[Callable[..., int]]:
    """A maker of servers on loopback that answer ``body`` (or what it writes by itself); their port."""
    servers = []

    def serve(body: bytes | Callable[[http.server.BaseHTTPRequestHandler], None], status: int = 200) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                if callable(body):
                    body(self)
                else:
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return int(server.server_address[1])

    yield serve
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def told(port: int, *, within_s: float = 5.0) -> str:
    registry = CollectorRegistry()
    registry.register(VisionCollector(port, within_s=within_s))
    return generate_latest(registry).decode()


def real() -> bytes:
    """The plain text of a process with one camera."""
    metrics_module = pytest.importorskip("hedgerow.vision.metrics")
    metrics = metrics_module.Metrics()
    metrics.frames.labels("door", "detected").inc(41)
    metrics.detections.labels("door", 'per"son\n').inc(3)
    metrics.up.labels("door").set(1)
    metrics.age.labels("door").observe(0.02)
    return bytes(generate_latest(metrics.registry))


def test_the_table_is_what_the_process_has() -> None:
    metrics_module = pytest.importorskip("hedgerow.vision.metrics")
    found = {family.name: family.type for family in metrics_module.Metrics().registry.collect()}
    assert found == vision_metrics.FAMILIES


def test_what_the_process_counts_is_told(serving: Callable[..., int]) -> None:
    text = told(serving(real()))
    assert "hedgerow_device_vision_up 1.0" in text
    assert 'hedgerow_vision_frames_total{camera="door",result="detected"} 41.0' in text
    assert 'hedgerow_vision_detections_total{camera="door",class="per\\"son\\n"} 3.0' in text
    assert 'hedgerow_vision_frame_age_seconds_bucket{camera="door",le="0.02"} 1.0' in text
    assert "_created" not in text


def test_without_the_process_the_scrape_goes_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert told(port).splitlines()[-1] == "hedgerow_device_vision_up 0.0"


def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
    """An answer that never ends, a piece at a time."""
    try:
        while True:
            handler.wfile.write(b"# more\n")
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        pass


@pytest.mark.parametrize(
    "body, status",
    [
        (b"hedgerow_vision_camera_up{", 200),
        (b"# x\n" * 100_000, 200),
        (b"\xff\xfe", 200),
        (b"", 503),
        (drip, 200),
    ],
    ids=["no metrics", "too much", "no text", "an error", "without an end"],
)
def test_what_makes_no_sense_is_not_passed_on(
    serving: Callable[..., int], body: bytes | Callable[..., None], status: int
) -> None:
    begun = time.monotonic()
    text = told(serving(body, status), within_s=0.5)
    assert text.splitlines()[-1] == "hedgerow_device_vision_up 0.0"
    assert time.monotonic() - begun < 10


def test_it_speaks_for_itself_alone(serving: Callable[..., int]) -> None:
    text = told(
        serving(
            b"# TYPE hedgerow_device_undervoltage gauge\nhedgerow_device_undervoltage 1\n"
            b"# TYPE hedgerow_vision_invented gauge\nhedgerow_vision_invented 1\n"
            b"# TYPE hedgerow_vision_frames_total gauge\nhedgerow_vision_frames_total 1\n"
            b'# TYPE hedgerow_vision_camera_up gauge\nhedgerow_vision_camera_up{camera="door"} 1\n'
        )
    )
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert samples == ["hedgerow_device_vision_up 1.0", 'hedgerow_vision_camera_up{camera="door"} 1.0']
