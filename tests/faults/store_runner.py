"""As ``crash_runner``, for the store: a step is also every write, flush and copy, and a write may be torn.

``hedgerow-device`` runs whole; only the registry is a folder (``registry`` of the order) whose signatures are taken for
granted. An order that is killed in a write has the first half of it written.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import tempfile
from pathlib import Path

import crash_runner

sys.path.insert(0, str(Path(__file__).parents[2]))

DOUBLE = "tests.unit.device.store.registry_double"
WARM = (
    DOUBLE,
    "hedgerow.device.activation",
    "hedgerow.device.assembled",
    "hedgerow.device.cli",
    "hedgerow.device.store.stage",
    "hedgerow.device.store.view",
    "hedgerow.registry.client.trusted",
    "hedgerow.registry.source",
)
WRAPPED = ("copy_file_range", "fdatasync", "fsync", "pwrite")


class Steps:
    """Counts steps, and kills this process before the one that is asked for."""

    def __init__(self, kill_at: int | None) -> None:
        self.number = 0
        self.counting = True
        self._kill_at = kill_at

    def due(self) -> bool:
        self.number += self.counting
        return self.counting and self.number == self._kill_at

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if crash_runner.is_step(event, arguments) and self.due():
            die()

    def wrap(self, name: str) -> None:
        original = getattr(os, name)

        def call(*arguments):
            if self.due():
                if name == "pwrite":
                    fd, data, offset = arguments
                    original(fd, bytes(data)[: len(data) // 2], offset)
                die()
            return original(*arguments)

        setattr(os, name, call)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def child(order: dict, steps_fd: int) -> None:
    steps = Steps(order.get("kill_at"))
    double = importlib.import_module(DOUBLE).Double(Path(order["registry"]))
    double.budget = order.get("cut")
    importlib.import_module("hedgerow.registry.client.trusted").Trusted = lambda source, trust_dir, *, synced: double
    importlib.import_module("hedgerow.registry.source").HttpsSource = lambda *_, **__: double
    importlib.import_module("hedgerow.device.store.receive")._PAUSE_S = 0
    tempfile.tempdir = order["scratch"]
    sys.argv = [order["program"], *order["argv"]]
    sys.stdin = io.StringIO()
    for name in WRAPPED:
        steps.wrap(name)
    sys.addaudithook(steps.hook)
    try:
        crash_runner.device()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1
    steps.counting = False
    os.write(steps_fd, str(steps.number).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    crash_runner.WARM = WARM
    crash_runner.child = child
    crash_runner.main()
