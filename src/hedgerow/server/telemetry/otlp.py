"""Finished requests to an OTLP/HTTP receiver, by OpenTelemetry's own exporter. Imported only where traces are on.

The exporter tries again within its time where the receiver says that this may help, and reads no proxy and no other
setting from the environment.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hedgerow.errors import MachineError, UsageError
from hedgerow.server.config import credential

try:
    import requests
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    from hedgerow.server.telemetry.spans import Spans
except ImportError as error:
    raise UsageError(
        f"traces are on, and OpenTelemetry is not installed: {error.name}",
        where="telemetry.traces",
        next_step="install hedgerow[device,traces], on a fleet inference_runtime_extras: [traces]; or remove this key",
    ) from error

if TYPE_CHECKING:
    from hedgerow.server.telemetry import config
    from hedgerow.server.telemetry.finished import Finished

# It logs each failed attempt, with what the receiver answered; ``traces`` tells of an outage once.
logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


class Otlp:
    """A connection to a receiver. ``resource`` says what sends: OpenTelemetry's resource attributes.

    Raises:
        MachineError: certificate, key or CA cannot be used.
        UsageError: a relative name, and no credentials.
    """

    def __init__(self, settings: config.Traces, resource: Mapping[str, str]) -> None:
        _try(settings)
        session = requests.Session()
        session.trust_env = False
        self._spans = Spans(resource)
        self._exporter = OTLPSpanExporter(
            endpoint=settings.endpoint,
            certificate_file=_file(settings.ca),
            client_certificate_file=_file(settings.certificate),
            client_key_file=_file(settings.key),
            headers={},
            timeout=settings.timeout_s,
            compression=Compression.Gzip,
            session=session,
        )

    def send(self, batch: Sequence[Finished]) -> bool:
        """Send a batch; False where it did not arrive. Blocks up to the configuration's ``timeout_s``."""
        spans = [span for request in batch for span in self._spans.of(request)]
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """End what is being tried again."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call] # it has no annotations


def _try(settings: config.Traces) -> None:
    """Load what each connection will load: else every batch would be lost, and an outage told where there is none."""
    ca, certificate, key = (_file(name) for name in (settings.ca, settings.certificate, settings.key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca is not None:
            context.load_verify_locations(ca)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        raise MachineError(
            f"traces cannot be sent: {error}",
            where=", ".join(filter(None, (ca, certificate, key))),
            next_step="correct ca, certificate and key in telemetry.traces",
        ) from error


def _file(name: str | None) -> str | None:
    return None if name is None else str(credential(name))
