"""Send exceptional frames on: small JPEGs with what was found, to a folder or by HTTPS, on a thread of their own.

Nothing waits for it: while a sink is slow, further frames are counted as ``busy`` and forgotten. A frame that cannot
be delivered is forgotten too, and counted; nothing is kept on disk for another try.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import urllib3
from av import CodecContext, VideoFrame
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from hedgerow import atomic
from hedgerow.errors import MachineError, UsageError
from hedgerow.vision import config
from hedgerow.vision.detector import Result
from hedgerow.vision.exceptional import Allowance, Reason, reason

if TYPE_CHECKING:
    from hedgerow.vision.latest import Frame

log = logging.getLogger("hedgerow.vision")
_WAITING = 4
_ACCEPTED = frozenset({200, 201, 202, 204})


@dataclass(frozen=True)
class Exceptional:
    """A frame that is to leave; ``at`` is UTC. ``counted`` is told the outcome."""

    camera: str
    at: datetime
    number: int
    why: Reason
    result: Result
    image: VideoFrame
    counted: Callable[[str], None]

    @property
    def name(self) -> str:
        """A file's name without suffix; names sort by time."""
        return f"{self.at:%Y%m%dT%H%M%S.%f}Z-{self.camera}-{self.number}"

    def described(self) -> bytes:
        """What was found, as JSON; boxes are in the pixels of the camera's picture, whose size is there too."""
        return msgspec.json.encode(
            {
                "camera": self.camera,
                "at": self.at.isoformat(),
                "reason": self.why,
                "model_version": self.result.version,
                "size": [self.image.width, self.image.height],
                "detections": [asdict(each) for each in self.result.detections],
            }
        )


class Sink(Protocol):
    """Where frames go; raises OSError or urllib3's HTTPError where one cannot be delivered."""

    def deliver(self, name: str, jpeg: bytes, description: bytes) -> None: ...


class FolderSink:
    """``<name>.jpg`` and ``<name>.json``, readable by this user alone."""

    def __init__(self, path: Path, *, most_frames: int) -> None:
        self._path = path
        self._most = most_frames
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(f"the folder for frames cannot be made: {error.strerror}", where=str(path)) from error

    def deliver(self, name: str, jpeg: bytes, description: bytes) -> None:
        atomic.write_bytes(self._path / f"{name}.json", description, mode=0o600)
        atomic.write_bytes(self._path / f"{name}.jpg", jpeg, mode=0o600)
        for old in sorted(self._path.glob("*.jpg"))[: -self._most]:
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink(missing_ok=True)


class HttpsSink:
    """A multipart POST: part ``frame`` the JPEG, part ``description`` the JSON. No redirect is followed."""

    def __init__(self, settings: config.Https) -> None:
        self._settings = settings
        ca_file = None if settings.ca_file is None else str(settings.ca_file)
        self._pool = urllib3.PoolManager(
            cert_reqs="CERT_REQUIRED", ca_certs=ca_file, timeout=settings.timeout_s, retries=False
        )

    def deliver(self, name: str, jpeg: bytes, description: bytes) -> None:
        headers = {}
        if self._settings.token_file is not None:
            headers["Authorization"] = f"Bearer {config.secret(self._settings.token_file)}"
        response = self._pool.request(
            "POST",
            self._settings.url,
            headers=headers,
            fields={
                "frame": (f"{name}.jpg", jpeg, "image/jpeg"),
                "description": (f"{name}.json", description, "application/json"),
            },
            redirect=False,
        )
        if response.status not in _ACCEPTED:
            raise OSError(f"the sink answers {response.status}")


class Forwarder:
    """All cameras' exceptional frames; ``close`` delivers what waits."""

    def __init__(self, settings: config.Forward, sink: Sink | None = None) -> None:
        self._settings = settings
        self._sink = sink or _sink(settings.to)
        self._allowed: dict[str, Allowance] = {}
        self._waiting: queue.Queue[Exceptional | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._deliver, name="forward")

    def start(self) -> None:
        """Deliver from now on."""
        self._thread.start()

    def close(self) -> None:
        """Deliver what waits and end."""
        self._waiting.put(None)
        self._thread.join()

    def consider(
        self, camera: str, frame: Frame, result: Result, *, drifting: bool, now: float, counted: Callable[[str], None]
    ) -> None:
        """Send a frame on if it is exceptional and the allowance has room. ``now`` is monotonic; never waits."""
        why = reason(self._settings.when, result.detections, drifting=drifting)
        if why is None:
            return
        allowance = self._allowed.setdefault(
            camera, Allowance(per_hour=self._settings.per_hour, burst=self._settings.burst)
        )
        if not allowance.take(now):
            counted("limited")
            return
        try:
            self._waiting.put_nowait(
                Exceptional(camera, datetime.now(UTC), frame.number, why, result, frame.image, counted)
            )
        except queue.Full:
            counted("busy")

    def _deliver(self) -> None:
        while (each := self._waiting.get()) is not None:
            try:
                self._sink.deliver(each.name, jpeg(each.image, self._settings.longest_side), each.described())
            except (OSError, urllib3.exceptions.HTTPError, FFmpegError, UsageError) as error:
                # By its class alone where it is a library's: their texts may hold the URL.
                text = str(error) if type(error) in {OSError, UsageError} else type(error).__name__
                log.warning("camera %s: a frame could not be delivered: %s", each.camera, text)
                each.counted("failed")
            else:
                each.counted("sent")


def jpeg(image: VideoFrame, longest_side: int) -> bytes:
    """A picture as JPEG, not larger than ``longest_side``; it has no metadata of camera, place or time."""
    scale = min(1.0, longest_side / max(image.width, image.height))
    # Chroma is stored for two by two pixels.
    width, height = (max(2, int(size * scale) // 2 * 2) for size in (image.width, image.height))
    small = image.reformat(width, height, format="yuvj420p")
    codec = CodecContext.create("mjpeg", "w")
    if not isinstance(codec, VideoCodecContext):
        raise TypeError("mjpeg is a codec of pictures")
    codec.width, codec.height, codec.pix_fmt = width, height, "yuvj420p"
    codec.time_base = Fraction(1, 1)
    small.pts, small.time_base = 0, codec.time_base
    return b"".join(bytes(packet) for packet in (*codec.encode(small), *codec.encode(None)))


def _sink(to: config.Folder | config.Https) -> Sink:
    if isinstance(to, config.Https):
        return HttpsSink(to)
    return FolderSink(to.path, most_frames=to.most_frames)
