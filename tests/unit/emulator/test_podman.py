from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from hedgerow.emulator.machine import CgroupMode, Machine
from hedgerow.emulator.podman import Podman, containers_conf


def machine(*, nofile: int, nproc: int) -> Machine:
    return Machine(
        uid=0, cgroup=CgroupMode.HYBRID, cgroup2_in_kernel=True, overlay_in_kernel=True, capabilities=frozenset(),
        nofile_hard=nofile, nproc_hard=nproc, pid_max=32768, inotify_instances=128, apparmor=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "nofile, nproc, expected",
    [
        (20000, 96365, ["nofile=20000:20000", "nproc=32768:32768"]),
        (-1, -1, ["nofile=1048576:1048576", "nproc=32768:32768"]),
        (1073741816, 1000, ["nofile=1048576:1048576", "nproc=1000:1000"]),
    ],
)
def test_limits_never_exceed_the_machine(nofile: int, nproc: int, expected: list[str]) -> None:
    text = containers_conf(machine(nofile=nofile, nproc=nproc), Path("/var/x/podman"), Path("/run/x"))
    assert tomllib.loads(text)["containers"]["default_ulimits"] == expected


def test_nothing_is_shared_with_the_users_podman() -> None:
    settings = tomllib.loads(containers_conf(machine(nofile=1, nproc=1), Path("/v/podman"), Path("/run/x")))
    assert settings["engine"]["lock_type"] == "file"
    assert settings["engine"]["tmp_dir"].startswith("/run/x/")
    assert settings["network"]["network_config_dir"].startswith("/v/podman/")
    # conmon's clean-up knows --root only; a static_dir of our own would lose it.
    assert "static_dir" not in settings["engine"]


def test_two_checkouts_never_meet(tmp_path: Path) -> None:
    one, other = Podman(tmp_path / "one"), Podman(tmp_path / "other")
    assert one.run_dir != other.run_dir
    # conmon's sockets: "attach" below a 64-digit id below this; a path may have 108 bytes.
    assert len(str(one.run_dir)) < 32


def test_no_environment_without_a_namespace(tmp_path: Path) -> None:
    assert Podman(tmp_path / "never").exists() is False
