"""What runs in a model's process: the model is loaded, and asked over sockets until the server closes them.

One thread a socket: runs of a tensor model may be side by side, the steps of generations are one after the other, as
the interface of backends has it. The main thread watches the control socket; with its end the process ends.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import itertools
import logging
import os
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from hedgerow.errors import MachineError
from hedgerow.server import backends, memory
from hedgerow.server.errors import DeadlineExceeded, ServingError
from hedgerow.server.isolation import wire

if TYPE_CHECKING:
    from hedgerow.server.backends import Backend, Decoding, RunHandle, StoppableBackend, TensorBackend, TextBackend

log = logging.getLogger("hedgerow.server")
# A runtime that does not let go of its model may not keep the process, and what it holds of a board.
_CLOSE_S: Final = 10
# Runs that were stopped before they began; the server asks for no more at once.
_STOPPED: Final = 64
_PR_SET_NAME: Final = 15  # prctl(2)
_NAME: Final = b"hedgerow-model"  # 15 bytes at most


def work(control: socket.socket, *channels: socket.socket) -> None:
    """Serve one model until ``control`` ends."""
    _take_name()
    memory.settle()
    asked = wire.receive(control, wire.Load)
    if asked is None:
        return
    load: wire.Load = asked[0]
    try:
        backend, size = _loaded(load)
    except ServingError as error:
        wire.send(control, wire.failure(error))
        return
    wire.send(control, _described(backend, size))
    model = Model(backend)
    for channel in channels:
        threading.Thread(target=model.serve, args=(channel,), daemon=True).start()
    while (stop := _next(control)) is not None:
        model.stop(stop.run)
    signal.alarm(_CLOSE_S)
    backend.close()


def _loaded(asked: wire.Load) -> tuple[Backend, int]:
    """The model, and the bytes that it was measured to take; 0 where the kernel does not say."""
    folder = Path(asked.folder)
    load = functools.partial(backends.load, folder, threads=asked.threads, providers=asked.providers)
    try:
        return memory.measured(folder, load)
    except MachineError as error:
        log.warning("%s", error)
        return load(), 0


class Model:
    """Answers what is asked of ``backend``."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._numbers = itertools.count(1)
        self._decodings: dict[int, Decoding] = {}
        self._lock = threading.Lock()
        self._runs: dict[int, RunHandle] = {}
        self._stopped: collections.deque[int] = collections.deque(maxlen=_STOPPED)

    def serve(self, channel: socket.socket) -> None:
        """Answer one question after the other. What is no fault of a question's ends the process."""
        try:
            while (asked := wire.receive(channel, wire.Asked)) is not None:
                answer, parts = self._answered(*asked)
                del asked  # a body must not stay here until the next one has come
                wire.send(channel, answer, parts)
                del answer, parts
        except OSError:
            return  # the server is gone; the main thread sees it, too
        except BaseException:
            log.exception("a model's process fails")
            os._exit(1)

    def answer(self, message: wire.Asked, arrays: backends.Arrays) -> tuple[wire.Answered, backends.Arrays]:
        """The answer, and the arrays that go with it."""
        if isinstance(message, wire.Infer):
            return wire.Inferred(), self._infer(message, arrays)
        if isinstance(message, wire.Begin):
            decoding = cast("TextBackend", self._backend).begin(message.request)
            number = next(self._numbers)
            self._decodings[number] = decoding
            return wire.Begun(number=number, prompt_tokens=decoding.prompt_tokens), {}
        if isinstance(message, wire.End):
            self._decodings.pop(message.number).close()
            return wire.Ended(), {}
        decoding = self._decodings[message.number]
        if isinstance(message, wire.Read):
            whole = decoding.read()
            return wire.HasRead(whole=whole, prompt_tokens=decoding.prompt_tokens), {}
        text = decoding.step()
        logprob = getattr(decoding, "logprob", None)
        return wire.Stepped(
            text=text, truncated=decoding.truncated, prompt_tokens=decoding.prompt_tokens, logprob=logprob
        ), {}

    def _answered(self, message: wire.Asked, arrays: backends.Arrays) -> tuple[wire.Answered, list[bytes | memoryview]]:
        """The answer or what was raised instead, and the bytes that follow it."""
        try:
            answer, outputs = self.answer(message, arrays)
            said, parts = wire.described(outputs)
        except ServingError as error:
            return wire.failure(error), []
        except Exception as error:
            log.exception("a model's process could not answer")
            return wire.failure(error), []
        return (wire.Inferred(tensors=said) if said else answer), parts

    def stop(self, run: int) -> None:
        """End a run, also one that has not begun yet."""
        with self._lock:
            handle = self._runs.get(run)
            if handle is None:
                self._stopped.append(run)
        if handle is not None:
            handle.terminate = True

    def _infer(self, message: wire.Infer, inputs: backends.Arrays) -> backends.Arrays:
        if not message.run or not hasattr(self._backend, "begin_run"):
            return cast("TensorBackend", self._backend).infer(inputs, message.outputs)
        backend = cast("StoppableBackend", self._backend)
        with self._lock:
            if message.run in self._stopped:
                raise DeadlineExceeded("nobody waits for it any more")
            handle = self._runs[message.run] = backend.begin_run()
        try:
            return backend.infer(inputs, message.outputs, handle)
        finally:
            with self._lock:
                del self._runs[message.run]


def _next(control: socket.socket) -> wire.Stop | None:
    """The next word of the server; None where it will say no more."""
    try:
        found = wire.receive(control, wire.Stop)
    except OSError:
        return None
    return None if found is None else cast("wire.Stop", found[0])


def _described(backend: Backend, size: int) -> wire.Loaded:
    adapters = getattr(backend, "adapters", None)
    return wire.Loaded(
        platform=backend.platform,
        inputs=tuple(getattr(backend, "inputs", ())),
        outputs=tuple(getattr(backend, "outputs", ())),
        text=hasattr(backend, "begin"),
        stoppable=hasattr(backend, "begin_run"),
        generations=getattr(backend, "generations", None),
        adapters=None if adapters is None else tuple(adapters),
        logprobs=getattr(backend, "logprobs", False),
        memory=size,
    )


def _take_name() -> None:
    """What ``ps -o comm`` shows: which of the server's processes a core's time and memory go to."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).prctl(_PR_SET_NAME, _NAME, 0, 0, 0)
