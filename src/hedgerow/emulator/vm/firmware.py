"""What a Pi 5's boot firmware decides from the boot partition: kernel, initramfs, command line.

Pure: ``boot`` gets a reader of the partition's files. Only what a virtual machine can follow is followed; overlays and
``dtparam`` change hardware that is not there. Rules: facts §2.1, §2.2, §2.4 and §2.8.

- A trial boot (``0 tryboot``) reads ``tryboot.txt`` instead of ``config.txt``, once.
- Conditional filters of one type replace each other, those of different types must all hold, ``[all]`` ends them.
- Firmware prepends its own tokens to the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hedgerow.emulator.board import FIRMWARE_CMDLINE
from hedgerow.errors import DeviceError

Reader = Callable[[str], bytes | None]

CONFIG = "config.txt"
TRYBOOT = "tryboot.txt"
# Kernels in the order in which a Pi 5 looks for them, each with the initramfs that auto_initramfs=1 takes.
KERNELS = {"kernel_2712.img": "initramfs_2712", "kernel8.img": "initramfs8"}

# Names of the filter [pi5] in the sense of a Pi 5 Model B; every other model's name is a filter that does not hold.
_MODELS = {"pi5"}
_INCLUDES = 8  # deeper nesting is a loop
# The device tree's alias of the debug UART is what the console is called on a board; QEMU's board has a PL011.
_SERIAL = {"serial0": "ttyAMA0", "ttyAMA10": "ttyAMA0"}


class NotBootableError(DeviceError):
    """The boot partition holds nothing that the firmware could start."""


@dataclass(frozen=True, slots=True)
class Boot:
    """One decision: names of files on the boot partition, and the kernel's command line."""

    config: str
    kernel: str
    initramfs: str | None
    cmdline: str


def boot(read: Reader, *, serial: str, trial: bool) -> Boot:
    """Decide what to start; ``read`` returns a file's content or None.

    Raises:
        NotBootableError: no configuration, or no kernel.
    """
    config = TRYBOOT if trial else CONFIG
    if read(config) is None and trial:
        raise NotBootableError("the trial has no tryboot.txt", where="/boot/firmware")
    settings = effective(config, read, serial=serial, trial=trial)
    # Without a config.txt the firmware goes on with its defaults.
    wanted = [settings["kernel"]] if "kernel" in settings else list(KERNELS)
    prefix = settings.get("os_prefix", "")
    kernel = next((name for name in wanted if read(prefix + name) is not None), None)
    if kernel is None:
        raise NotBootableError(
            f"no kernel: {', '.join(prefix + name for name in wanted)} is not there", where=f"/boot/firmware/{config}"
        )
    initramfs = settings.get("initramfs", settings.get("ramfsfile", "")).split(" ")[0] or None
    if initramfs is None and settings.get("auto_initramfs") == "1":
        initramfs = KERNELS.get(kernel)
    if initramfs is not None and read(prefix + initramfs) is None:
        initramfs = None
    name = prefix + settings.get("cmdline", "cmdline.txt")
    return Boot(
        config,
        prefix + kernel,
        None if initramfs is None else prefix + initramfs,
        command_line((read(name) or b"").decode(errors="replace")),
    )


def effective(config: str, read: Reader, *, serial: str, trial: bool) -> dict[str, str]:
    """Settings of ``config`` that hold on this board; later lines win."""
    settings: dict[str, str] = {}
    held: dict[str, bool] = {}
    for line in _lines(config, read, depth=0):
        if line.startswith("[") and line.endswith("]"):
            name = line[1:-1].strip()
            if name.lower() == "all":
                held.clear()
            else:
                kind, holds = _filter(name, serial=serial, trial=trial)
                held[kind] = holds
        elif all(held.values()):
            key, equals, value = line.partition("=")
            if not equals:
                # `initramfs NAME followkernel` is the one setting without an equals sign.
                key, _, value = line.partition(" ")
            settings[key.strip()] = value.strip()
    return settings


def command_line(text: str) -> str:
    """What the kernel gets: the firmware's tokens, then the first line of ``cmdline.txt``.

    ``cgroup_enable=memory`` is Raspberry Pi's own patch and takes back ``cgroup_disable=memory``; Debian's kernel knows
    only the second, so the two cancel out here. Everything else is passed on as written: a kernel ignores what it does
    not know.
    """
    tokens = [*FIRMWARE_CMDLINE.split(), *next(iter(text.splitlines()), "").split()]
    if "cgroup_enable=memory" in tokens:
        tokens = [word for word in tokens if word != "cgroup_disable=memory"]
    return " ".join(_console(word) for word in tokens)


def _console(word: str) -> str:
    key, _, value = word.partition("=")
    device, comma, speed = value.partition(",")
    return f"{key}={_SERIAL[device]}{comma}{speed}" if key == "console" and device in _SERIAL else word


def _lines(name: str, read: Reader, *, depth: int) -> Iterator[str]:
    """Lines that say something, of the file and of what it includes."""
    for raw in (read(name) or b"").decode(errors="replace").splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        included = re.fullmatch(r"include\s+(\S+)", line)
        if included is None:
            yield line
        elif depth < _INCLUDES:
            yield from _lines(included[1], read, depth=depth + 1)


def _filter(name: str, *, serial: str, trial: bool) -> tuple[str, bool]:
    """Type of a conditional filter and whether it holds."""
    lowered = name.lower()
    kind, equals, value = lowered.partition("=")
    if equals:
        # board-type and boot_partition are this board's; gpioN, edid and the like ask for what is not there.
        return kind, (kind, value) in {("board-type", "0x17"), ("boot_partition", "1")}
    if re.fullmatch(r"0x[0-9a-f]+", lowered):
        return "serial", serial.lower().endswith(lowered[2:].rjust(8, "0"))
    return {"none": ("none", False), "tryboot": ("tryboot", trial)}.get(lowered, ("model", lowered in _MODELS))
