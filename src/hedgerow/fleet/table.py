"""One row a Pi: what it serves, how fast, how warm, until when its certificate is good."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import msgspec

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.fleet.endpoint import DeviceClient, Endpoint
from hedgerow.fleet.reported import Report

PARALLEL = 32
"""Hosts asked at once: enough to hide a few that time out, few enough for a controller's sockets."""

COLUMNS = ("host", "board", "HAT", "model", "tokens/s", "TTFT ms", "°C", "cert", "health")
"""TTFT: time to the first token, 95th percentile of the server's window. cert: how long the certificate is good."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A host as seen just now; None where it did not say. ``problem`` says why it could not be asked."""

    host: str
    board: str | None = None
    hat: str | None = None
    model: str | None = None
    tokens_per_s: float | None = None
    ttft_p95_ms: float | None = None
    temperature_c: float | None = None
    hat_temperature_c: float | None = None
    certificate_expires: datetime | None = None
    health: str
    reasons: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def ok(self) -> bool:
        return self.health == "ok"


def collect(endpoints: Sequence[Endpoint], context: ssl.SSLContext) -> list[Row]:
    """Ask all hosts, many at a time; rows in the order of ``endpoints``. A host that fails is a row, too."""
    with ThreadPoolExecutor(max_workers=max(1, min(PARALLEL, len(endpoints)))) as pool:
        return list(pool.map(lambda endpoint: _row(endpoint, context), endpoints))


def _row(endpoint: Endpoint, context: ssl.SSLContext) -> Row:
    try:
        with DeviceClient(endpoint, context) as client:
            report = client.report()
            return from_report(endpoint.host, report, client.certificate_expires)
    except NetworkError as error:
        return Row(host=endpoint.host, health="unreachable", problem=error.what)
    except DeviceError as error:
        return Row(host=endpoint.host, health="no report", problem=error.what)


def from_report(host: str, report: Report, certificate_expires: datetime | None) -> Row:
    """The row of a host that answered."""
    return Row(
        host=host,
        board=report.board.model,
        hat=report.hat.kind,
        model=report.reference,
        tokens_per_s=report.serving.tokens_per_s,
        ttft_p95_ms=report.serving.ttft_p95_ms,
        temperature_c=report.board.temperature_c,
        hat_temperature_c=report.hat.temperature_c,
        certificate_expires=certificate_expires,
        health=report.status,
        reasons=tuple(reason.text or reason.code for reason in report.troubles),
    )


def cells(row: Row, now: datetime) -> tuple[Any, ...]:
    """The row's fields as people read them, in the order of ``COLUMNS``."""
    health = "; ".join([row.health, *row.reasons]) if row.problem is None else f"{row.health}: {row.problem}"
    return (
        row.host,
        None if row.board is None else row.board.removeprefix("Raspberry ").replace(" Model B Rev", " rev"),
        row.hat,
        row.model,
        _rounded(row.tokens_per_s),
        _rounded(row.ttft_p95_ms, 0),
        _rounded(row.temperature_c),
        None if row.certificate_expires is None else _left(row.certificate_expires - now),
        health,
    )


def _left(time: timedelta) -> str:
    if time >= timedelta(days=2):
        return f"{time.days} d"
    return f"{time / timedelta(hours=1):.0f} h"


def _rounded(value: float | None, digits: int = 1) -> str | None:
    return None if value is None else f"{value:.{digits}f}"
