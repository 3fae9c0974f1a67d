"""The virtual board as QEMU's command line. Pure.

One list of arguments makes the board; it is used twice, first to have QEMU write down the device tree of exactly this
board, then to run it. What the firmware decided is added to the second.

Every argument below is part of a snapshot's format: a machine resumed with others is refused by QEMU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "qemu-system-aarch64"
# Raised whenever the board changes, for machines made before are then told to be outdated.
BOARD_VERSION = 1

MEMORY_MB = 2048
CPUS = 2
# cortex-a76 is the Pi 5's core. QEMU 7.2 knows no Raspberry Pi 4 or 5; `virt` with a device tree of ours stands in.
_BOARD = "virt,gic-version=3"
_CPU = "cortex-a76"
# Two threads of translated code, as many as a build machine has cores; 256 MiB of translations.
_ACCELERATOR = "tcg,thread=multi,tb-size=256"

# Port that the guest's boot firmware listens on (see supervisor.py), and the guest agent's own.
FIRMWARE_PORT = "org.hedgerow.firmware"
AGENT_PORT = "org.qemu.guest_agent.0"
TPM_PORT = "org.hedgerow.tpm"

DISK_NODE = "disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What of a virtual machine's board differs between hosts. ``forwards``: port outside → port in the guest."""

    name: str
    folder: Path
    sockets: Path
    address: str
    mac: str
    forwards: Mapping[int, int]
    tpm: bool = False
    data_disk: bool = False

    @property
    def disk(self) -> Path:
        """The card: boot partition and root file system."""
        return self.folder / "disk.qcow2"

    @property
    def data(self) -> Path:
        return self.folder / "data.qcow2"

    @property
    def board_files(self) -> Path:
        """What the guest files of ``guest/vm`` need to stand for the board; a tar on a read-only disk."""
        return self.folder / "board.tar"

    @property
    def console_log(self) -> Path:
        return self.folder / "console.log"

    def socket(self, name: str) -> Path:
        """``monitor``, ``events``, ``agent``, ``firmware`` or ``tpm``."""
        return self.sockets / name


def board(machine: Machine, *, machine_options: str = "") -> list[str]:
    """Arguments that make the board."""
    forwards = "".join(
        f",hostfwd=tcp:{machine.address}:{outside}-:{inside}" for outside, inside in machine.forwards.items()
    )
    arguments = [
        PROGRAM,
        "-nodefaults",
        "-no-user-config",
        *("-name", machine.name),
        *("-M", _BOARD + machine_options),
        *("-cpu", _CPU),
        *("-accel", _ACCELERATOR),
        *("-smp", str(CPUS)),
        *("-m", str(MEMORY_MB)),
        *("-display", "none"),
        *("-object", "rng-random,id=rng0,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=rng0"),
        # Stands for the Pi's watchdog: who opens /dev/watchdog and then stops feeding it is reset.
        *("-device", "i6300esb"),
        *("-action", "watchdog=reset"),
        *_disk("disk", machine.disk, "format=qcow2,discard=unmap"),
        *_disk("board", machine.board_files, "format=raw,readonly=on"),
    ]
    if machine.data_disk:
        arguments += _disk("data", machine.data, "format=qcow2,discard=unmap")
    arguments += [
        *("-netdev", f"user,id=net0{forwards}"),
        # No boot ROM: the firmware is ours.
        *("-device", f"virtio-net-pci,netdev=net0,mac={machine.mac},romfile="),
        *("-chardev", f"file,id=console,path={machine.console_log},append=on"),
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial-pci"),
        *_port("agent", machine.socket("agent"), AGENT_PORT),
        *_port("firmware", machine.socket("firmware"), FIRMWARE_PORT),
    ]
    return arguments


def dump_device_tree(machine: Machine, target: Path) -> list[str]:
    """Have QEMU write the device tree of the board and end."""
    return board(machine, machine_options=f",dumpdtb={target}")


def run(
    machine: Machine, *, kernel: Path, initramfs: Path, device_tree: Path, cmdline: str, snapshot: str | None
) -> list[str]:
    """Run the board with what the firmware chose; ``snapshot`` resumes instead of booting.

    A reset ends QEMU instead of restarting the same kernel: between two boots the firmware reads the card again.
    """
    arguments = [
        *board(machine),
        "-no-reboot",
        *("-monitor", "none"),
        *("-qmp", f"unix:{machine.socket('events')},server=on,wait=off"),
        *("-qmp", f"unix:{machine.socket('monitor')},server=on,wait=off"),
        *("-kernel", str(kernel)),
        *("-initrd", str(initramfs)),
        *("-dtb", str(device_tree)),
        *("-append", cmdline),
    ]
    if machine.tpm:
        # Not QEMU's own TPM device: Debian's arm64 kernel has no driver for it. guest/vm/usr/lib/emulated-pi/tpm.
        arguments += _port("tpm", machine.socket("tpm"), TPM_PORT, server=False)
    if snapshot is not None:
        arguments += ["-loadvm", snapshot]
    return arguments


def _disk(name: str, path: Path, options: str) -> list[str]:
    return [
        *("-drive", f"if=none,id={name},file={_comma(path)},{options}"),
        *("-device", f"virtio-blk-pci,drive={name},serial={name}"),
    ]


def _port(name: str, path: Path, port: str, *, server: bool = True) -> list[str]:
    listens = ",server=on,wait=off" if server else ""
    return [
        *("-chardev", f"socket,id={name},path={path}{listens}"),
        *("-device", f"virtserialport,chardev={name},name={port}"),
    ]


def _comma(path: Path) -> str:
    """QEMU's option lists write a comma twice."""
    return str(path).replace(",", ",,")
