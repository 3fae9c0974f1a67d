"""What the supervisor writes down, and how others tell whether a machine is on."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys

import msgspec
import pytest

from hedgerow.emulator.board import Board
from hedgerow.emulator.hardware_root import HardwareRoot
from hedgerow.emulator.values import defaults
from hedgerow.emulator.vm import card, firmware, supervisor
from hedgerow.emulator.vm.supervisor import Spec, State, Supervisor
from hedgerow.errors import MachineError

BOARD = Board(serial="e0d1c2b3a4950011", hat="hat-plus-2", cooling="active")


@pytest.fixture
def folder(tmp_path):
    """A machine that was made and never switched on."""
    HardwareRoot(tmp_path, BOARD).create(defaults("hat-plus-2", "active"), "ssh-ed25519 AAAA x")
    spec = Spec(
        name="pi-1",
        address="127.1.0.11",
        mac="02:00:00:00:00:01",
        forwards={2222: 22},
        tpm=False,
        data_disk_mb=0,
        sockets=str(tmp_path / "s"),
        kernel="/k",
        initramfs="/i",
        inputs="x",
        board=BOARD,
    )
    (tmp_path / supervisor.LOCK).touch()
    (tmp_path / supervisor.SPEC).write_bytes(msgspec.json.encode(spec))
    return tmp_path


def write(folder, state: State) -> None:
    (folder / supervisor.STATE).write_bytes(msgspec.json.encode(state))


def test_the_description_reads_as_it_was_written(folder):
    assert supervisor.read_spec(folder).board == BOARD
    assert supervisor.read_spec(folder / "none") is None


def test_a_machine_whose_supervisor_was_killed_is_off(folder):
    write(folder, State(power="on", qemu_pid=1, boots=1))
    (folder / supervisor.LOCK).touch()
    state = supervisor.read_state(folder)
    assert (state.power, state.qemu_pid, state.why) == ("off", None, "the supervisor was killed")


def test_who_holds_the_lock_keeps_the_machine_on(folder):
    write(folder, State(power="on", qemu_pid=1, boots=1))
    descriptor = os.open(folder / supervisor.LOCK, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert supervisor.is_alive(folder)
        assert supervisor.read_state(folder).power == "on"
    finally:
        os.close(descriptor)
    assert not supervisor.is_alive(folder)


def test_a_machine_between_two_boots_is_switched_off_through_its_supervisor(folder):
    """QEMU does not run then; the supervisor must not start it again."""
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, 2); print(1, flush=True); time.sleep(60)",
            str(folder / supervisor.LOCK),
        ],
        stdout=subprocess.PIPE,
    )
    with holder:
        holder.stdout.read(1)
        write(folder, State(power="starting", pid=holder.pid))
        supervisor.end(folder)
        assert holder.wait(timeout=10) == -signal.SIGTERM


def test_never_switched_on_is_off(tmp_path):
    assert supervisor.read_state(tmp_path).power == "off"


@pytest.mark.parametrize(
    "argument, trial", [("0 tryboot", True), ("0  tryboot\n", True), ("tryboot", False), ("", False), ("0 x", False)]
)
def test_which_reboots_are_trials(argument, trial):
    assert supervisor.is_trial(argument) is trial


def turns(monkeypatch, folder, script):
    """Run a supervisor whose turns end as ``script`` says: a reason, or an error; return what each was given."""
    given = []
    one = Supervisor(folder)
    endings = iter(script)

    def turn(argument):
        given.append(argument)
        ending = next(endings)
        if isinstance(ending, Exception):
            raise ending
        one._reboot_argument, reason = ending
        return reason

    monkeypatch.setattr(one, "_turn", turn)
    one.run()
    return given


def test_a_reset_boots_again_with_the_argument_of_that_reset_alone(monkeypatch, folder):
    script = [("0 tryboot", "guest-reset"), ("", "guest-reset"), ("", "guest-shutdown")]
    assert turns(monkeypatch, folder, script) == [None, "0 tryboot", ""]
    assert supervisor.read_state(folder).why == "the guest switched itself off"


def test_a_power_cut_ends_it_and_forgets_the_trial(monkeypatch, folder):
    assert turns(monkeypatch, folder, [("0 tryboot", "power cut")]) == [None]
    assert supervisor.read_state(folder).why == "power cut"


def test_a_trial_that_cannot_be_loaded_falls_back(monkeypatch, folder):
    missing = firmware.NotBootableError("no kernel")
    script = [("0 tryboot", "guest-reset"), missing, ("", "guest-shutdown")]
    assert turns(monkeypatch, folder, script) == [None, "0 tryboot", ""]


def test_a_card_that_does_not_boot_leaves_the_machine_off_with_the_reason(monkeypatch, folder):
    assert turns(monkeypatch, folder, [firmware.NotBootableError("no kernel: x is not there")]) == [None]
    assert "no kernel: x is not there" in supervisor.read_state(folder).why


def test_a_machine_that_resets_at_once_again_and_again_stays_off(monkeypatch, folder):
    turns(monkeypatch, folder, [("", "guest-reset")] * supervisor._LOOP_RESETS)
    assert "reset itself" in supervisor.read_state(folder).why


def test_an_error_of_this_machine_is_the_reason(monkeypatch, folder):
    turns(monkeypatch, folder, [MachineError("qemu-img cannot read the card: x")])
    assert supervisor.read_state(folder).why == "qemu-img cannot read the card: x"


def test_what_begins_a_boot_is_told_to_the_guest(monkeypatch, folder):
    """Cold with the power, warm with the argument of a reboot (the guest's 10-firmware reads both)."""
    from contextlib import contextmanager

    written = {}
    files = {
        "config.txt": b"",
        "tryboot.txt": b"",
        "cmdline.txt": b"root=x",
        "kernel_2712.img": b"emulated kernel 6.18.50+rpt-rpi-2712\n",
    }

    @contextmanager
    def partition(*_):
        yield files.get

    monkeypatch.setattr(card, "boot_partition", partition)
    monkeypatch.setattr(supervisor.device_tree, "write", lambda _, __, tree: written.update(tree))
    one = Supervisor(folder)
    names = lambda: _names(folder / "board.tar")  # noqa: E731
    assert one._decide(None).config == "config.txt"
    assert "power/cold-boot" in names()
    assert written["/chosen/bootloader", "tryboot"] == b"\0\0\0\0"
    assert one._decide("0 tryboot").config == "tryboot.txt"
    assert "power/reboot-param" in names()
    assert "power/cold-boot" not in names()
    assert written["/chosen/bootloader", "tryboot"] == b"\0\0\0\1"
    assert one._last_decision().config == "tryboot.txt"


def _names(path):
    import tarfile

    with tarfile.open(path) as tar:
        return tar.getnames()
