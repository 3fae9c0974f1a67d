"""One virtual machine: its folder on the controller, its power, its boot.

What exists is a file, what runs holds a lock (``supervisor``); nothing is remembered here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from hedgerow import atomic
from hedgerow.emulator import values as live
from hedgerow.emulator.hardware_root import HardwareRoot
from hedgerow.emulator.host import UnitsFailedError, board_of, mac_address, ssh_answers
from hedgerow.emulator.vm import board_files, supervisor
from hedgerow.emulator.vm.image import Card
from hedgerow.emulator.vm.protocols import Agent, Monitor, Silent
from hedgerow.emulator.vm.qemu import BOARD_VERSION, CPUS, MEMORY_MB
from hedgerow.emulator.vm.supervisor import Spec, State
from hedgerow.errors import DeviceError, MachineError, UsageError
from hedgerow.inventory import Host

BOOT_TIMEOUT_S = 400  # half a minute when nothing else runs; software emulation shares the cores with everything
SNAPSHOT_TIMEOUT_S = 120
SUPERVISOR_TIMEOUT_S = 30  # from its start to its lock: a Python's imports
POLL_S = 0.2
BOOTED = "booted"

# What is reached from outside on every device (docs/contracts.md, ports), and on gateways.
_PORTS = (8443, 8444, 9100, 9101)
_GATEWAY_PORTS = (443, 9100)
_SSH = 22


class VirtualHost:
    """``host`` of the inventory as a virtual machine; ``folder`` holds its disks, its state and its board."""

    def __init__(self, fleet: str, host: Host, folder: Path) -> None:
        self._fleet = fleet
        self.host = host
        self.folder = folder
        self.board = HardwareRoot(folder, board_of(host))
        # Paths of Unix sockets have 107 characters at most; a checkout may be deeper.
        self._sockets = Path("/run/hedgerow-vm") / hashlib.sha256(str(folder).encode()).hexdigest()[:12]

    @property
    def host_key(self) -> Path:
        """The guest's ed25519 host key, as its agent told it: what bootstrap pins."""
        return self.folder / "ssh_host_ed25519_key.pub"

    @property
    def agent(self) -> Agent:
        return Agent(self._sockets / "agent")

    @property
    def tpm(self) -> bool:
        return bool(self.host.vars.get("virtual_machine_tpm", False))

    @property
    def data_disk_mb(self) -> int:
        size = self.host.vars.get("virtual_machine_data_disk_mb", 0)
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise UsageError(
                f"{size!r} is no size of a disk",
                where=f"{self.host.name}, virtual_machine_data_disk_mb",
                next_step="a whole number of MB, or 0 for no second disk",
            )
        return size

    def forwards(self) -> dict[int, int]:
        """Ports on the machine's loopback address → ports of the guest."""
        ports = _GATEWAY_PORTS if self.host.is_gateway else _PORTS
        return {self.host.port: _SSH} | {port: port for port in ports}

    def digest(self, card: str) -> str:
        """Hash of everything the machine is made from."""
        inputs = {
            "version": BOARD_VERSION,
            "size": [CPUS, MEMORY_MB],
            "card": card,
            "address": self.host.address,
            "forwards": sorted(self.forwards().items()),
            "tpm": self.tpm,
            "data_disk_mb": self.data_disk_mb,
            "board": asdict(self.board.board),
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]

    def spec(self) -> Spec | None:
        return supervisor.read_spec(self.folder)

    def state(self) -> State:
        return supervisor.read_state(self.folder)

    def create(self, card: Card, digest: str, authorized_key: str) -> None:
        """A new board with a freshly written card; the description comes last and makes it count."""
        self.board.create(live.defaults(self.host.hat, self.host.cooling), authorized_key)
        _qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(card.disk), str(self.folder / "disk.qcow2"))
        if self.data_disk_mb:
            _qemu_img("create", "-q", "-f", "qcow2", str(self.folder / "data.qcow2"), f"{self.data_disk_mb}M")
        spec = Spec(
            name=self.host.name,
            address=self.host.address,
            mac=mac_address(self.host.serial),
            forwards=self.forwards(),
            tpm=self.tpm,
            data_disk_mb=self.data_disk_mb,
            sockets=str(self._sockets),
            kernel=str(card.kernel),
            initramfs=str(card.initramfs),
            inputs=digest,
            board=self.board.board,
        )
        atomic.write_bytes(self.folder / supervisor.SPEC, msgspec.json.encode(spec))

    def remove(self) -> None:
        """Cut the power and forget everything."""
        self.power_off()
        shutil.rmtree(self._sockets, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def power_on(self, *, snapshot: str | None = None) -> None:
        """Start the supervisor; returns once the machine runs. Bits that count "since boot" begin anew.

        Raises:
            MachineError: a port is taken.
            DeviceError: it went off at once; the message says why.
        """
        spec = self.spec()
        if spec is None:
            raise MachineError("no virtual machine was made here", where=str(self.folder))
        if not Path(spec.kernel).is_file():
            raise MachineError(
                "the card that this machine was made from is gone",
                where=str(Path(spec.kernel).parent),
                next_step=f"hedgerow emulate up --recreate --limit {self.host.name} makes the machine anew",
            )
        _require_ports(spec)
        if snapshot is None:
            self.board.write(live.after_power_on(self.board.read()))
        self._sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic.write_bytes(self.folder / supervisor.STATE, msgspec.json.encode(State(power="starting")))
        command = [sys.executable, "-m", "hedgerow.emulator.vm.supervisor", str(self.folder)]
        with (self.folder / supervisor.LOG).open("ab") as log:
            # Nobody's child: it outlives this process, whose end nobody waits for.
            subprocess.run(
                ["setsid", "--fork", *command, *([snapshot] if snapshot else [])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                check=True,
            )
        self._await_power()

    def _await_power(self) -> None:
        """Until QEMU runs, the supervisor gave up, or there is none."""
        started = time.monotonic()
        while (waited := time.monotonic() - started) < SNAPSHOT_TIMEOUT_S:
            alive = supervisor.is_alive(self.folder)
            state = supervisor.last_state(self.folder)
            if state.power == "on" and alive:
                return
            if state.power == "off":
                raise DeviceError(
                    f"went off at once: {state.why}",
                    where=self.host.name,
                    next_step=f"see {self.folder / supervisor.LOG} and {self.folder / 'console.log'}",
                )
            if not alive and waited > SUPERVISOR_TIMEOUT_S:
                break
            time.sleep(POLL_S)
        raise MachineError(f"QEMU did not start within {waited:.0f} s", where=str(self.folder / supervisor.LOG))

    def power_off(self) -> None:
        """Cut the power: nothing is flushed by the guest, the disk is kept."""
        supervisor.end(self.folder)

    def await_boot(self) -> None:
        """Wait for sshd and for systemd's own verdict on the boot; DeviceError names units that failed."""
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        said = "starting"
        while time.monotonic() < deadline:
            if (state := self.state()).power == "off":
                raise DeviceError(
                    f"switched off while it booted: {state.why}",
                    where=self.host.name,
                    next_step=f"see {self.folder / 'console.log'}, then: hedgerow emulate power {self.host.name} on",
                )
            self._require_space()
            if self.ssh_answers() and (said := self.systemd_state()) in {"running", "degraded"}:
                self._keep_host_key()
                if said == "degraded":
                    raise UnitsFailedError(
                        f"booted, but these units failed: {self._failed_units()}",
                        where=self.host.name,
                        next_step=f"hedgerow emulate exec {self.host.name} -- systemctl --failed",
                    )
                return
            time.sleep(POLL_S)
        raise DeviceError(
            f"did not boot within {BOOT_TIMEOUT_S} s; systemd says {said}",
            where=self.host.name,
            next_step=f"see {self.folder / 'console.log'}",
        )

    def systemd_state(self) -> str:
        """``systemctl is-system-running``; ``starting`` while nobody answers in there."""
        try:
            return self.agent.run(["systemctl", "is-system-running"], timeout_s=30).stdout.strip() or "starting"
        except DeviceError:
            return "starting"

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 3600
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as root in the guest."""
        return self.agent.run(argv, stdin=stdin, timeout_s=timeout_s)

    def load_board(self) -> None:
        """Show the running guest its board's files of now; the device tree stays until the next boot."""
        files = board_files.archive(self.board, self.host.name, cold=False)
        take = "/usr/lib/emulated-pi/load-board --live && /usr/lib/emulated-pi/sync-devices"
        done = self.run(["sh", "-c", take], stdin=files, timeout_s=60)
        if done.returncode != 0:
            raise DeviceError(f"the guest did not take its board's files: {done.stderr.strip()}", where=self.host.name)

    def snapshots(self) -> list[str]:
        """Names of what can be restored."""
        disk = str(self.folder / "disk.qcow2")
        listing = json.loads(_qemu_img("info", "--force-share", "--output=json", disk))
        return [entry["name"] for entry in listing.get("snapshots", [])]

    def snapshot(self, name: str) -> None:
        """Keep memory, devices and disks as they are now; seconds, during which the guest stands still."""
        with Monitor(self._sockets / "monitor") as monitor:
            said = monitor.human(f"savevm {name}", timeout_s=SNAPSHOT_TIMEOUT_S)
        if said:
            raise MachineError(f"QEMU made no snapshot: {said}", where=self.host.name, next_step="is the disk full?")

    def restore(self, name: str) -> None:
        """Back to what ``snapshot`` kept; the guest then gets the time of now."""
        if name not in (known := self.snapshots()):
            raise UsageError(
                f"there is no snapshot {name!r}",
                where=self.host.name,
                next_step=f"one of: {', '.join(known)}"
                if known
                else f"hedgerow emulate snapshot {self.host.name} NAME",
            )
        self.power_off()
        self.power_on(snapshot=name)
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while True:
            try:
                self.agent.set_clock()
            except Silent:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)
            else:
                break
        self.await_boot()

    def ssh_answers(self) -> bool:
        """True if an SSH server says its version; the port itself is open as long as QEMU runs."""
        return ssh_answers(self.host)

    def is_out_of_space(self) -> bool:
        """Whether QEMU stopped the guest because its disk image cannot grow."""
        try:
            with Monitor(self._sockets / "monitor") as monitor:
                return str(monitor.execute("query-status")["status"]) == "io-error"
        except DeviceError:
            return False

    def _require_space(self) -> None:
        if self.is_out_of_space():
            raise MachineError(
                "QEMU stopped the guest because its disk image cannot grow",
                where=str(self.folder),
                next_step=f"make room on this disk, then: hedgerow emulate power {self.host.name} cycle",
            )

    def _keep_host_key(self) -> None:
        done = self.run(["cat", "/etc/ssh/ssh_host_ed25519_key.pub"], timeout_s=30)
        if done.returncode != 0:
            raise DeviceError(f"the guest has no host key: {done.stderr.strip()}", where=self.host.name)
        atomic.write_text(self.host_key, done.stdout)

    def _failed_units(self) -> str:
        listing = self.run(["systemctl", "list-units", "--failed", "--plain", "--no-legend"], timeout_s=30).stdout
        return ", ".join(line.split()[0] for line in listing.splitlines() if line.strip())


def _require_ports(spec: Spec) -> None:
    for port in spec.forwards:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as QEMU does
            try:
                probe.bind((spec.address, port))
                probe.listen(1)
            except OSError as error:
                raise MachineError(
                    f"port {port} of {spec.address} cannot be had: {error.strerror}",
                    where=f"{spec.name}, ansible_host" + (", ansible_port" if spec.forwards[port] == _SSH else ""),
                    next_step="end what listens there, or choose another loopback address (or ansible_port)",
                ) from error


def _qemu_img(*arguments: str) -> str:
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(f"qemu-img failed: {done.stderr.strip()}", where=arguments[-1])
    return done.stdout
