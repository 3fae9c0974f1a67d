"""Run enrolment in a process of its own that ends, or finds the disk full, at its n-th step that changes the disk.

A step is what another process could notice: a file opened for writing, renamed, linked, removed, a folder made.
Python's audit hooks announce each before it happens, so the product has no crash points of its own.

    python cut.py kill|full N directory function arguments-as-JSON

``N`` 0 lets it run. Prints the number of steps, and of ``full`` what was said. A process that is killed ends with 137.
``full`` makes every step from the n-th on that would need room fail, so that clearing up is shown, too.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import Any

STEPS = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.chmod"}
NEED_ROOM = {"open", "os.link", "os.mkdir", "os.symlink"}


def main() -> None:
    how, at, directory, function, arguments = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]
    from hedgerow.identity import enrol

    steps = 0

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal steps
        writes = event == "open" and isinstance(details[0], str) and details[0].startswith(directory)
        # Flags of what is opened to be read, or locked, change nothing.
        writes = writes and bool(details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if event not in STEPS and not writes:
            return
        steps += 1
        if at and how == "kill" and steps == at:
            os._exit(137)
        if at and how == "full" and steps >= at and event in NEED_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sys.addaudithook(hook)
    said = None
    try:
        getattr(enrol, function)(directory, **json.loads(arguments))
    except enrol.EnrolError as error:
        said = error.what
    print(json.dumps({"steps": steps, "said": said}))


if __name__ == "__main__":
    main()
