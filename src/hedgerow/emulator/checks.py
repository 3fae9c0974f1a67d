"""What this machine must have to emulate hosts, each with the reason and with what to type.

``requirements`` is pure: facts of the machine in, a table out. ``require`` is what ``up`` calls before it touches
anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hedgerow.emulator.machine import CgroupMode, Machine, detect
from hedgerow.emulator.podman import INOTIFY_INSTANCES
from hedgerow.errors import MachineError

Kind = Literal["program", "right", "kernel", "limit"]

# Where Debian puts podman's helpers; they are not on PATH.
HELPER_FOLDERS = (Path("/usr/lib/podman"), Path("/usr/libexec/podman"))

# program → (Debian package, why)
PROGRAMS: dict[str, tuple[str, str]] = {
    "podman": ("podman", "runs the hosts as containers"),
    "crun": ("crun", "starts a container whose PID 1 is systemd"),
    "netavark": ("netavark", "gives each host an address on a bridge"),
    "aardvark-dns": ("aardvark-dns", "resolves the hosts' names among them"),
    "iptables": ("iptables", "netavark routes the bridge through it"),
    "mmdebstrap": ("mmdebstrap", "builds the Debian image"),
    "dpkg-deb": ("dpkg", "builds the stand-in packages"),
    "gpg": ("gpg", "signs the archive that has them"),
    "nsenter": ("util-linux", "enters the private mount namespace"),
    "unshare": ("util-linux", "makes the private mount namespace"),
    "mount": ("mount", "mounts cgroup version 2 in there"),
    "ip": ("iproute2", "tells which networks are taken"),
    "ssh-keygen": ("openssh-client", "makes the first-contact key"),
}
_ROOT_REASON = "rootless podman can give a host neither an address of its own on this machine nor device nodes"
_CAPABILITY_REASONS = {
    "CAP_SYS_ADMIN": "mounts and namespaces",
    "CAP_NET_ADMIN": "bridges and addresses",
    "CAP_MKNOD": "device nodes in the guests",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One row: ``found`` says what is there, ``fix`` what to type; without ``essential`` it is only a remark."""

    name: str
    kind: Kind
    ok: bool
    essential: bool
    found: str
    why: str
    fix: str | None = None


def find_program(name: str) -> str | None:
    """Path of a program: on PATH, among podman's helpers, or in the system folders that a user's PATH may lack."""
    on_path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    helpers = (str(folder / name) for folder in HELPER_FOLDERS if (folder / name).is_file())
    return on_path or next(helpers, None)


def requirements(machine: Machine, find: Callable[[str], str | None]) -> list[Requirement]:
    """Every requirement with its verdict on ``machine``; ``find`` returns a program's path or None."""
    return [*_programs(find), *_rights(machine), *_kernel(machine), *_limits(machine)]


def check() -> list[Requirement]:
    """The verdict on this machine."""
    return requirements(detect(), find_program)


def missing_packages(rows: list[Requirement]) -> list[str]:
    """Debian packages that would bring the programs that are missing."""
    return sorted({PROGRAMS[row.name][0] for row in rows if row.kind == "program" and not row.ok})


def require() -> None:
    """Raise MachineError naming everything essential that is missing, rights first."""
    rows = check()
    missing = [row for row in rows if row.essential and not row.ok]
    if not missing:
        return
    packages = missing_packages(rows)
    fixes = [f"apt-get install {' '.join(packages)}"] if packages else []
    fixes += [row.fix for row in missing if row.fix is not None and row.kind != "program"]
    raise MachineError(
        "this machine cannot emulate hosts: " + "; ".join(f"{row.name}: {row.found} ({row.why})" for row in missing),
        where="this machine",
        next_step=" && ".join(dict.fromkeys(fixes)) or "hedgerow emulate check",
    )


def _programs(find: Callable[[str], str | None]) -> Iterator[Requirement]:
    for name, (package, why) in PROGRAMS.items():
        path = find(name)
        fix = f"apt-get install {package}"
        yield _essential(name, "program", ok=path is not None, found=path or "missing", why=why, fix=fix)


def _rights(machine: Machine) -> Iterator[Requirement]:
    root = machine.uid == 0
    sudo = "run the same command with sudo"
    yield _essential("root", "right", ok=root, found=f"uid {machine.uid}", why=_ROOT_REASON, fix=sudo)
    for name, why in _CAPABILITY_REASONS.items():
        held = name in machine.capabilities
        fix = "if this is a container, start it with --privileged" if root else sudo
        yield _essential(name, "right", ok=held, found="held" if held else "not held", why=why, fix=fix)


def _kernel(machine: Machine) -> Iterator[Requirement]:
    for name, ok, why, option in (
        ("cgroup2", machine.cgroup2_in_kernel, "systemd in a guest needs it", "CONFIG_CGROUPS"),
        ("overlay", machine.overlay_in_kernel, "all hosts share one image", "CONFIG_OVERLAY_FS"),
    ):
        found = "in the kernel" if ok else "not in the kernel"
        yield _essential(name, "kernel", ok=ok, found=found, why=why, fix=f"boot a kernel with {option}")
    yield Requirement(
        name="cgroup layout",
        kind="kernel",
        ok=machine.cgroup is CgroupMode.V2,
        essential=False,
        found=machine.cgroup.value,
        why="guests get a version 2 tree in a private mount namespace; unless the machine's is pure version 2, it has "
        "no controllers, and memory and CPU limits of units do nothing",
    )
    yield Requirement(
        name="apparmor",
        kind="kernel",
        ok=machine.apparmor,
        essential=False,
        found="active" if machine.apparmor else "not active",
        why="without it profiles are parsed in the guests and never enforced; the role says so",
    )


def _limits(machine: Machine) -> Iterator[Requirement]:
    yield Requirement(
        name="inotify instances",
        kind="limit",
        ok=machine.inotify_instances >= INOTIFY_INSTANCES,
        essential=False,
        found=str(machine.inotify_instances),
        why=f"more than 15 hosts need more than 128; `hedgerow emulate up` raises it to {INOTIFY_INSTANCES}",
    )
    raises = "CAP_SYS_RESOURCE" in machine.capabilities
    yield Requirement(
        name="CAP_SYS_RESOURCE",
        kind="limit",
        ok=raises,
        essential=False,
        found="held" if raises else "not held",
        why=f"without it guests get this machine's own limit of {machine.nofile_hard} open files",
    )


def _essential(name: str, kind: Kind, *, ok: bool, found: str, why: str, fix: str) -> Requirement:
    return Requirement(name=name, kind=kind, ok=ok, essential=True, found=found, why=why, fix=None if ok else fix)
