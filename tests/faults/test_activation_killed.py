"""Kill -9 before every step of every command: the device serves one whole version, and the next command goes on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import pytest

from hedgerow.registry import bundle as bundles

OLD, NEW = "1.0.0", "1.1.0"
LATE = 3601.0  # the deadlines below are an hour


pytestmark = pytest.mark.slow


@dataclass
class Snapshot:
    """The device as it was before the command, to go back to before every kill."""

    device: object
    server: object

    def __post_init__(self):
        self.kept = self.device.root / "kept"
        self.serving = self.server.serving
        for name in ("models", "activation"):
            shutil.copytree(self.device.root / name, self.kept / name, symlinks=True)

    def restore(self):
        for name in ("models", "activation"):
            shutil.rmtree(self.device.root / name)
            shutil.copytree(self.kept / name, self.device.root / name, symlinks=True)
        self.server.serving, self.server.prepared = self.serving, None


def nothing_yet(command):
    command("stage", f"assistant@{NEW}")


def upgrade(command):
    command("activate", f"assistant@{OLD}")
    command("confirm", f"assistant@{OLD}")
    command("stage", f"assistant@{NEW}")


def waiting(command):
    upgrade(command)
    command("activate", f"assistant@{NEW}", "--confirm-within", "3600")


def settled(command):
    waiting(command)
    command("confirm", f"assistant@{NEW}")


ACTIVATE = ("activate", f"assistant@{NEW}", "--confirm-within", "3600")
CASES = {
    "first activation": (nothing_yet, ACTIVATE, 0),
    "upgrade": (upgrade, ACTIVATE, 0),
    "confirm": (waiting, ("confirm", f"assistant@{NEW}"), 0),
    "revert of a pending one": (waiting, ("revert", "--reason", "slow"), 0),
    "revert of a confirmed one": (settled, ("revert", "--reason", "slow"), 0),
    "deadline": (waiting, ("revert", "--if-overdue"), LATE),
}

WAITING = {"first activation", "upgrade"}


@pytest.mark.parametrize("restarts", [False, True], ids=["server stays up", "server restarts"])
@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_step(case, restarts, command, device, server, registry, make_bundle):  # noqa: PLR0917
    registry.publish(make_bundle(NEW))
    prepare, argv, offset = CASES[case]
    prepare(command)
    before = Snapshot(device, server)
    whole = command(*argv, boottime_offset_s=offset)
    assert whole.code == 0, whole.stderr
    after = (device.current, device.previous)
    assert whole.steps > 3, "nothing was counted, so nothing would be killed"
    ends = set()
    for step in range(1, whole.steps + 1):
        before.restore()
        killed = command(*argv, boottime_offset_s=offset, kill_at=step)
        assert killed.code == -9, (step, killed)
        check_whole(device, server, step, restarts=restarts, waits=case in WAITING)
        ends.add(device.current)
        again = command(*argv, boottime_offset_s=offset)
        check_end(case, again, after, device, server, step)
    assert ends <= {OLD, NEW, None}


def check_whole(device, server, step, *, restarts, waits):
    """What must hold right after the kill, before anything came to help."""
    if restarts:
        server.restart()
    for version in {device.current, server.serving} - {None}:
        bundles.verify_files(device.home / version)
    if waits and device.current == NEW:
        assert device.pending is not None, f"served without a deadline after a kill at step {step}"


def check_end(case, again, after, device, server, step):  # noqa: PLR0917
    """The same command again: done, or refused because it was done already; nothing is left of the cut."""
    if case.startswith("revert") and again.code == 3:
        assert "no version of assistant to go back to" in again.error["what"]
    else:
        assert again.code == 0, (step, again.stderr)
    assert (device.current, device.previous) == after, step
    assert device.previous != device.current
    assert server.serving == device.current, step
    assert server.prepared is None, step
    assert (device.pending is not None) == (case in WAITING), step
    left = [path.name for path in device.root.rglob(".*") if not path.is_relative_to(device.root / "kept")]
    assert left == [], step


def test_killed_upgrades_end_by_their_deadline(command, device, server, registry, make_bundle):
    """Nobody types anything: the timer alone must bring an unconfirmed version back."""
    registry.publish(make_bundle(NEW))
    upgrade(command)
    before = Snapshot(device, server)
    steps = command(*ACTIVATE).steps
    reverted = 0
    for step in range(1, steps + 1):
        before.restore()
        command(*ACTIVATE, kill_at=step)
        took_effect = device.current == NEW
        timer = command("revert", "--if-overdue", boottime_offset_s=LATE)
        assert timer.code == 0, timer.stderr
        assert (device.current, server.serving, device.pending) == (OLD, OLD, None), step
        reverted += took_effect
    assert reverted > 0, "no kill came after the switch"
