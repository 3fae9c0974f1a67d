"""The process that tells people and programs how a rollout stands: ``python -m hedgerow.rollout.sender``.

It is no child that anybody waits for: a channel that hangs, or a run that is
killed, leave one another alone. What came of it is journaled under the lease of
the run that sent it, while that run lives.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from hedgerow.errors import HedgerowError
from hedgerow.rollout import notify
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.notify import Errand


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the process reads from its standard input, as JSON. ``pid``: whose lease covers its lines."""

    folder: str
    pid: int
    task: Errand


def start(journal: Journal, task: Errand) -> subprocess.Popen[bytes]:
    """Begin to tell; returns at once. The environment, which may hold secrets, is this process's own."""
    order = Order(folder=str(journal.folder), pid=journal.writer, task=task)
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # An interrupt at the terminal is meant for the rollout.
        start_new_session=True,
    )
    with process.stdin as pipe, suppress(BrokenPipeError):  # type: ignore[union-attr]  # it is a pipe, see above
        pipe.write(msgspec.json.encode(order))
    return process


def main() -> None:
    """Tell everybody, and journal what came of it."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    journal = Journal(Path(order.folder), pid=order.pid)
    for told in notify.deliver(order.task):
        # The run may have ended, which then said that nothing is known of this; nobody else may write.
        with suppress(HedgerowError, OSError):
            journal.append(told)


if __name__ == "__main__":
    main()
