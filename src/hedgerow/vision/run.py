"""One process: the cameras of a configuration, their metrics, until SIGTERM or the end of all files."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator

from prometheus_client import start_http_server

from hedgerow.device.notify import notify
from hedgerow.errors import MachineError
from hedgerow.server.config import Address
from hedgerow.vision.client import ModelClient
from hedgerow.vision.config import VisionConfig, secret
from hedgerow.vision.detector import Detector
from hedgerow.vision.drift import ConfidenceDrift
from hedgerow.vision.forward import Forwarder
from hedgerow.vision.metrics import Metrics
from hedgerow.vision.pipeline import Pipeline, Seen

log = logging.getLogger("hedgerow.vision")


def run(config: VisionConfig, *, tell: Callable[[Seen], None] = lambda _: None) -> None:
    """Watch until SIGTERM or SIGINT, or until every source was a file and has ended. ``tell`` is called on any thread.

    Raises:
        UsageError: a secret's file is not there, or not as it must be.
        MachineError: a file cannot be read, a thread broke, or the metrics' port is taken.
    """
    for path in config.secret_files:
        # They are read when they are needed, again and again; what is wrong from the start is said now.
        secret(path)
    stop = threading.Event()
    metrics = Metrics()
    with contextlib.ExitStack() as closing:
        forwarder = None
        if config.forward is not None:
            log.warning("frames leave this process: %s", _where(config))
            forwarder = Forwarder(config.forward)
        pipelines = []
        for camera in config.cameras:
            client = ModelClient(config.model.server, config.model.name, timeout_s=config.model.timeout_s)
            closing.callback(client.close)
            drift = ConfidenceDrift(
                window=config.drift.window, tolerance=config.drift.tolerance, baseline=config.drift.baseline
            )
            detector = Detector(config.model, client)
            pipelines.append(
                Pipeline(camera, detector, drift=drift, metrics=metrics, stop=stop, forwarder=forwarder, tell=tell)
            )
        closing.enter_context(_stopped_by_signals(stop, pipelines))
        if config.metrics is not None:
            closing.enter_context(_exposed(config.metrics, metrics))
        if forwarder is not None:
            forwarder.start()
            closing.callback(forwarder.close)
        for pipeline in pipelines:
            pipeline.start()
        notify("READY=1")
        for pipeline in pipelines:
            pipeline.join()
        notify("STOPPING=1")
    failures = {camera.name: pipeline.failure for camera, pipeline in zip(config.cameras, pipelines, strict=True)}
    if any(failures.values()):
        text = "; ".join(f"{name}: {failure}" for name, failure in failures.items() if failure)
        raise MachineError(
            f"a camera could not be watched: {text}", next_step="compare its source in the configuration"
        )


@contextlib.contextmanager
def _exposed(address: Address, metrics: Metrics) -> Iterator[None]:
    try:
        server, thread = start_http_server(address.port, address.address, registry=metrics.registry)
    except OSError as error:
        raise MachineError(
            f"metrics cannot be served: {error.strerror}",
            where=str(address),
            next_step="choose another port in metrics",
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def _stopped_by_signals(stop: threading.Event, pipelines: list[Pipeline]) -> Iterator[None]:
    """SIGTERM and SIGINT end it in order. A read that hangs ends by its own time limit."""

    def ask(*_: object) -> None:
        stop.set()
        # On a thread: the main one may hold the lock that this takes.
        threading.Thread(target=wake, name="stop").start()

    def wake() -> None:
        for pipeline in pipelines:
            pipeline.wake()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _where(config: VisionConfig) -> str:
    to = None if config.forward is None else config.forward.to
    return str(getattr(to, "path", None) or getattr(to, "url", None))
