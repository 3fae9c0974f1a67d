"""The board around a virtual machine, as a process: power supply, boot firmware, reset line.

``python -m hedgerow.emulator.vm.supervisor FOLDER`` runs from power-on until the machine is off. Each turn of its loop
is one boot: it reads the boot partition of the card, decides as the firmware would, runs QEMU, and looks why it ended.

- The guest reset itself (reboot, panic with ``panic=``, watchdog): the next turn. What the guest gave as the reboot
  argument holds for that turn alone: ``0 tryboot`` makes it a trial.
- The guest switched itself off: so does the board.
- QEMU was killed: the power was cut. Nothing was flushed, and a trial that was asked for is forgotten.

``FOLDER/lock`` is held as long as the process lives: that, and no process number, tells whether the machine is on.
``FOLDER/state.json`` tells the rest. QEMU dies with this process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from hedgerow import atomic
from hedgerow.emulator.board import Board
from hedgerow.emulator.hardware_root import HardwareRoot
from hedgerow.emulator.vm import board_files, card, device_tree, firmware, qemu
from hedgerow.emulator.vm.protocols import Monitor, Silent
from hedgerow.emulator.vm.qemu import Machine
from hedgerow.errors import DeviceError, HedgerowError, MachineError

LOCK = "lock"
STATE = "state.json"
SPEC = "machine.json"
LOG = "supervisor.log"
_DECISION = "boot.json"

_POLL_S = 0.05
_START_TIMEOUT_S = 60
_END_TIMEOUT_S = 60
# A board that resets this often without ever living this long is stuck: it stays off, and says so.
_LOOP_RESETS, _LOOP_S = 5, 5.0

Power = Literal["starting", "on", "off"]


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine is; written once when it is made."""

    name: str
    address: str
    mac: str
    forwards: dict[int, int]
    tpm: bool
    data_disk_mb: int
    sockets: str
    inputs: str
    board: Board
    kernel: str = ""
    initramfs: str = ""

    def machine(self, folder: Path) -> Machine:
        return Machine(
            name=self.name,
            folder=folder,
            sockets=Path(self.sockets),
            address=self.address,
            mac=self.mac,
            forwards=self.forwards,
            tpm=self.tpm,
            data_disk=self.data_disk_mb > 0,
        )


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine does; ``why`` says how it went off, or what the last reset was."""

    power: Power
    why: str = ""
    config: str = ""
    boots: int = 0
    pid: int | None = None
    qemu_pid: int | None = None
    since: str = ""


def read_spec(folder: Path) -> Spec | None:
    try:
        return msgspec.json.decode((folder / SPEC).read_bytes(), type=Spec)
    except FileNotFoundError:
        return None


def last_state(folder: Path) -> State:
    """The state as last written, by whoever."""
    try:
        return msgspec.json.decode((folder / STATE).read_bytes(), type=State)
    except FileNotFoundError:
        return State(power="off", why="never switched on")


def read_state(folder: Path) -> State:
    """The state as last written; ``off`` if nobody holds the lock."""
    state = last_state(folder)
    if state.power != "off" and not is_alive(folder):
        return msgspec.structs.replace(state, power="off", why="the supervisor was killed", pid=None, qemu_pid=None)
    return state


def is_alive(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def end(folder: Path) -> None:
    """Cut the power: QEMU is killed, nothing is flushed by the guest, and the supervisor ends.

    Raises:
        MachineError: it still lives after ``_END_TIMEOUT_S``.
    """
    deadline = time.monotonic() + _END_TIMEOUT_S
    while is_alive(folder):
        state = read_state(folder)
        with contextlib.suppress(ProcessLookupError):
            if state.qemu_pid is not None:
                os.kill(state.qemu_pid, signal.SIGKILL)
            elif state.pid is not None:  # between two boots
                os.kill(state.pid, signal.SIGTERM)
        if time.monotonic() > deadline:
            raise MachineError(f"still runs {_END_TIMEOUT_S} s after it was killed", where=folder.name)
        time.sleep(_POLL_S)


class Supervisor:
    """One life of a machine, from power-on to off; ``snapshot`` resumes in the first turn instead of booting."""

    def __init__(self, folder: Path, *, snapshot: str | None = None) -> None:
        spec = read_spec(folder)
        if spec is None:
            raise MachineError("no virtual machine was made here", where=str(folder))
        self._folder = folder
        self._spec = spec
        self._machine = spec.machine(folder)
        self._hardware = HardwareRoot(folder, spec.board)
        self._snapshot = snapshot
        self._boots = 0
        self._reboot_argument = ""
        self._reason = ""
        self._qemu: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def run(self) -> None:
        """Boot until the machine is off; the last state says why."""
        quick: list[float] = []
        argument: str | None = None  # power, no reboot
        while True:
            started = time.monotonic()
            try:
                why = self._turn(argument)
            except firmware.NotBootableError as error:
                self._say(f"not bootable: {error.what}")
                if argument is None or not is_trial(argument):
                    return self._off(f"the firmware finds nothing to start: {error.what}")
                # A trial that cannot even be loaded is over (UNVERIFIED on a board: it may wait for a watchdog).
                argument = ""
                continue
            except HedgerowError as error:
                return self._off(error.what)
            if why != "guest-reset":
                return self._off(why)
            quick = [*quick, started] if time.monotonic() - started < _LOOP_S else []
            if len(quick) >= _LOOP_RESETS:
                return self._off(
                    f"it reset itself {_LOOP_RESETS} times within seconds; see {self._machine.console_log}"
                )
            argument = self._reboot_argument

    def stop(self) -> None:
        """The plug: called from a signal handler."""
        self._stopping = True
        if self._qemu is not None:
            self._qemu.kill()

    def _turn(self, argument: str | None) -> str:
        """One boot (``argument``: of the reboot; None: power came), or one resumption; returns how it ended."""
        self._boots += 1
        self._reboot_argument = self._reason = ""
        snapshot, self._snapshot = self._snapshot, None
        self._write(State(power="starting", boots=self._boots))
        with contextlib.ExitStack() as stack:
            if self._spec.tpm:
                stack.enter_context(_tpm(self._machine))
            chosen = self._decide(argument) if snapshot is None else self._last_decision()
            if self._stopping:
                return "power cut"
            self._say(f"boot {self._boots} from {chosen.config}" if snapshot is None else f"resuming {snapshot!r}")
            command = qemu.run(
                self._machine,
                kernel=Path(self._spec.kernel),
                initramfs=Path(self._spec.initramfs),
                device_tree=self._device_tree,
                cmdline=chosen.cmdline,
                snapshot=snapshot,
            )
            with (self._folder / LOG).open("ab") as log:
                # With this process the board's power supply is gone.
                self._qemu = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            try:
                self._listen(chosen.config)
            finally:
                code = self._qemu.wait()
                self._qemu = None
        if code < 0:
            return "power cut"
        if code > 0:
            raise MachineError(f"QEMU ended with code {code}; see {self._folder / LOG}", where=self._spec.name)
        self._say(f"ended: {self._reason or 'no reason told'}")
        return self._reason

    def _decide(self, argument: str | None) -> firmware.Boot:
        """Read the card as the firmware, and put the board together for this boot."""
        scratch = self._folder / "boot"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        with card.boot_partition(self._machine.disk, scratch) as read:
            chosen = firmware.boot(read, serial=self._spec.board.serial, trial=is_trial(argument or ""))
        files = board_files.archive(
            self._hardware, self._spec.name, cold=argument is None, reboot_argument=argument or ""
        )
        atomic.write_bytes(self._machine.board_files, files)
        tree = device_tree.properties(self._spec.board, self._hardware.read(), trial=chosen.config == firmware.TRYBOOT)
        device_tree.write(self._machine, self._device_tree, tree)
        atomic.write_bytes(scratch / _DECISION, msgspec.json.encode(chosen))
        return chosen

    def _last_decision(self) -> firmware.Boot:
        """For a resumption: what was loaded at boot is in the snapshot's memory, QEMU only wants arguments again."""
        return msgspec.json.decode((self._folder / "boot" / _DECISION).read_bytes(), type=firmware.Boot)

    @property
    def _device_tree(self) -> Path:
        return self._folder / "boot/board.dtb"

    def _listen(self, config: str) -> None:
        """Until QEMU ends: why, and what the guest told the firmware."""
        monitor = self._monitor()
        if monitor is None or self._qemu is None:
            return
        listener = threading.Thread(target=self._hear_firmware, args=(self._machine.socket("firmware"),), daemon=True)
        listener.start()
        with monitor:
            self._write(State(power="on", boots=self._boots, config=config, qemu_pid=self._qemu.pid))
            for event in monitor.events():
                if event["event"] == "SHUTDOWN":
                    self._reason = str(event["data"]["reason"])
        # What the guest's last act sent may still be on its way.
        listener.join(timeout=5)

    def _monitor(self) -> Monitor | None:
        """QEMU's events; None if it ended before it told any."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while self._qemu is not None and self._qemu.poll() is None:
            try:
                return Monitor(self._machine.socket("events"), timeout_s=_START_TIMEOUT_S)
            except (Silent, DeviceError):
                if time.monotonic() > deadline:
                    self._qemu.kill()
                    raise MachineError(
                        f"QEMU said nothing within {_START_TIMEOUT_S} s", where=self._spec.name
                    ) from None
                time.sleep(_POLL_S)
        return None

    def _hear_firmware(self, path: Path) -> None:
        """Lines from the guest's shutdown hook: ``reboot ARGUMENT``."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as port, contextlib.suppress(OSError):
            port.connect(str(path))
            with port.makefile("r", encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    verb, _, argument = line.strip().partition(" ")
                    if verb == "reboot":
                        self._reboot_argument = argument
                        self._say(f"the guest reboots with argument {argument!r}")

    def _off(self, why: str) -> None:
        why = {"guest-shutdown": "the guest switched itself off"}.get(why, why)
        self._say(f"off: {why}")
        self._write(State(power="off", why=why, boots=self._boots))

    def _write(self, state: State) -> None:
        state = msgspec.structs.replace(state, pid=os.getpid(), since=datetime.now(UTC).isoformat(timespec="seconds"))
        atomic.write_bytes(self._folder / STATE, msgspec.json.encode(state))

    def _say(self, text: str) -> None:
        with (self._folder / LOG).open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")


def is_trial(reboot_argument: str) -> bool:
    """Whether the argument of a reboot asks for a trial: ``0 tryboot`` (facts §2.8)."""
    return reboot_argument.split() == ["0", "tryboot"]


@contextlib.contextmanager
def _tpm(machine: Machine) -> Iterator[None]:
    """A software TPM beside the machine; its state is kept with the disk."""
    state = machine.folder / "tpm"
    state.mkdir(mode=0o700, exist_ok=True)
    path = machine.socket("tpm")
    path.unlink(missing_ok=True)
    with (machine.folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "swtpm", "socket", "--tpm2"),
                *("--tpmstate", f"dir={state}", "--server", f"type=unixio,path={path}"),
                *("--flags", "not-need-init,startup-clear"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise MachineError(f"swtpm did not start; see {machine.folder / LOG}", where=machine.name)
            time.sleep(_POLL_S)
        yield
    finally:
        process.terminate()
        process.wait()


def main(arguments: list[str]) -> None:
    """``FOLDER [SNAPSHOT]``; whoever holds the lock already is left alone."""
    folder = Path(arguments[0])
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    supervisor = Supervisor(folder, snapshot=arguments[1] if len(arguments) > 1 else None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervisor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
