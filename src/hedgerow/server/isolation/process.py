"""The server's side of one model's process."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
from typing import TYPE_CHECKING, Final

from hedgerow.server.errors import ServingError, Unusable
from hedgerow.server.isolation import wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hedgerow.server.backends import Arrays
    from hedgerow.server.isolation.nursery import Nursery

# As many as the server's threads that compute for one model (``DataPlane``).
_CHANNELS: Final = 2


class Died(Exception):
    """The process ended before it answered; ``asked`` is whether it may have read what it was asked."""

    def __init__(self, *, asked: bool) -> None:
        self.asked = asked


class Process:
    """A process with a model, loaded when this is made.

    Raises:
        Unusable: it cannot be loaded, or its process ended while it was.
    """

    def __init__(self, nursery: Nursery, load: wire.Load) -> None:
        self._nursery = nursery
        self._lock = threading.Lock()
        self._status: int | None = None
        # Seen by a request, perhaps before whoever watches it.
        self.ended = False
        pairs = [socket.socketpair() for _ in range(1 + _CHANNELS)]
        self._control, *self._channels = (ours for ours, _ in pairs)
        try:
            self.pid = nursery.begin([theirs for _, theirs in pairs])
        except OSError as error:
            self._let_go()
            raise Unusable("load_failed", f"no process can be had for it: {error.strerror or error}") from error
        finally:
            for _, theirs in pairs:
                theirs.close()
        try:
            wire.send(self._control, load)
            found = wire.receive(self._control, wire.Loaded | wire.Failure)
        except (OSError, ValueError):
            self.kill()  # or nobody would see the end of one that goes on
            found = None
        if found is None:
            how = self.how_it_ended()
            self._let_go()
            raise Unusable("load_failed", f"the process that loaded it ended by {how}")
        said = found[0]
        if isinstance(said, wire.Failure):
            self.wait()
            self._let_go()
            raise wire.raised(said)
        self.loaded: wire.Loaded = said
        # Generations are all on one thread there, the first channel's.
        self._free: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        for channel in self._channels[: 1 if said.text else None]:
            self._free.put(channel)

    def ask(
        self, message: wire.Asked, arrays: Arrays | None = None
    ) -> tuple[wire.Inferred | wire.Begun | wire.HasRead | wire.Stepped | wire.Ended, Arrays]:
        """The answer, and the arrays in it.

        Raises:
            Died: there will be none. ServingError: as the backend there raised it.
        """
        said, parts = wire.described(arrays or {})
        if said and isinstance(message, wire.Infer):
            message = wire.Infer(outputs=message.outputs, run=message.run, tensors=said)
        channel = self._free.get()
        asked = False
        try:
            wire.send(channel, message, parts)
            asked = True
            found = wire.receive(channel, wire.Answered)
        except OSError:
            found = None
        except (ValueError, MemoryError, ServingError):  # it says what nobody can read
            self.kill()
            found = None
        finally:
            self._free.put(channel)
        if found is None:
            self.ended = True
            raise Died(asked=asked)
        answer, outputs = found
        if isinstance(answer, wire.Failure):
            raise wire.raised(answer)
        return answer, outputs

    def stop(self, run: int) -> None:
        """End a run soon, if it runs or is about to."""
        with self._lock, contextlib.suppress(OSError):
            wire.send(self._control, wire.Stop(run=run))

    def wait(self) -> None:
        """Until its memory is back: the kernel closes a process's files behind its memory (``do_exit``)."""
        with contextlib.suppress(OSError):
            while self._control.recv(1):
                pass

    def how_it_ended(self) -> str:
        """For people: a signal's name or the exit status, of a process that has ended or is about to."""
        with self._lock:
            if self._status is None:
                try:
                    self._status = self._nursery.wait(self.pid)
                except OSError:
                    return "an end that nobody saw"
        code = os.waitstatus_to_exitcode(self._status)
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def ask_to_end(self) -> None:
        """Have it close its model and end; those that wait for an answer get none."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End it now."""
        with self._lock:
            if self._status is None:  # its number is its own until it has been waited for
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def _let_go(self) -> None:
        _close([self._control, *self._channels])

    def forget(self) -> None:
        """Close the sockets of a process that has ended."""
        self.how_it_ended()
        self._let_go()


def _close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()
