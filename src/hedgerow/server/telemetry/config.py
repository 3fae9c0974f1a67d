"""What ``telemetry`` in the server's configuration may say. What it does not say is off, or keeps to itself."""

from __future__ import annotations

import ipaddress
import logging
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

_Seconds = Annotated[float, Meta(gt=0, le=3600)]


class Logs(Struct, frozen=True, forbid_unknown_fields=True):
    """``level`` of requests' lines: info is a line for each; warning for those that were slow or failed; error none."""

    format: Literal["json", "text"] = "json"
    level: Literal["info", "warning", "error"] = "info"

    @property
    def number(self) -> int:
        return logging.getLevelNamesMapping()[self.level.upper()]


class Traces(Struct, frozen=True, forbid_unknown_fields=True):
    """Where traces go: the whole URL of an OTLP/HTTP receiver, as ``https://collector:4318/v1/traces``.

    ``ratio`` of the traces that begin here; those that were slow or failed go in any case. ``ca``, ``certificate`` and
    ``key`` are credentials as of ``https``; None is no certificate of ours, and the system's CAs. ``queue``: requests
    that may wait to be sent. ``timeout_s``: how long one sending may take, all attempts together.
    """

    endpoint: str
    ratio: Annotated[float, Meta(ge=0, le=1)] = 0.01
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    queue: Annotated[int, Meta(ge=1, le=65536)] = 1024
    interval_s: _Seconds = 5.0
    timeout_s: _Seconds = 10.0

    def __post_init__(self) -> None:
        url = urlsplit(self.endpoint)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ValueError("endpoint is no URL of HTTP; write it like https://collector.example:4318/v1/traces")
        if url.username is not None or url.password is not None:
            raise ValueError("endpoint holds a password; use certificate and key")
        if url.scheme == "http" and not _is_loopback(url.hostname):
            raise ValueError(f"endpoint is without TLS, so on loopback alone; {url.hostname} is not: use https")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")


class Samples(Struct, frozen=True, forbid_unknown_fields=True):
    """Answers that are kept for people to judge, with what was asked. ``folder`` is made with 0700.

    Never more than ``per_hour`` in any hour. They are deleted after ``max_days``, and the oldest where all take more
    than ``max_bytes``. ``max_characters`` of each text are kept.
    """

    folder: Path
    per_hour: Annotated[int, Meta(ge=1, le=3600)]
    max_days: Annotated[float, Meta(gt=0, le=365)] = 14.0
    max_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024 * 1024
    max_characters: Annotated[int, Meta(ge=1, le=1_000_000)] = 20_000

    def __post_init__(self) -> None:
        if not self.folder.is_absolute():
            raise ValueError(f"folder is {self.folder}, not an absolute path")


class Telemetry(Struct, frozen=True, forbid_unknown_fields=True):
    """``slow_s`` for the whole answer, ``slow_first_token_s`` until its first token: from there on it was slow.

    ``words`` are redacted from logs and samples, beside what has the shape of personal data.
    """

    slow_s: _Seconds = 30.0
    slow_first_token_s: _Seconds = 10.0
    words: tuple[Annotated[str, Meta(min_length=2)], ...] = ()
    logs: Logs = Logs()
    traces: Traces | None = None
    samples: Samples | None = None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
