"""Where models' processes come from: forked, not started as programs.

A process of its own for a model would usually be a program that the server starts. The server may start none
(its profile and its unit's ``ExecPaths=``, docs/decisions/0017-confinement.md), and need not: ``Nursery.fork`` makes a
copy of the server's process while this has one thread, no keys and no connections, and that copy forks one for each
model. So models' processes have the server's confinement, and share what memory it had by then.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, Self

_PID: Final = struct.Struct("<q")
# Of a message, which is answered before the next one is sent; and file descriptors with one.
_LONGEST: Final = 64
_MOST: Final = 16


class Nursery:
    """The server's side. ``ended`` is told of each model's process that ended unasked: the model's name, and how."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.ended: Callable[[str, str], None] = lambda _model, _how: None

    @classmethod
    def fork(cls) -> Self:
        """Begin one. For a process that has no threads of Python's yet."""
        if threading.active_count() > 1:
            raise RuntimeError("a process with threads is not to be forked")
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            tend(theirs)
        theirs.close()
        return cls(ours)

    def begin(self, sockets: Sequence[socket.socket]) -> int:
        """A process that has ``sockets``, of which the caller keeps none; its number.

        Raises:
            OSError: there is none, as no more memory or processes may be had, or the nursery is gone.
        """
        with self._lock:
            socket.send_fds(self._connection, [b"begin"], [each.fileno() for each in sockets])
            pid = self._answer()
        if pid <= 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid

    def wait(self, pid: int) -> int:
        """The status of a process that has ended, or is about to (``os.waitpid``). Raises OSError."""
        with self._lock:
            self._connection.send(_PID.pack(pid))
            return self._answer()

    def close(self) -> None:
        """Let it end; processes that it began stay until their sockets are closed."""
        self._connection.close()

    def _answer(self) -> int:
        data = self._connection.recv(_LONGEST)
        if len(data) != _PID.size:
            raise ConnectionError("the process that forks for models is gone")
        number: int = _PID.unpack(data)[0]
        return number


def tend(connection: socket.socket) -> NoReturn:
    """The nursery's side, in a process of its own: fork and wait as asked, until nobody asks any more."""
    try:
        # A terminal's Ctrl-C and systemd's SIGTERM reach the whole group: the server drains, and then lets us go.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while True:
            data, descriptors, _, _ = socket.recv_fds(connection, _LONGEST, _MOST)
            if not data:
                break
            connection.send(_PID.pack(_fork(connection, descriptors) if descriptors else _wait(data)))
    finally:
        os._exit(0)


def _fork(connection: socket.socket, descriptors: Sequence[int]) -> int:
    """The new process's number, or a negative errno."""
    try:
        pid = os.fork()
    except OSError as error:
        pid = -(error.errno or 1)
    if pid == 0:
        connection.close()
        _work(descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return pid


def _wait(data: bytes) -> int:
    """The status of the process whose number is in ``data``."""
    return os.waitpid(_PID.unpack(data)[0], 0)[1]


def _work(descriptors: Sequence[int]) -> NoReturn:
    """What the new process does with its sockets."""
    status = 1
    try:
        # Only there: the nursery itself keeps no runtime in memory.
        from hedgerow.server.isolation import worker

        worker.work(*(socket.socket(fileno=each) for each in descriptors))
        status = 0
    finally:
        os._exit(status)
