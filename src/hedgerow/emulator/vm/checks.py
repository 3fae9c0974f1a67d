"""What this machine must have to run virtual machines, in the same terms as ``hedgerow.emulator.checks``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from hedgerow.emulator.checks import Requirement, find_program
from hedgerow.errors import MachineError

# program → (Debian package, why). tools/debian-packages.txt has the same packages in the profile `vm`.
PROGRAMS: dict[str, tuple[str, str]] = {
    "qemu-system-aarch64": ("qemu-system-arm", "is the virtual board"),
    "qemu-img": ("qemu-utils", "makes its card and reads the boot partition"),
    "update-binfmts": ("binfmt-support", "lets this machine's kernel start arm64 programs while the card is built"),
    "qemu-aarch64-static": ("qemu-user-static", "runs them"),
    "arch-test": ("arch-test", "mmdebstrap asks it whether they run"),
    "mmdebstrap": ("mmdebstrap", "builds Debian for arm64"),
    "mke2fs": ("e2fsprogs", "makes the root file system"),
    "mcopy": ("mtools", "makes the boot partition and reads it as the firmware does"),
    "fdtput": ("device-tree-compiler", "writes the Pi's device tree"),
    "swtpm": ("swtpm", "is the TPM of hosts with virtual_machine_tpm"),
    "setpriv": ("util-linux", "ends a virtual machine together with its supervisor"),
    "setsid": ("util-linux", "lets its supervisor live on"),
    "unshare": ("util-linux", "keeps the build's mounts to itself"),
    "dpkg-deb": ("dpkg", "builds the stand-in packages"),
    "ssh-keygen": ("openssh-client", "makes the first-contact key"),
}


def requirements(uid: int, find: Callable[[str], str | None]) -> list[Requirement]:
    """Every requirement with its verdict; ``find`` returns a program's path or None."""
    rows = [
        Requirement(
            name=program,
            kind="program",
            ok=(path := find(program)) is not None,
            essential=True,
            found=path or "not found",
            why=why,
            fix=None if path else f"apt-get install {package}",
        )
        for program, (package, why) in PROGRAMS.items()
    ]
    rows.append(
        Requirement(
            name="root",
            kind="right",
            ok=uid == 0,
            essential=True,
            found=f"uid {uid}",
            why="the card's files belong to many users, and ssh's port is below 1024",
            fix=None if uid == 0 else "run it with sudo",
        )
    )
    return rows


def check() -> list[Requirement]:
    """The verdict on this machine."""
    return requirements(os.geteuid(), find_program)


def missing_packages(rows: list[Requirement]) -> list[str]:
    """Debian packages that would bring the programs that are missing."""
    return sorted({PROGRAMS[row.name][0] for row in rows if row.kind == "program" and not row.ok})


def require() -> None:
    """Raise MachineError naming everything that is missing and why."""
    missing = [row for row in check() if not row.ok]
    if not missing:
        return
    packages = missing_packages(missing)
    reasons = "\n    ".join(f"{row.name}: {row.why}" for row in missing)
    raise MachineError(
        f"this machine cannot run virtual machines, {len(missing)} things are missing:\n    {reasons}",
        where="hedgerow emulate check --vm",
        next_step=f"apt-get install {' '.join(packages)}" if packages else "run it with sudo",
    )


def require_space(folder: Path, needed_mb: int) -> None:
    """Raise MachineError unless ``folder``'s disk has room; QEMU would only stop the guest in the middle of a write."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free >> 20
    if free < needed_mb:
        raise MachineError(
            f"{needed_mb} MB are needed, {free} MB are free",
            where=str(there),
            next_step="make room, or set HEDGEROW_VAR to a folder on another disk",
        )
