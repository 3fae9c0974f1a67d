"""Open a file, a V4L2 device or an RTSP stream with FFmpeg's libraries (PyAV).

What is opened is bounded: by ``protocol_whitelist``, so that a playlist or a redirect leads nowhere else, and by a
time limit on opening and on each read. Errors are told without the URL, which FFmpeg puts into its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

import av
from av.error import FFmpegError

from hedgerow.vision import config

if TYPE_CHECKING:
    from av import VideoFrame

# A USB camera answers within its exposure; opening may load its firmware. A file may be a playlist without an end,
# which FFmpeg would read again for ever.
_LOCAL_S = 10.0

Opened = contextlib.AbstractContextManager[Iterator["VideoFrame"]]


class SourceFailed(Exception):
    """A camera or file cannot be opened, or broke off."""


def opener(source: config.File | config.V4l2 | config.Rtsp) -> Callable[[], Opened]:
    """What opens ``source``, again and again. Secrets are read each time, so that a changed one is taken up.

    The context raises SourceFailed where it cannot be opened, and so does what it yields where it breaks off.
    """
    return lambda: _opened(*_arguments(source))


def _arguments(source: config.File | config.V4l2 | config.Rtsp) -> tuple[str, str | None, dict[str, str], float]:
    """FFmpeg's name, format and options of a source, and the seconds that it may take."""
    match source:
        case config.File():
            return str(source.path), None, {"protocol_whitelist": "file"}, _LOCAL_S
        case config.V4l2():
            options = {
                "video_size": None if source.size is None else f"{source.size[0]}x{source.size[1]}",
                "framerate": None if source.frames_per_s is None else str(source.frames_per_s),
                "input_format": source.input_format,
            }
            return str(source.device), "v4l2", {key: value for key, value in options.items() if value}, _LOCAL_S
        case config.Rtsp():
            options = {
                "rtsp_transport": source.transport,
                "allowed_media_types": "video",
                "protocol_whitelist": "rtsp,rtp,tcp,udp,tls",
                # The newest frame counts: nothing is gathered to smooth its way.
                "fflags": "nobuffer",
                "timeout": str(int(source.timeout_s * 1_000_000)),
            }
            if source.ca_file is not None:
                options |= {"tls_verify": "1", "ca_file": str(source.ca_file)}
            return (
                _with_password(source),
                "rtsp",
                {key: value for key, value in options.items() if value},
                (source.timeout_s),
            )


def _with_password(source: config.Rtsp) -> str:
    """The URL as FFmpeg takes credentials; it must not be logged."""
    if source.user is None or source.password_file is None:
        return source.url
    password = config.secret(source.password_file)
    parts = urlsplit(source.url)
    return urlunsplit(parts._replace(netloc=f"{quote(source.user, '')}:{quote(password, '')}@{parts.netloc}"))


@contextlib.contextmanager
def _opened(name: str, kind: str | None, options: dict[str, str], timeout_s: float) -> Iterator[Any]:
    with _told():
        container = av.open(name, format=kind, options=options, timeout=timeout_s)
    with contextlib.closing(container):
        if not container.streams.video:
            raise SourceFailed("there is no video in it")
        stream = container.streams.video[0]
        # Threads by slices, not frames: the latter hold back as many frames as there are threads.
        stream.thread_type = "SLICE"
        yield _frames(container, stream)


def _frames(container: Any, stream: Any) -> Iterator[VideoFrame]:
    with _told():
        yield from container.decode(stream)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (FFmpegError, OSError) as error:
        raise SourceFailed(error.strerror or type(error).__name__) from None
