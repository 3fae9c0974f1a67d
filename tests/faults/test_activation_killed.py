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
    assert device.debris() == [], step


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


# -- the watchdog's way back ---------------------------------------------------

NEXT = {
    "the watchdog again": None,
    "the deadline": ("revert", "--if-overdue"),
    "an operator's revert": ("revert", "--reason", "slow"),
    "an operator's confirmation": ("confirm", f"assistant@{NEW}"),
}


@pytest.fixture
def give_up(runner, device):
    """The agent's own call, in a process of its own."""

    def call(version=NEW, **order):
        return runner.run("watchdog", f"assistant@{version}", str(device.config_file), **order)

    return call


@pytest.mark.parametrize("restarts", [False, True], ids=["server stays up", "server restarts"])
@pytest.mark.parametrize("then", NEXT)
def test_the_watchdog_killed_at_every_step(  # noqa: PLR0917
    then, restarts, give_up, command, device, server, registry, make_bundle
):
    """Whoever comes next, the device ends on one whole version, and nothing is left of the cut."""
    registry.publish(make_bundle(NEW))
    waiting(command)
    before = Snapshot(device, server)
    whole = give_up()
    assert (whole.code, whole.json["changed"], whole.json["version"]) == (0, True, OLD), whole.stderr
    assert (device.current, device.previous, device.pending, server.serving) == (OLD, None, None, OLD)
    assert whole.steps > 3, "nothing was counted, so nothing would be killed"
    ends = set()
    for step in range(1, whole.steps + 1):
        before.restore()
        assert give_up(kill_at=step).code == -9, step
        check_whole(device, server, step, restarts=restarts, waits=True)
        words = NEXT[then]
        again = (
            give_up() if words is None else command(*words, boottime_offset_s=LATE if "--if-overdue" in words else 0)
        )
        # Confirmed before the way back was on the disk: then it stays. All others bring it back.
        stays = then == "an operator's confirmation" and again.code == 0
        if not stays and again.code != 0:
            assert again.code == 3, (step, again.stderr)
            assert "cannot be confirmed" in again.error["what"] or "to go back to" in again.error["what"], step
        assert (device.current, device.previous) == ((NEW, OLD) if stays else (OLD, None)), step
        assert (server.serving, server.prepared, device.pending) == (device.current, None, None), step
        bundles.verify_files(device.home / device.current)
        assert device.debris() == [], step
        ends.add(device.current)
        later = give_up()
        assert (later.code, later.json["changed"], device.current) == (0, False, later.json["version"]), step
    assert ends == ({OLD, NEW} if then == "an operator's confirmation" else {OLD})


@pytest.mark.parametrize("prepare", [settled, upgrade], ids=["confirmed", "not activated"])
def test_the_watchdog_takes_back_nothing_that_somebody_has_vouched_for(  # noqa: PLR0917
    prepare, give_up, command, device, server, registry, make_bundle
):
    registry.publish(make_bundle(NEW))
    prepare(command)
    before = (device.current, device.previous, device.pending, server.serving)
    done = give_up()
    assert (done.code, done.json["changed"]) == (0, False)
    assert "no longer waits to be confirmed" in done.json["note"]
    assert (device.current, device.previous, device.pending, server.serving) == before


def test_the_watchdog_keeps_a_first_activation_also_where_it_was_killed(give_up, command, device, server, registry):
    command("activate", f"assistant@{OLD}", "--confirm-within", "3600")
    steps = give_up(OLD).steps
    for step in range(1, steps + 1):
        assert give_up(OLD, kill_at=step).code == -9
        assert (device.current, server.serving) == (OLD, OLD), step
        assert device.pending is not None
    done = give_up(OLD)
    assert (done.json["changed"], "no version before" in done.json["note"]) == (False, True)
