"""What a Pi 5's boot firmware decides from the boot partition: which configuration, which kernel, which command line.

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
# Kernels in the order in which a Pi 5 looks for them.
KERNELS = ("kernel_2712.img", "kernel8.img")
# How a stand-in of a kernel begins (archive/kernel.py). It says which release the board would run; what runs is the
# machine's own kernel, whose page size and version it cannot change.
MAGIC = b"emulated kernel "

# Names of the filter [pi5] in the sense of a Pi 5 Model B; every other model's name is a filter that does not hold.
_MODELS = {"pi5"}
_INCLUDES = 8  # deeper nesting is a loop
# The device tree's alias of the debug UART is what the console is called on a board; QEMU's board has a PL011.
_SERIAL = {"serial0": "ttyAMA0", "ttyAMA10": "ttyAMA0"}


class NotBootableError(DeviceError):
    """The boot partition holds nothing that the firmware could start."""


@dataclass(frozen=True, slots=True)
class Boot:
    """One decision: which configuration, which kernel of the boot partition, and the kernel's command line."""

    config: str
    kernel: str
    cmdline: str


def boot(read: Reader, *, serial: str, trial: bool) -> Boot:
    """Decide what to start; ``read`` returns a file's content or None.

    A trial without ``tryboot.txt`` is none, and so is one where trials switch partitions: there is only one here.

    Raises:
        NotBootableError: no kernel, or what lies there is none.
    """
    trial = trial and read(TRYBOOT) is not None and not _switches_partitions(read)
    config = TRYBOOT if trial else CONFIG
    # Without a config.txt the firmware goes on with its defaults.
    settings = effective(config, read, serial=serial, trial=trial)
    wanted = [settings["kernel"]] if "kernel" in settings else list(KERNELS)
    prefix = settings.get("os_prefix", "")
    kernel = next((prefix + name for name in wanted if read(prefix + name) is not None), None)
    if kernel is None:
        missing = ", ".join(prefix + name for name in wanted)
        raise NotBootableError(f"no kernel: {missing} is not there", where=f"/boot/firmware/{config}")
    if not (read(kernel) or b"").startswith(MAGIC):
        raise NotBootableError(f"{kernel} is no kernel", where=f"/boot/firmware/{config}")
    name = prefix + settings.get("cmdline", "cmdline.txt")
    return Boot(config, kernel, command_line((read(name) or b"").decode(errors="replace")))


def _switches_partitions(read: Reader) -> bool:
    return effective("autoboot.txt", read, serial="", trial=False).get("tryboot_a_b") == "1"


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
            key, _, value = line.partition("=")
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
