"""Clocks that are years off, on the controller and on emulated hosts.

Containers share the machine's clock, so it is the library of datefudge (Debian's package) that says another. Not of
libfaketime, which meddles with the monotonic clock as well: what waits in a Python of today then waits for ever.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

LIBRARY = Path("/usr/lib") / f"{os.uname().machine}-linux-gnu" / "datefudge/datefudge.so"
_DAY_S = 86_400
_ON_DEVICE, _PYTHON = "/usr/local/lib/datefudge.so", "/usr/local/bin/late-python3"


@contextmanager
def on_controller(years: int) -> Iterator[None]:
    """Commands of this controller see a clock that is off; this process does not."""
    # A connection of a run with the right clock would be held on to, with another one's idea of time.
    fake = _fake(years) | {"ANSIBLE_SSH_CONTROL_PATH_DIR": tempfile.mkdtemp(prefix="cp-")}
    before = {name: os.environ.get(name) for name in fake}
    os.environ.update(fake)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def on_device(fleet: Any, host: str, years: int, *units: str) -> Iterator[dict[str, str]]:
    """These units of a host see a clock that is off, and so does what Ansible runs there with the variables given."""
    drop_ins = [f"/run/systemd/system/{unit}.service.d/99-clock.conf" for unit in units]
    fake = " ".join(f"{key}={value}" for key, value in _fake(years, _ON_DEVICE).items())
    restart = f"systemctl daemon-reload; systemctl restart {' '.join(units)}" if units else "true"
    with ExitStack() as after:
        after.callback(fleet.on, host, restart)
        after.callback(fleet.on, host, f"rm -f {_PYTHON} {_ON_DEVICE} {' '.join(drop_ins)}")
        _place(fleet, host, _ON_DEVICE, LIBRARY.read_bytes())
        _place(fleet, host, _PYTHON, f'#!/bin/sh\nexec env {fake} /usr/bin/python3 "$@"\n'.encode())
        for path in drop_ins:
            _place(fleet, host, path, f"[Service]\nEnvironment={fake}\nExecPaths={_ON_DEVICE}\n".encode())
        fleet.on(host, restart)
        yield {"ansible_python_interpreter": _PYTHON}


def _place(fleet: Any, host: str, path: str, content: bytes) -> None:
    line = f"mkdir -p {Path(path).parent}; cat > {path}; chmod 755 {path}"
    done = fleet.controller.on(host, line, stdin=content)
    assert done.returncode == 0, done.stderr


def _fake(years: int, library: str = str(LIBRARY)) -> dict[str, str]:
    # What it is told it takes away from the time.
    return {"LD_PRELOAD": library, "DATEFUDGE": str(-years * 365 * _DAY_S)}
