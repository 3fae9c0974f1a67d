"""Run ``hedgerow-device``, its watchdog or a publisher in a fresh process, and kill it with -9 before its n-th step.

A step is anything that another process could notice: a file opened for writing, renamed, linked, removed, a folder
made, a lock taken, a connection opened. Python's audit hooks announce each before it happens, so the product has no
crash points of its own.

One process imports everything once and forks for every order, which is why hundreds of kills are cheap. It speaks JSON
lines: ``{"program", "argv", "kill_at", "boottime_offset_s", "stdin"}`` in, ``{"code", "stdout", "stderr",
"steps"}`` out; ``code`` is -9 for a process that was killed.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

STEPS = {
    "fcntl.flock",
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "socket.connect",
}
WARM = (
    "hedgerow.device.activation",
    "hedgerow.device.assembled",
    "hedgerow.device.cli",
    "hedgerow.device.store.stage",
    "hedgerow.device.store.view",
    "hedgerow.server.config",
    "hedgerow.registry.authority.founding",
    "hedgerow.registry.authority.publishing",
    "hedgerow.registry.client.trusted",
    "hedgerow.registry.packing.publish",
    "hedgerow.registry.source",
)


def device() -> None:
    importlib.import_module("hedgerow.device.cli").main()


def watchdog() -> None:
    """``Activation.give_up`` as the device's agent calls it: ``CHANGE CONFIG_FILE``. No command does."""
    change, config_file = sys.argv[1:]
    module = importlib.import_module
    config = module("hedgerow.device.config").load(Path(config_file))
    activation = module("hedgerow.device.assembled").activation_of(config)
    outcome = activation.give_up(module("hedgerow.device.change").Change.parse(change), reason="it answers wrongly")
    print(json.dumps({"changed": outcome.changed, "version": outcome.version, "note": outcome.note}))


def publisher() -> None:
    """``found``, ``publish BUNDLE`` or ``refresh`` of a stage in a folder, all of whose keys are there."""
    verb, folder, *rest = sys.argv[1:]
    module = importlib.import_module
    if verb == "found":
        passphrases = module("hedgerow.registry.authority.keys").Passphrases()
        founding = module("hedgerow.registry.authority.founding")
        founding.found(Path(folder), "meadow", "production", passphrases=passphrases, unattended=True)
        return
    session = module("hedgerow.registry.authority.session").Session.open(Path(folder))
    if verb == "refresh":
        module("hedgerow.registry.authority.releasing").refresh(session)
        return
    packer = module("hedgerow.registry.packing.publish").packer
    module("hedgerow.registry.authority.publishing").publish(session, Path(*rest), packer=packer)


PROGRAMS = {"hedgerow-device": device, "publisher": publisher, "watchdog": watchdog}


def is_step(event: str, arguments: tuple[object, ...]) -> bool:
    if event == "open":
        _, mode, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return bool(writes) or (isinstance(mode, str) and any(letter in mode for letter in "wax+"))
    return event in STEPS


def child(order: dict, steps_fd: int) -> None:
    steps = 0
    kill_at = order.get("kill_at")
    counting = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps
        if counting and is_step(event, arguments):
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    offset = order.get("boottime_offset_s", 0)
    if offset:
        original = time.clock_gettime
        time.clock_gettime = lambda clock: original(clock) + (offset if clock == time.CLOCK_BOOTTIME else 0)
    tempfile.tempdir = order["scratch"]
    sys.argv = [order["program"], *order["argv"]]
    sys.stdin = io.TextIOWrapper(io.BytesIO(order.get("stdin", "").encode()))
    sys.addaudithook(hook)
    try:
        PROGRAMS[order["program"]]()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1
    counting = False
    os.write(steps_fd, str(steps).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(order: dict) -> dict:
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        tempfile.TemporaryFile() as steps,
        # What a kill leaves in the folder for temporary files is nobody's business here.
        tempfile.TemporaryDirectory() as scratch,
    ):
        order["scratch"] = scratch
        pid = os.fork()
        if pid == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            try:
                child(order, steps.fileno())
            finally:
                os._exit(70)
        _, status = os.waitpid(pid, 0)
        answer = {"code": os.waitstatus_to_exitcode(status)}
        for name, file in (("stdout", out), ("stderr", err), ("steps", steps)):
            file.seek(0)
            answer[name] = file.read().decode()
        answer["steps"] = int(answer["steps"] or 0)
        return answer


def main() -> None:
    for name in WARM:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
