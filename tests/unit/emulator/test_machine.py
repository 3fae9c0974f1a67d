from __future__ import annotations

import pytest

from hedgerow.emulator.machine import CgroupMode, detect, parse_capabilities, parse_cgroup_mode

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
TMPFS = "30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:4 - tmpfs tmpfs ro,mode=755\n"
MEMORY = "31 30 0:27 / /sys/fs/cgroup/memory rw shared:5 - cgroup cgroup rw,memory\n"
UNIFIED = "32 30 0:28 / /sys/fs/cgroup/unified rw shared:6 - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(
    "mountinfo, mode",
    [
        (V2, CgroupMode.V2),
        (TMPFS + MEMORY + UNIFIED, CgroupMode.HYBRID),
        (TMPFS + MEMORY, CgroupMode.V1),
        ("20 1 8:1 / / rw - ext4 /dev/sda rw\n", CgroupMode.NONE),
    ],
)
def test_cgroup_mode(mountinfo: str, mode: CgroupMode) -> None:
    assert parse_cgroup_mode(mountinfo) is mode


def test_capabilities() -> None:
    everything_but_resource = f"Name:\tsh\nCapEff:\t{0x1FFFFFFFFFF & ~(1 << 24):016x}\n"
    assert parse_capabilities(everything_but_resource) == {"CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_MKNOD"}
    assert parse_capabilities("CapEff:\t0000000000000000\n") == frozenset()


def test_this_machine_can_be_asked() -> None:
    assert detect().nofile_hard != 0
