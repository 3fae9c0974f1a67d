"""Backends that compute in another process, and what happens when that ends.

Invariants:

- A process that ends unasked takes the requests that ran on it along, and nothing else. It is begun again: at once if
  it had run for ``_STEADY_S``, else after 1, 2, 4 … ``_LONGEST_S`` seconds. Requests meanwhile get 503 and are told
  when to come back.
- ``close`` returns when the process is gone, and with it all memory that the model ever took.
- A process that cannot be begun again (no memory, its files are gone) is tried again in the same way.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Final, cast

from hedgerow.server.errors import DeadlineExceeded, Overloaded, ServingError
from hedgerow.server.isolation import wire
from hedgerow.server.isolation.process import Died, Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hedgerow.server.backends import Arrays, Backend, TextRequest
    from hedgerow.server.computing import Provider
    from hedgerow.server.isolation.nursery import Nursery

log = logging.getLogger("hedgerow.server")
# Whoever ran for so long did not end by what it was begun with.
_STEADY_S: Final = 60.0
_LONGEST_S: Final = 60.0
# A runtime looks between two nodes whether it is to stop; one that has not by then will not.
_STOP_S: Final = 10.0
# What its process itself gives the runtime to let go of the model, and some.
_CLOSE_S: Final = 15.0


def load(
    nursery: Nursery, name: str, folder: Path, *, threads: int | None, providers: Sequence[Provider] = ()
) -> Backend:
    """Load the model in ``folder`` in a process of its own; ``name`` is for logs and metrics.

    Raises:
        Unusable: as ``backends.load``, and where there can be no process; nothing stays loaded.
    """
    asked = wire.Load(folder=str(folder), threads=threads, providers=tuple(providers))
    supervised = Supervised(nursery, name, asked)
    loaded = supervised.loaded
    if loaded.text:
        return TextProcess(supervised)
    return StoppableProcess(supervised) if loaded.stoppable else TensorProcess(supervised)


class Supervised:
    """A model's process, begun again whenever it ends unasked."""

    def __init__(self, nursery: Nursery, name: str, asked: wire.Load) -> None:
        self._nursery = nursery
        self._name = name
        self._asked = asked
        self._closing = threading.Event()
        # The one in service; None while there is none, and ``_down`` says why and until when.
        self._process: Process | None = Process(nursery, asked)
        self.loaded = self._process.loaded
        self._down = ("has ended", 0.0)
        self._watching = threading.Thread(target=self._watch, args=(self._process,), name=f"watch-{name}", daemon=True)
        self._watching.start()

    def process(self) -> Process:
        """The process in service.

        Raises:
            Overloaded: there is none now.
        """
        process = self._process
        if process is None or process.ended:
            raise self._away()
        return process

    def lost(self, process: Process, died: Died) -> ServingError:
        """What to tell the caller whose request ``process`` took along, or was not there to take."""
        if not died.asked:
            return self._away()
        return ServingError(f"the model's process ended by {process.how_it_ended()} while it computed")

    def _away(self) -> Overloaded:
        how, again = self._down
        wait_s = min(max(1, math.ceil(again - time.monotonic())), int(_LONGEST_S))
        return Overloaded(f"the model's process {how}; it is begun again", retry_after_s=wait_s)

    def close(self) -> None:
        """End the process, and return when it is gone."""
        self._closing.set()
        process = self._process
        if process is not None:
            process.ask_to_end()
        self._watching.join(_CLOSE_S)
        if self._watching.is_alive() and process is not None:
            log.warning("%s: its process does not end, so it is killed", self._name)
            process.kill()
        self._watching.join()

    def _watch(self, process: Process | None) -> None:
        """Wait for the process's end and begin another, until told to close."""
        tries = 0
        while process is not None:
            began = time.monotonic()
            process.wait()
            how = process.how_it_ended()
            if self._closing.is_set():
                process.forget()
                return
            tries = 0 if time.monotonic() - began >= _STEADY_S else tries + 1
            self._down = (f"ended by {how}", time.monotonic() + _pause_s(tries))
            self._process = None
            log.error("%s: its process %d ended by %s and is begun again", self._name, process.pid, how)
            self._nursery.ended(self._name, how)
            process.forget()
            process = self._again(tries)

    def _again(self, tries: int) -> Process | None:
        """A new process, as soon as one can be had; None where nobody wants one any more."""
        while not self._closing.wait(_pause_s(tries)):
            try:
                process = Process(self._nursery, self._asked)
            except ServingError as error:
                tries += 1
                self._down = (f"cannot be begun again: {error.text}", time.monotonic() + _pause_s(tries))
                log.error("%s: %s", self._name, self._down[0])  # noqa: TRY400 - where it was raised says nothing more
                continue
            if process.loaded.inputs == self.loaded.inputs and process.loaded.outputs == self.loaded.outputs:
                self._process = process
                if self._closing.is_set():  # which may have looked before there was one
                    process.ask_to_end()
                return process
            process.ask_to_end()
            process.wait()
            process.forget()
            tries += 1
            self._down = ("cannot be begun again: its files are another model's", time.monotonic() + _pause_s(tries))
            log.error("%s: %s", self._name, self._down[0])
        return None


def _pause_s(tries: int) -> float:
    """Seconds before the next try, after so many that did not last."""
    return 0.0 if tries == 0 else min(2.0 ** (tries - 1), _LONGEST_S)


class TensorProcess:
    """A ``TensorBackend``. Not ``inline``: whoever asks waits for another process."""

    def __init__(self, supervised: Supervised) -> None:
        self._supervised = supervised
        loaded = supervised.loaded
        self.platform = loaded.platform
        self.inputs = loaded.inputs
        self.outputs = loaded.outputs
        self.memory = loaded.memory

    def infer(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        return self._infer(self._supervised.process(), wire.Infer(outputs=tuple(outputs)), inputs)

    def close(self) -> None:
        self._supervised.close()

    def _infer(self, process: Process, asked: wire.Infer, inputs: Arrays) -> Arrays:
        try:
            return process.ask(asked, inputs)[1]
        except Died as error:
            raise self._supervised.lost(process, error) from error


class Run:
    """A run that can be stopped: ``RunHandle``. Where the runtime does not, its process is ended after ``_STOP_S``."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._process: Process | None = None
        self._overdue: threading.Timer | None = None
        self._terminate = False

    @property
    def terminate(self) -> bool:
        return self._terminate

    @terminate.setter
    def terminate(self, wanted: bool) -> None:
        self._terminate = wanted
        process = self._process
        if wanted and process is not None:
            process.stop(self.number)
            self._overdue = threading.Timer(_STOP_S, self._end, (process,))
            self._overdue.daemon = True
            self._overdue.start()

    @contextlib.contextmanager
    def on(self, process: Process) -> Iterator[None]:
        """While it runs there."""
        self._process = process
        try:
            yield
        finally:
            self._process = None
            if self._overdue is not None:
                self._overdue.cancel()

    def _end(self, process: Process) -> None:
        if self._process is process:
            log.error("process %d does not stop a run that nobody waits for, so it is killed", process.pid)
            process.kill()


class StoppableProcess(TensorProcess):
    """A ``StoppableBackend``."""

    def __init__(self, supervised: Supervised) -> None:
        super().__init__(supervised)
        self._numbers = itertools.count(1)

    def begin_run(self) -> Run:
        return Run(next(self._numbers))

    def infer(self, inputs: Arrays, outputs: Sequence[str], run: Run | None = None) -> Arrays:
        if run is None:
            return super().infer(inputs, outputs)
        process = self._supervised.process()
        with run.on(process):
            if run.terminate:  # before there was a process to tell
                raise DeadlineExceeded("nobody waits for it any more")
            return self._infer(process, wire.Infer(outputs=tuple(outputs), run=run.number), inputs)


class TextProcess:
    """A ``TextBackend``, with those of the optional attributes that the backend there has."""

    def __init__(self, supervised: Supervised) -> None:
        self._supervised = supervised
        loaded = supervised.loaded
        self.platform = loaded.platform
        self.memory = loaded.memory
        self.logprobs = loaded.logprobs
        self.adapters = loaded.adapters or ()
        if loaded.generations is not None:
            self.generations = loaded.generations

    def begin(self, request: TextRequest) -> Decoding:
        process = self._supervised.process()
        try:
            begun, _ = process.ask(wire.Begin(request=request))
        except Died as error:
            raise self._supervised.lost(process, error) from error
        return Decoding(self._supervised, process, cast("wire.Begun", begun))

    def close(self) -> None:
        self._supervised.close()


class Decoding:
    """A generation in the process it was begun in. One that outlives that process fails at its next step."""

    logprob = 0.0
    truncated = False

    def __init__(self, supervised: Supervised, process: Process, begun: wire.Begun) -> None:
        self._supervised = supervised
        self._process = process
        self._number = begun.number
        self.prompt_tokens = begun.prompt_tokens

    def read(self) -> bool:
        said = cast("wire.HasRead", self._ask(wire.Read(number=self._number)))
        self.prompt_tokens = said.prompt_tokens
        return said.whole

    def step(self) -> str | None:
        said = cast("wire.Stepped", self._ask(wire.Step(number=self._number)))
        self.prompt_tokens, self.truncated = said.prompt_tokens, said.truncated
        if said.logprob is not None:
            self.logprob = said.logprob
        return said.text

    def close(self) -> None:
        with contextlib.suppress(Died):
            self._process.ask(wire.End(number=self._number))

    def _ask(
        self, asked: wire.Read | wire.Step
    ) -> wire.Inferred | wire.Begun | wire.HasRead | wire.Stepped | wire.Ended:
        try:
            return self._process.ask(asked)[0]
        except Died as error:
            raise self._supervised.lost(self._process, error) from error
