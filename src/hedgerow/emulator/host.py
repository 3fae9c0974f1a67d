"""One emulated host: its container, its board's folder, its boot.

What exists is asked of podman, never remembered here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hedgerow.emulator import values as live
from hedgerow.emulator.board import BOOTLOADER, REVISIONS, Board
from hedgerow.emulator.hardware_root import HardwareRoot
from hedgerow.emulator.podman import Podman
from hedgerow.errors import DeviceError, MachineError, UsageError
from hedgerow.inventory import Host

BOOT_TIMEOUT_S = 120  # a boot takes 1-3 s; a busy machine with many hosts may need much longer
POWER_OFF_TIMEOUT_S = 15
POLL_S = 0.1
# Raised whenever the way containers are made changes.
_CONTAINER_VERSION = 5

_SECCOMP = Path(__file__).parent / "guest" / "seccomp.json"

FLEET_LABEL = "hedgerow.fleet"
HOST_LABEL = "hedgerow.host"
_INPUTS_LABEL = "hedgerow.inputs"


class UnitsFailedError(DeviceError):
    """The host is up and answers, and systemd counts failed units."""


class EmulatedHost:
    """``host`` of the inventory as a container of ``fleet``; ``folder`` holds its state on the controller."""

    def __init__(self, podman: Podman, fleet: str, host: Host, folder: Path) -> None:
        self._podman = podman
        self._fleet = fleet
        self.host = host
        self.name = f"hedgerow-{fleet}-{host.name}"
        self.board = HardwareRoot(folder, board_of(host))

    @property
    def host_key(self) -> Path:
        """The guest's ed25519 host key, as it told it on its console: what bootstrap pins."""
        return self.board.folder / "ssh_host_ed25519_key.pub"

    def digest(self, image: str, network: str) -> str:
        """Hash of everything the container is made from."""
        inputs = {
            "version": _CONTAINER_VERSION,
            "image": image,
            "address": self.host.address,
            "network": network,
            "site": self.host.site,
            "board": asdict(self.board.board),
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]

    def entry(self) -> Mapping[str, Any] | None:
        """What podman says of the container now, None if there is none."""
        found = self._podman.json("ps", "--all", f"--filter=name=^{self.name}$", "--format=json")
        return found[0] if found else None

    def create(self, image: str, network: str, digest: str, authorized_key: str) -> None:
        self.board.create(live.defaults(self.host.hat, self.host.cooling), authorized_key)
        self._podman.remove_half_made(self.name)
        self._podman.run(
            "create",
            f"--name={self.name}",
            f"--hostname={self.host.name}",
            f"--network={network}",
            f"--ip={self.host.address}",
            f"--mac-address={mac_address(self.host.serial)}",
            f"--network-alias={self.host.name}",
            # The name in its certificate (docs/contracts.md, certificate profiles).
            f"--network-alias={self.host.name}.{self.host.site}.{self._fleet}",
            f"--label={FLEET_LABEL}={self._fleet}",
            f"--label={HOST_LABEL}={self.host.name}",
            f"--label={_INPUTS_LABEL}={digest}",
            f"--volume={self.board.path}:/hardware",
            # podman lays a tmpfs over it for systemd's sake, and a journal that outlives a boot could not be shown.
            f"--volume={self._journal()}:/var/log/journal",
            "--privileged",
            # The clock is this machine's: no guest may set it. (--privileged makes podman ignore --cap-drop.)
            f"--security-opt=seccomp={_SECCOMP}",
            "--systemd=always",
            # `systemctl reboot` in the guest ends the container with a non-zero code; a power cut is podman's own
            # doing and stays off. (`poweroff` cannot be told from a reboot here: the host comes back.)
            "--restart=on-failure",
            image,
        )

    def _journal(self) -> Path:
        """Where the host's saved journal lies, across its boots; empty for a new host."""
        folder = self.board.folder / "journal"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def remove(self) -> None:
        self._podman.run("rm", "--force", "--time=0", self.name)

    def power_on(self) -> None:
        """Start the container; bits that count "since boot" begin anew."""
        self.board.write(live.after_power_on(self.board.read()))
        self.board.mark_cold_boot()
        # Another board may have answered at this address before; without this SSH would wait a minute for it.
        subprocess.run(["ip", "neighbour", "flush", "to", self.host.address], check=True)
        self._podman.run("start", self.name)

    def power_off(self) -> None:
        """Cut the power: nothing is flushed by the guest, the disk is kept."""
        self._podman.run("kill", "--signal=KILL", self.name)
        # Not `podman wait`: it sits out 20 s on machines whose PID 1 reaps late.
        deadline = time.monotonic() + POWER_OFF_TIMEOUT_S
        while is_running(self.entry()):
            if time.monotonic() > deadline:
                raise MachineError(f"still runs {POWER_OFF_TIMEOUT_S} s after it was killed", where=self.host.name)
            time.sleep(POLL_S)

    def await_boot(self) -> None:
        """Wait for sshd and for systemd's own verdict on the boot; DeviceError names units that failed."""
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        state = "starting"
        while time.monotonic() < deadline:
            if self.ssh_answers():
                state = self.systemd_state(wait=True)
                if state == "running":
                    self._keep_host_key()
                    return
                if state == "degraded":
                    self._keep_host_key()
                    raise UnitsFailedError(
                        f"booted, but these units failed: {self._failed_units()}",
                        where=self.host.name,
                        next_step=f"hedgerow emulate exec {self.host.name} -- systemctl --failed",
                    )
            if not is_running(self.entry()):
                raise DeviceError(
                    "switched itself off while it booted",
                    where=self.host.name,
                    next_step=f"hedgerow emulate power {self.host.name} on",
                )
            time.sleep(POLL_S)
        raise DeviceError(
            f"did not boot within {BOOT_TIMEOUT_S} s; systemd says {state}",
            where=self.host.name,
            next_step=f"hedgerow emulate exec {self.host.name} -- journalctl --boot",
        )

    def systemd_state(self, *, wait: bool) -> str:
        """``systemctl is-system-running``; with ``wait`` once the boot is over."""
        command = ["systemctl", "is-system-running", *(["--wait"] if wait else [])]
        return self._podman.run("exec", self.name, *command, check=False).stdout.strip() or "starting"

    def sync_devices(self) -> None:
        """Make the guest's device nodes follow its board."""
        self._podman.run("exec", self.name, "/usr/lib/emulated-pi/sync-devices")

    def ssh_answers(self) -> bool:
        """True if an SSH server says its version at the host's address."""
        return ssh_answers(self.host)

    def _keep_host_key(self) -> None:
        told = self.board.path / "console/ssh_host_ed25519_key.pub"
        self.host_key.write_bytes(told.read_bytes())

    def _failed_units(self) -> str:
        """Names of failed units, comma-separated."""
        listing = self._podman.run(
            "exec", self.name, "systemctl", "list-units", "--failed", "--plain", "--no-legend"
        ).stdout
        return ", ".join(line.split()[0] for line in listing.splitlines() if line.strip())


def ssh_answers(host: Host) -> bool:
    """True if an SSH server says its version at the host's address; an open port alone may be the emulator's."""
    try:
        with socket.create_connection((host.address, host.port), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def mac_address(serial: str) -> str:
    """A board keeps its MAC address over power cuts: so does its container.

    With podman's own random one, neighbours went on sending to the former address for up to a minute after a reboot.
    Locally administered (bit 1 of the first octet), so it is nobody's.
    """
    return ":".join(["02", *(f"{octet:02x}" for octet in hashlib.sha256(serial.encode()).digest()[:5])])


def is_running(entry: Mapping[str, Any] | None) -> bool:
    return entry is not None and entry["State"] == "running"


def inputs_of(entry: Mapping[str, Any]) -> str | None:
    """The digest that a container was made from."""
    digest: str | None = entry["Labels"].get(_INPUTS_LABEL)
    return digest


def board_of(host: Host) -> Board:
    """The board that the inventory describes."""
    memory = host.vars.get("board_memory_mb", 8192)
    if memory not in REVISIONS:
        raise UsageError(
            f"no Raspberry Pi 5 has {memory!r} MB",
            where=f"{host.name}, board_memory_mb",
            next_step=f"one of: {', '.join(map(str, REVISIONS))}",
        )
    return Board(
        serial=host.serial,
        hat=host.hat,
        cooling=host.cooling,
        memory_mb=memory,
        bootloader=str(host.vars.get("board_bootloader", BOOTLOADER)),
        min_boot_ver=host.vars.get("board_min_boot_ver"),
    )
