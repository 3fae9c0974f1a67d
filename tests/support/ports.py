"""Ports for servers that tests start: nobody else gets one in the time before the server listens.

The kernel gives a port that somebody asks for by 0, and then the same to whichever connection goes out next. So these
are from below the range that it gives of itself, and each is locked for as long as the test's process lives.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import Final

_FROM: Final = 20_000
_LOCKS: Final = Path(tempfile.gettempdir()) / f"hedgerow-test-ports-{os.getuid()}"
_TRIES: Final = 10_000


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on and no other test gets."""
    first, _, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").partition("\t")
    _LOCKS.mkdir(exist_ok=True)
    for _ in range(_TRIES):
        port = random.randrange(_FROM, int(first))
        lock = os.open(_LOCKS / str(port), os.O_CREAT | os.O_WRONLY)  # open until the process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind((address, port))
        except OSError:
            os.close(lock)
        else:
            return port
    raise AssertionError(f"no port from {_FROM} to {first} is free")
