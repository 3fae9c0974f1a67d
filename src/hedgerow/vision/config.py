"""What ``vision.yml`` may say. An unknown key is an error that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from hedgerow import configfile
from hedgerow.errors import UsageError
from hedgerow.secretfile import refuse_public
from hedgerow.server.config import Address

Ratio = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
# A label of metrics and a part of file names.
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


class _Base(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class File(_Base, frozen=True, tag_field="kind", tag="file"):
    """A video or picture. ``realtime`` plays it as a camera would, frames dropped; ``every_frame`` drops none."""

    path: Path
    pace: Literal["realtime", "every_frame"] = "realtime"


class V4l2(_Base, frozen=True, tag_field="kind", tag="v4l2"):
    """A camera of this machine; None leaves a choice to its driver."""

    device: Path = Path("/dev/video0")
    size: tuple[int, int] | None = None
    frames_per_s: Annotated[int, Meta(gt=0)] | None = None
    input_format: str | None = None


class Rtsp(_Base, frozen=True, tag_field="kind", tag="rtsp"):
    """A camera of the network. ``rtsps`` is verified against ``ca_file``; ``password_file`` holds one line."""

    url: str
    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    transport: Literal["tcp", "udp"] = "tcp"
    timeout_s: Seconds = 10.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"rtsp", "rtsps"} or not parts.hostname:
            raise ValueError("url must begin with rtsp:// or rtsps:// and name a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("url must not hold a user or password: write user and password_file")
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file go together")
        if (parts.scheme == "rtsps") != (self.ca_file is not None):
            raise ValueError("rtsps needs ca_file, to know the camera by; rtsp takes none")


class Camera(_Base, frozen=True):
    """``reconnect_s``: the first wait and the longest; doubled in between."""

    name: Name
    source: File | V4l2 | Rtsp
    reconnect_s: tuple[Seconds, Seconds] = (1.0, 30.0)

    def __post_init__(self) -> None:
        if self.reconnect_s[0] > self.reconnect_s[1]:
            raise ValueError("reconnect_s is the first wait and the longest")


class Preprocess(_Base, frozen=True):
    """What the model was trained on, where it differs from its decoder's habit (``decode.HABITS``).

    A pixel becomes ``(value / divide - mean) / std`` for float inputs; integer inputs take it as it is. ``pad`` is the
    grey beside the picture. ``size`` (width, height) is for a model that leaves it free.
    """

    align: Literal["center", "corner"] | None = None
    order: Literal["rgb", "bgr"] | None = None
    divide: Annotated[float, Meta(gt=0)] | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pad: Annotated[int, Meta(ge=0, le=255)] = 114
    size: tuple[Annotated[int, Meta(ge=32, le=4096)], Annotated[int, Meta(ge=32, le=4096)]] | None = None

    def __post_init__(self) -> None:
        if 0 in self.std:
            raise ValueError("std must not be 0")


class Model(_Base, frozen=True):
    """A model that ``server`` serves, and how its output is read. ``labels``: one name a class, in order.

    Detections below ``confidence`` are none; of two of one class that overlap by more than ``overlap`` (intersection
    over union) the better stays; ``most`` a frame.
    """

    name: str
    decoder: Literal["yolov8", "yolox", "hailo_nms"]
    server: str = "http://127.0.0.1:8000"
    preprocess: Preprocess = Preprocess()
    labels: tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...] = ()
    confidence: Annotated[float, Meta(gt=0, lt=1)] = 0.25
    overlap: Ratio = 0.45
    most: Annotated[int, Meta(gt=0, le=1000)] = 100
    timeout_s: Seconds = 10.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.server)
        if parts.scheme != "http" or parts.hostname not in {"127.0.0.1", "::1", "localhost"}:
            raise ValueError("server is the one of this machine: http:// on loopback")


class Drift(_Base, frozen=True):
    """The alarm on the mean confidence of the last ``window`` detections.

    It comes on when the mean is further than ``tolerance`` from ``baseline``, and goes off within half of that.
    Without a ``baseline`` the first ``window`` detections of a version are it.
    """

    window: Annotated[int, Meta(ge=10, le=100_000)] = 500
    baseline: Ratio | None = None
    tolerance: Annotated[float, Meta(gt=0, lt=1)] = 0.1


class When(_Base, frozen=True):
    """Which frames are exceptional: any of these, each off unless it is said."""

    classes: tuple[str, ...] = ()
    confidence_between: tuple[Ratio, Ratio] | None = None
    drift: bool = False

    def __post_init__(self) -> None:
        if not (self.classes or self.confidence_between or self.drift):
            raise ValueError("when says nothing: give classes, confidence_between or drift")
        if self.confidence_between is not None and self.confidence_between[0] >= self.confidence_between[1]:
            raise ValueError("confidence_between is the lower bound and the upper")


class Folder(_Base, frozen=True, tag_field="kind", tag="folder"):
    """Files that this user alone reads; beyond ``most_frames`` the oldest go."""

    path: Path
    most_frames: Annotated[int, Meta(gt=0)] = 200


class Https(_Base, frozen=True, tag_field="kind", tag="https"):
    """A multipart POST for each frame. ``token_file`` holds a bearer token; ``ca_file`` None trusts the system's."""

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: Seconds = 10.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("url must begin with https:// and name a host: frames never travel in the clear")
        if parts.username is not None or parts.password is not None:
            raise ValueError("url must not hold a user or password: write token_file")


class Forward(_Base, frozen=True):
    """Frames that leave this process: pictures of whoever was before the camera. Off unless it is written.

    ``per_hour`` for each camera, at most ``burst`` at once; ``longest_side`` in pixels of what is kept.
    """

    when: When
    to: Folder | Https
    per_hour: Annotated[float, Meta(gt=0, le=3600)] = 12.0
    burst: Annotated[int, Meta(ge=1, le=100)] = 3
    longest_side: Annotated[int, Meta(ge=32, le=4096)] = 640


class VisionConfig(_Base, frozen=True):
    """Cameras in front of one model. ``metrics`` are plain, so on loopback alone; None serves none."""

    model: Model
    cameras: Annotated[tuple[Camera, ...], Meta(min_length=1, max_length=16)]
    metrics: Address | None = Address("127.0.0.1", 9102)
    drift: Drift = Drift()
    forward: Forward | None = None

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras]
        if len(set(names)) < len(names):
            raise ValueError(f"two cameras have one name: {', '.join(sorted(names))}")
        if self.metrics is not None and not self.metrics.is_loopback:
            raise ValueError(f"metrics are without authentication, so on loopback alone; {self.metrics.address} is not")
        if self.forward is not None and self.model.labels:
            unknown = set(self.forward.when.classes) - set(self.model.labels)
            if unknown:
                raise ValueError(f"forward.when.classes has what is no label: {', '.join(sorted(unknown))}")

    @property
    def secret_files(self) -> list[Path]:
        """The files of passwords and tokens."""
        sources = [camera.source for camera in self.cameras]
        found = [source.password_file for source in sources if isinstance(source, Rtsp)]
        if self.forward is not None and isinstance(self.forward.to, Https):
            found.append(self.forward.to.token_file)
        return [path for path in found if path is not None]


def load(path: Path) -> VisionConfig:
    """Read the configuration.

    Raises:
        UsageError: no such file, or a key or value that is not allowed, named with its path.
    """
    try:
        return configfile.decode(path.read_bytes(), VisionConfig)
    except OSError as error:
        raise UsageError(f"the configuration cannot be read: {error.strerror}", where=str(path)) from error
    except msgspec.DecodeError as error:
        raise UsageError(
            f"the configuration is not valid: {error}",
            where=str(path),
            next_step="compare it with docs/vision.md",
        ) from error


def secret(path: Path) -> str:
    """The one line of a file that holds a password or token.

    Raises:
        UsageError: it cannot be read, everybody may read it, or it is not one line.
    """
    try:
        with path.open("rb") as file:
            refuse_public(file, path)
            lines = file.read().decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise UsageError(f"a secret cannot be read: {reason}", where=str(path)) from error
    if len(lines) != 1 or not lines[0]:
        raise UsageError("a secret's file must hold exactly one line", where=str(path))
    return lines[0]
