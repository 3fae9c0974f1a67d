"""Boot a changed boot configuration once; keep it if the device is well, else come back to the old one.

Runs on the device, as a unit and through ``hedgerow.remote_script``: standard library only, one file. The controller
may be dead from the moment ``arm`` returned.

How it holds (docs/decisions/0014):

- ``tryboot.txt`` and ``tryboot-cmdline.txt`` stand beside the untouched ``config.txt`` and ``cmdline.txt``. Firmware
  reads them in one boot only, the one after a reboot with the argument ``0 tryboot``; the flag is its own, one-shot,
  and does not survive a power cut.
- Whatever ends that boot before ``commit`` (a failed check, a panic, the watchdog, a pulled plug) ends the trial:
  the next boot reads the old files.
- The switch is one rename. ``commit`` first makes ``config.txt`` the very text that was booted, which names
  ``tryboot-cmdline.txt`` as the command line; then ``cmdline.txt`` is replaced, which nothing reads by now; then
  ``config.txt`` goes back to naming none. Before and after each step both files that firmware reads belong together.
- A commit that was cut off is finished by the next boot: the phase is written before the first step.
- The note of it all lies on the root file system, in ``/etc``: it must be there when nothing else is mounted.

FAT has no journal: every file is written beside its target, synced, renamed, synced under its new name, and the folder
synced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BOOT = "boot/firmware"
STATE = "etc/hedgerow/boot-trial"
UNIT = "hedgerow-boot-trial.service"
TRYBOOT = "tryboot.txt"
TRYBOOT_CMDLINE = "tryboot-cmdline.txt"
# The first line of a tryboot.txt of ours: one without it belongs to another updater and is left alone.
MARK = "# hedgerow trial"

STAGED, ARMED, TRYING, COMMITTING, FAILED = "staged", "armed", "trying", "committing", "failed"
COMMITTED, FELL_BACK = "committed", "fell_back"

POLL_S = 2.0
COMMAND_TIMEOUT_S = 20.0
REBOOT_PATIENCE_S = 120.0
# Room for both files twice over, and for what else the partition's user writes meanwhile.
FREE_MARGIN = 1 << 20


class TrialError(Exception):
    """What a person must read; ``hedgerow.remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


@dataclass(slots=True)
class Trial:
    """The note of one trial: ``config`` and ``cmdline`` are what it is about, the ``tryboot`` texts what it boots."""

    id: str
    config: str
    cmdline: str
    tryboot: str
    tryboot_cmdline: str
    phase: str = STAGED
    boot_id: str | None = None
    reason: str | None = None
    within_s: float = 300
    stable_s: float = 20
    units: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    failed_before: list[str] = field(default_factory=list)


class Disk:
    """Everything that is written goes through here; a test cuts the power between any two calls."""

    def write_new(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)
        # FAT writes a name's entry, with the file's start and size, with the file and not with its folder: until then
        # the disk has the old start under the new name, and its clusters are free.
        self._sync(new)
        self._sync(new.parent)

    def remove(self, path: Path) -> None:
        if path.exists():
            path.unlink()
            self._sync(path.parent)

    def _sync(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Device:
    """The files of one device below ``root``, and what its firmware says of this boot."""

    def __init__(self, root: str = "/", disk: Disk | None = None) -> None:
        self.root = Path(root)
        self.disk = disk or Disk()
        self.boot = self.root / BOOT
        self._state = self.root / STATE

    # -- files ------------------------------------------------------------

    def put(self, path: Path, text: str) -> None:
        """Replace ``path`` by ``text``: whole or not at all. Nothing is done where it already says so."""
        data = text.encode()
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == data:
                return
        new = path.with_name(f".{path.name}.new")
        self.disk.write_new(new, data)
        self.disk.rename(new, path)

    def text(self, name: str) -> str | None:
        """A file of the boot partition; None: there is none."""
        try:
            return (self.boot / name).read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return None

    def trial(self) -> Trial | None:
        note = self._read("trial.json")
        return None if note is None else Trial(**note)

    def result(self) -> dict[str, Any] | None:
        result: dict[str, Any] | None = self._read("result.json")
        return result

    def save(self, trial: Trial) -> None:
        self.put(self._state / "trial.json", json.dumps(dataclasses.asdict(trial), indent=1) + "\n")

    def finish(self, trial: Trial, outcome: str, reason: str) -> None:
        """Write down how it ended, then remove what the trial placed; the note goes last."""
        result = {
            "id": trial.id,
            "outcome": outcome,
            "reason": reason,
            "time": time.time(),
            # Whoever asks later whether the files changed since this boot read them finds here that they are its own.
            "boot_id": self.boot_id,
            "sha256": {
                "config.txt": hashlib.sha256(trial.config.encode()).hexdigest(),
                "cmdline.txt": hashlib.sha256(trial.cmdline.encode()).hexdigest(),
            },
        }
        self.put(self._state / "result.json", json.dumps(result) + "\n")
        self.sweep()
        self.disk.remove(self._state / "trial.json")

    def sweep(self) -> None:
        """Remove our files from the boot partition, half-written ones too; another updater's stay."""
        if (self.text(TRYBOOT) or "").startswith(MARK):
            self.disk.remove(self.boot / TRYBOOT)
        self.disk.remove(self.boot / TRYBOOT_CMDLINE)
        for name in (TRYBOOT, TRYBOOT_CMDLINE, "config.txt", "cmdline.txt"):
            self.disk.remove(self.boot / f".{name}.new")

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self._state / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    # -- firmware and kernel -----------------------------------------------

    @property
    def _hardware(self) -> Path:
        """Where the board is read (``hedgerow.device.hardware`` explains the file)."""
        with contextlib.suppress(OSError):
            line = (self.root / "etc/hedgerow/hardware-root").read_text(encoding="utf-8").strip()
            return Path(line.splitlines()[0]) if line else self.root
        return self.root

    @property
    def tryboot(self) -> bool | None:
        """Whether firmware started this boot with the one-shot flag; None: it does not tell."""
        try:
            data = (self._hardware / "proc/device-tree/chosen/bootloader/tryboot").read_bytes()
        except OSError:
            return None
        return bool(struct.unpack(">I", data)[0]) if len(data) == 4 else None  # noqa: PLR2004 - a cell

    @property
    def boot_id(self) -> str:
        return (self._hardware / "proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    @property
    def cmdline(self) -> list[str]:
        return (self._hardware / "proc/cmdline").read_text(encoding="utf-8", errors="replace").split()


# -- the controller's part ---------------------------------------------------


def stage(root: str = "/", **wanted: Any) -> dict[str, Any]:
    """Place a trial beside what boots now; nothing is read by firmware yet. ``wanted``: the fields of ``Trial``.

    Raises:
        TrialError: a trial is under way, the layout allows none, or the boot partition is full.
    """
    device, trial = Device(root), Trial(**wanted)
    if (device.text("config.txt"), device.text("cmdline.txt")) == (trial.config, trial.cmdline):
        return {"changed": False, "msg": "config.txt and cmdline.txt are as wanted: nothing to try"}
    now = device.trial()
    if now is not None and now.phase != STAGED:
        raise TrialError(
            f"the trial {now.id} is not over yet: {now.phase}",
            where=f"/{STATE}/trial.json",
            next_step=f"wait for {UNIT}, or cancel it: python3 /usr/local/lib/hedgerow/boot_trial.py cancel",
        )
    _require_layout(device)
    _require_room(device, trial)
    trial.failed_before = failed_units()
    device.save(trial)
    device.put(device.boot / TRYBOOT_CMDLINE, trial.tryboot_cmdline)
    device.put(device.boot / TRYBOOT, trial.tryboot)
    return {"changed": now is None or now.tryboot != trial.tryboot or now.tryboot_cmdline != trial.tryboot_cmdline}


def _require_layout(device: Device) -> None:
    other = device.text(TRYBOOT)
    if other is not None and not other.startswith(MARK):
        raise TrialError(
            "there is a tryboot.txt that is not ours",
            where=f"/{BOOT}/{TRYBOOT}",
            next_step="let the updater that wrote it finish, or remove the file if nobody uses it",
        )
    # With tryboot_a_b firmware switches partitions and reads the same config.txt there: tryboot.txt is not read (F37).
    if device.text("autoboot.txt") is not None:
        raise TrialError(
            "this boot partition has an autoboot.txt: partitions A and B are switched, not files",
            where=f"/{BOOT}/autoboot.txt",
            next_step="let the updater that owns the A/B layout try the change in its other slot",
        )
    if device.tryboot is None:
        raise TrialError(
            "firmware does not tell whether a boot is a trial",
            where="/proc/device-tree/chosen/bootloader/tryboot",
            next_step="update the bootloader (fleet_release.eeprom), then run again",
        )


def _require_room(device: Device, trial: Trial) -> None:
    needed = 2 * (len(trial.tryboot.encode()) + len(trial.tryboot_cmdline.encode())) + FREE_MARGIN
    free = shutil.disk_usage(device.boot).free
    if free < needed:
        raise TrialError(
            f"{free >> 10} KiB are free on the boot partition, {needed >> 10} KiB are needed",
            where=f"/{BOOT}",
            next_step="remove kernels that no package owns: ls -lS /boot/firmware",
        )


def arm(root: str = "/", delay_s: int = 1) -> dict[str, Any]:
    """Reboot into the staged trial, a moment after this returned.

    The file that travels is checked once more: a card that lost a write is found while the old system still runs.
    """
    device = Device(root)
    trial = device.trial()
    if trial is None or trial.phase != STAGED:
        raise TrialError("no trial is staged", where=f"/{STATE}", next_step="run playbooks/boot_trial.yml again")
    placed = (device.text(TRYBOOT), device.text(TRYBOOT_CMDLINE))
    if placed != (trial.tryboot, trial.tryboot_cmdline):
        raise TrialError(
            "the boot partition does not hold what was staged", where=f"/{BOOT}", next_step="check the card"
        )
    trial.phase, trial.boot_id = ARMED, device.boot_id
    device.save(trial)
    # `systemctl reboot "0 tryboot"` is refused by systemd 257 as too many arguments (F35).
    reboot = ["systemctl", "reboot", "--reboot-argument=0 tryboot"]
    done = _run(["systemd-run", "--collect", f"--on-active={delay_s}", "--timer-property=AccuracySec=100ms", *reboot])
    if done.returncode != 0:
        trial.phase = STAGED
        device.save(trial)
        raise TrialError(f"the reboot could not be asked for: {done.stderr.strip()}", next_step="systemctl status")
    return {"changed": True, "id": trial.id, "boot_id": trial.boot_id}


def cancel(root: str = "/") -> dict[str, Any]:
    """Forget a trial. In the trial's own boot nothing is committed any more; a reboot then ends it."""
    device = Device(root)
    trial = device.trial()
    if trial is None:
        return {"changed": False}
    if trial.phase == COMMITTING:
        raise TrialError("it is being committed", where=f"/{STATE}", next_step=f"systemctl start {UNIT}")
    device.finish(trial, FELL_BACK, "cancelled by hand")
    return {"changed": True}


def report(root: str = "/") -> dict[str, Any]:
    """What is under way and how the last one ended."""
    device = Device(root)
    trial = device.trial()
    return {
        "changed": False,
        "boot_id": device.boot_id,
        "tryboot": device.tryboot,
        "trial": None if trial is None else {"id": trial.id, "phase": trial.phase, "reason": trial.reason},
        "result": device.result(),
    }


# -- the device's part, run by the unit at every boot with a trial -----------


def resume(  # noqa: PLR0911 - one return for each boot that it can be
    device: Device,
    *,
    unwell: Callable[[Device, Trial], str | None],
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Go on with the trial from whatever boot this is. Returns ``committed``, ``fell_back``, ``waiting`` or ``reboot``.

    ``reboot``: this is the trial's boot and it must end.
    """
    trial = device.trial()
    if trial is None or trial.phase == STAGED:
        return "waiting"
    if trial.phase == COMMITTING:
        commit(device, trial)
        return COMMITTED
    if trial.phase == ARMED and trial.boot_id == device.boot_id:
        return "waiting"  # armed a moment ago, perhaps in the boot of a trial that was kept: the reboot is on its way
    if not device.tryboot:
        device.finish(trial, FELL_BACK, _why_it_fell_back(trial))
        return FELL_BACK
    if trial.phase == FAILED:
        return "reboot"
    trial.phase, trial.boot_id = TRYING, device.boot_id
    device.save(trial)
    reason = _watch(device, trial, unwell, now, sleep)
    if reason is None:
        commit(device, trial)
        return COMMITTED
    _say(f"boot trial: {reason}")
    trial.phase, trial.reason = FAILED, reason
    device.save(trial)
    return "reboot"


def _why_it_fell_back(trial: Trial) -> str:
    if trial.phase == FAILED:
        return trial.reason or "a check failed"
    if trial.phase == TRYING:
        return "the trial boot ended before it was confirmed: a panic, the watchdog or a power cut"
    return "the trial boot did not reach its first unit, or the flag was lost with the power"


def _watch(
    device: Device,
    trial: Trial,
    unwell: Callable[[Device, Trial], str | None],
    now: Callable[[], float],
    sleep: Callable[[float], None],
) -> str | None:
    """None once the device was well for ``stable_s`` on end; else, at the deadline, what was wrong last."""
    deadline = now() + trial.within_s
    well_since: float | None = None
    while True:
        reason = unwell(device, trial)
        at = now()
        if reason is not None:
            well_since = None
        elif well_since is None:
            well_since = at
        if well_since is not None and at - well_since >= trial.stable_s:
            return None
        if at >= deadline:
            return reason or f"well for less than {trial.stable_s:.0f} s when {trial.within_s:.0f} s were over"
        sleep(POLL_S)


def commit(device: Device, trial: Trial) -> None:
    """Make the tried files the ones that boot. May be repeated from any point."""
    if trial.phase != COMMITTING:
        trial.phase = COMMITTING
        device.save(trial)
    cmdline = device.text("cmdline.txt")
    if cmdline != trial.cmdline:
        device.put(device.boot / TRYBOOT_CMDLINE, trial.tryboot_cmdline)
        device.put(device.boot / "config.txt", trial.tryboot)
        device.put(device.boot / "cmdline.txt", trial.cmdline)
    device.put(device.boot / "config.txt", trial.config)
    device.finish(trial, COMMITTED, "the device was well")


def unwell(device: Device, trial: Trial) -> str | None:
    """The first thing that is wrong with this boot, None if nothing is."""
    missing = [token for token in trial.tokens if token not in device.cmdline]
    if missing:
        return f"the kernel was started without {' '.join(missing)}"
    state = _run(["systemctl", "is-system-running"]).stdout.strip()
    if state not in {"running", "degraded"}:
        return f"systemd says {state or 'nothing'}"
    failed = [unit for unit in failed_units() if unit not in trial.failed_before]
    if failed:
        return f"failed: {', '.join(failed)}"
    for unit in trial.units:
        if _run(["systemctl", "is-active", "--quiet", unit]).returncode != 0:
            return f"{unit} is not active"
    for command in trial.commands:
        done = _run(shlex.split(command))
        if done.returncode != 0:
            return f"`{command}` ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-200:]}"
    return None


def failed_units() -> list[str]:
    listing = _run(["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager"]).stdout
    return sorted(line.split()[0] for line in listing.splitlines() if line.strip())


def reboot(sleep: Callable[[float], None] = time.sleep) -> None:
    """End this boot. The polite way first; a system that cannot stop is reset."""
    for force in ([], ["--force"], ["--force", "--force"]):
        _run(["systemctl", *force, "reboot"])
        sleep(REBOOT_PATIENCE_S)


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(list(argv), 127, "", str(error))


def main(argv: Sequence[str]) -> int:
    """``resume`` is the unit's; ``report`` and ``cancel`` are for people."""
    match list(argv):
        case ["resume"]:
            return _resume()
        case ["report"]:
            _say(json.dumps(report(), indent=1))
        case ["cancel"]:
            _say(json.dumps(cancel()))
        case _:
            sys.stderr.write("usage: boot_trial.py resume | report | cancel\n")
            return 2
    return 0


def _resume() -> int:
    """Whatever goes wrong in the trial's own boot, a full disk or a broken note too, ends it."""
    device = Device()
    try:
        outcome = resume(device, unwell=unwell)
    except Exception as error:  # noqa: BLE001 - no error may leave a device in a boot that nobody confirms
        _say(f"boot trial: {type(error).__name__}: {error}")
        outcome = "reboot" if device.tryboot else "error"
    _say(f"boot trial: {outcome}")
    if outcome == "reboot":
        reboot()
    return 0 if outcome in {COMMITTED, FELL_BACK, "waiting"} else 1


def _say(text: str) -> None:
    """A line for the journal, there before a reboot."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
