"""What the machine under the emulator offers: cgroup layout, limits, capabilities. Reads, changes nothing."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

# linux/capability.h; the names podman's own messages use.
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24, "CAP_MKNOD": 27}


class CgroupMode(StrEnum):
    """How ``/sys/fs/cgroup`` is laid out. crun runs systemd only in a pure version 2 tree."""

    V2 = "v2"
    HYBRID = "hybrid"
    V1 = "v1"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts of this machine; ``detect`` reads them."""

    uid: int
    cgroup: CgroupMode
    cgroup2_in_kernel: bool
    overlay_in_kernel: bool
    capabilities: frozenset[str]
    nofile_hard: int
    nproc_hard: int
    pid_max: int
    inotify_instances: int
    apparmor: bool


def parse_cgroup_mode(mountinfo: str) -> CgroupMode:
    """Tell the cgroup layout from ``/proc/self/mountinfo``.

    Fields: proc(5); the mount point is the fifth, the file system type follows the lone hyphen.
    """
    types: dict[str, str] = {}
    for line in mountinfo.splitlines():
        fields = line.split()
        if "-" not in fields:
            continue
        types[fields[4]] = fields[fields.index("-") + 1]
    if types.get("/sys/fs/cgroup") == "cgroup2":
        return CgroupMode.V2
    below = {kind for point, kind in types.items() if point.startswith("/sys/fs/cgroup/")}
    if "cgroup" in below:
        return CgroupMode.HYBRID if "cgroup2" in below else CgroupMode.V1
    return CgroupMode.NONE


def parse_capabilities(status: str) -> frozenset[str]:
    """Effective capabilities in ``/proc/self/status``, as far as the emulator asks for them."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
            return frozenset(name for name, bit in CAPABILITIES.items() if mask >> bit & 1)
    return frozenset()


def detect() -> Machine:
    filesystems = Path("/proc/filesystems").read_text(encoding="ascii").split()
    return Machine(
        uid=os.geteuid(),
        cgroup=parse_cgroup_mode(Path("/proc/self/mountinfo").read_text(encoding="utf-8")),
        cgroup2_in_kernel="cgroup2" in filesystems,
        overlay_in_kernel="overlay" in filesystems or _module_exists("overlay"),
        capabilities=parse_capabilities(Path("/proc/self/status").read_text(encoding="utf-8")),
        nofile_hard=_hard(resource.RLIMIT_NOFILE),
        nproc_hard=_hard(resource.RLIMIT_NPROC),
        pid_max=int(Path("/proc/sys/kernel/pid_max").read_text(encoding="ascii")),
        inotify_instances=int(Path("/proc/sys/fs/inotify/max_user_instances").read_text(encoding="ascii")),
        apparmor="apparmor" in _lsm(),
    )


def _module_exists(name: str) -> bool:
    folder = Path("/lib/modules") / os.uname().release
    return any(folder.rglob(f"{name}.ko*")) if folder.is_dir() else False


def _lsm() -> str:
    try:
        return Path("/sys/kernel/security/lsm").read_text(encoding="ascii")
    except OSError:  # securityfs not mounted, or no module at all
        return ""


def _hard(limit: int) -> int:
    """The hard limit; podman takes no word for "unlimited" in default_ulimits, -1 is its number."""
    return resource.getrlimit(limit)[1]
