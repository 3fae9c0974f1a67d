"""All that a server tells of its requests, put together as its configuration says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hedgerow import __version__
from hedgerow.errors import HedgerowError
from hedgerow.server.redaction import Redactor
from hedgerow.server.telemetry.logs import RequestLines
from hedgerow.server.telemetry.samples import Folder, Samples
from hedgerow.server.telemetry.traces import Traces

if TYPE_CHECKING:
    from hedgerow.server.metrics import Metrics
    from hedgerow.server.recording import Recorder
    from hedgerow.server.telemetry import config
    from hedgerow.server.telemetry.finished import Finished

log = logging.getLogger("hedgerow.server")


class Telemetry:
    """Attached to one recorder. What cannot be begun is logged and left out: it must not keep a device from serving."""

    def __init__(
        self, settings: config.Telemetry, recorder: Recorder, metrics: Metrics, resource: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._recorder = recorder
        self._metrics = metrics
        self._closing: list[Callable[[], None]] = []
        recorder.sinks.append(RequestLines(self.slow))
        for begin in (lambda: self._traces(resource), lambda: self._samples(recorder)):
            try:
                sink = begin()
            except HedgerowError as error:
                log.error("%s", error)  # noqa: TRY400 - the message is complete
            else:
                if sink is not None:
                    recorder.sinks.append(sink)
                    self._closing.append(sink.close)

    def slow(self, request: Finished) -> bool:
        """Whether a request took longer than the configuration wants."""
        return request.slow(self._settings.slow_s, self._settings.slow_first_token_s)

    def close(self) -> None:
        """Bring away what waits, if that is quick. Blocks."""
        self._recorder.settle()
        for close in self._closing:
            close()

    def _traces(self, resource: Mapping[str, str]) -> Traces | None:
        settings = self._settings.traces
        if settings is None:
            return None
        # OpenTelemetry takes a while to be imported, and memory; whoever sends no traces does not pay for it.
        from hedgerow.server.telemetry.otlp import Otlp

        otlp = Otlp(settings, resource)
        return Traces(
            settings,
            otlp.send,
            self._metrics,
            important=lambda request: request.failed or self.slow(request),
            stop=otlp.close,
        )

    def _samples(self, recorder: Recorder) -> Samples | None:
        settings = self._settings.samples
        if settings is None:
            return None
        folder = Folder(settings, Redactor(words=self._settings.words))
        recorder.keeps_text = True
        return Samples(settings, folder, self._metrics, slow=self.slow)


def resource(*, host: str, site: str, fleet: str, serial: str) -> dict[str, str]:
    """What sends: OpenTelemetry semantic conventions, "Resource"; what they have no name for is ``hedgerow.``."""
    found = {
        "service.name": "hedgerow-server",
        "service.namespace": fleet,
        "service.instance.id": serial or host,
        "service.version": __version__,
        "host.name": host,
        "hedgerow.site": site,
    }
    return {key: value for key, value in found.items() if value}
