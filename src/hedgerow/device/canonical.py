"""Put the canonical question to the server of this device, through the door that applications use.

The control socket serves the applications' routes as well, and opens to root alone: the agent needs no network.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hedgerow import filelock
from hedgerow.device import links
from hedgerow.device.control import ControlSocket, Status
from hedgerow.device.watchdog import Answer, Look
from hedgerow.errors import DeviceError, HedgerowError
from hedgerow.registry import bundle as bundles
from hedgerow.registry import probe as probes
from hedgerow.registry.reference import Reference

# The server's event loop answers this, whatever the model does.
STATUS_S = 5.0
_OK = 200
# Too many wait already; drained, or stopping.
_BUSY = {429, 503}


class Canonical:
    """Asks about one model; ``lock`` is held by commands that change what is served, ``timeout_s`` bounds an answer."""

    def __init__(self, models_dir: Path, model: str, socket: Path, *, lock: Path, timeout_s: float) -> None:
        self._models_dir = models_dir
        self._model = model
        self._status = ControlSocket(socket, timeout_s=STATUS_S)
        self._door = ControlSocket(socket, timeout_s=timeout_s)
        self._lock = lock
        self._known: tuple[Reference, probes.Probe, probes.Question] | None = None

    def look(self) -> Look:
        """Ask once. Never raises for what the server or the disk does."""
        # While it loads a model for a command, the server may stand still (hedgerow.server.systemd.Patience).
        if filelock.held(self._lock):
            return Look(Answer.EXCUSED, "a command changes what is served")
        if links.target(self._models_dir / self._model, links.CURRENT) is None:
            return Look(Answer.EXCUSED, "no version is active")
        try:
            before = self._status.status()
        except DeviceError as error:
            return Look(Answer.UNREADY, error.what)
        look = self._look(before)
        if look.answer in {Answer.FAILED, Answer.UNREADY} and self._changed(before):
            return Look(Answer.EXCUSED, "another version is served since the question was put")
        return look

    def _look(self, status: Status) -> Look:
        if status.drained_until is not None:
            return Look(Answer.EXCUSED, "the server is drained")
        if status.stood_in:
            return Look(Answer.EXCUSED, "its board is under pressure: another model answers, or none")
        if status.serving is None:
            return Look(Answer.UNREADY, "it serves no model")
        try:
            probe, question = self._question(status.serving)
            code, data = self._door.post(question.path, question.body)
        except HedgerowError as error:  # a manifest that was damaged since, too
            return Look(Answer.FAILED, error.what)
        if code in _BUSY:
            return Look(Answer.EXCUSED, "the server is busy")
        wrong = _wrong(probe, code, data)
        return Look(Answer.ANSWERED) if wrong is None else Look(Answer.FAILED, wrong)

    def _question(self, serving: Reference) -> tuple[probes.Probe, probes.Question]:
        """The cheapest golden input of the version in service, read once a version."""
        if self._known is None or self._known[0] != serving:
            manifest = bundles.load(self._models_dir / serving.name / serving.version).manifest
            probe = probes.choose(manifest)
            types = {tensor.name: tensor.dtype for tensor in manifest.inputs}
            self._known = serving, probe, probes.ask(probe, serving.name, types)
        return self._known[1:]

    def _changed(self, before: Status) -> bool:
        if filelock.held(self._lock):
            return True
        try:
            return self._status.status().serving != before.serving
        except DeviceError:
            return False


def _wrong(probe: probes.Probe, code: int, data: bytes) -> str | None:
    if code != _OK:
        return f"HTTP {code}: {data[:200].decode(errors='replace')}"
    try:
        return probes.wrong(probe, msgspec.json.decode(data))
    except msgspec.DecodeError as error:
        return f"the answer is no JSON: {error}"
