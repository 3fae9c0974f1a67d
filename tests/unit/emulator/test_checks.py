from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner

from hedgerow.commands.emulate import emulate
from hedgerow.emulator import checks
from hedgerow.emulator.machine import CAPABILITIES, CgroupMode, Machine
from hedgerow.errors import MachineError

GOOD = Machine(
    uid=0,
    cgroup=CgroupMode.V2,
    cgroup2_in_kernel=True,
    overlay_in_kernel=True,
    capabilities=frozenset(CAPABILITIES),
    nofile_hard=1048576,
    nproc_hard=-1,
    pid_max=4194304,
    inotify_instances=8192,
    apparmor=True,
)


def everything(name: str) -> str:
    return f"/usr/bin/{name}"


def nothing(_: str) -> None:
    return None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    def become(machine: Machine, find) -> None:
        monkeypatch.setattr(checks, "detect", lambda: machine)
        monkeypatch.setattr(checks, "find_program", find)

    return become


def test_a_good_machine_lacks_nothing(machine) -> None:
    machine(GOOD, everything)
    assert all(row.ok for row in checks.check())
    checks.require()


@pytest.mark.parametrize("program", checks.PROGRAMS)
def test_a_missing_program_names_its_package_and_why(machine, program: str) -> None:
    machine(GOOD, lambda name: None if name == program else everything(name))
    package, why = checks.PROGRAMS[program]
    with pytest.raises(MachineError) as caught:
        checks.require()
    assert f"apt-get install {package}" in str(caught.value)
    assert why in str(caught.value)


def test_many_missing_programs_are_one_command(machine) -> None:
    machine(GOOD, nothing)
    with pytest.raises(MachineError) as caught:
        checks.require()
    assert caught.value.next_step is not None
    assert caught.value.next_step.count("apt-get") == 1
    assert "podman" in caught.value.next_step


def test_a_user_without_rights_is_sent_to_sudo_once(machine) -> None:
    machine(replace(GOOD, uid=1000, capabilities=frozenset()), everything)
    with pytest.raises(MachineError) as caught:
        checks.require()
    assert "rootless podman" in caught.value.what
    assert caught.value.next_step == "run the same command with sudo"


def test_root_in_a_container_without_rights_hears_of_privileged(machine) -> None:
    machine(replace(GOOD, capabilities=frozenset({"CAP_MKNOD"})), everything)
    with pytest.raises(MachineError, match="CAP_SYS_ADMIN"):
        checks.require()


@pytest.mark.parametrize("layout", [CgroupMode.V1, CgroupMode.HYBRID, CgroupMode.NONE])
def test_old_cgroup_layouts_are_a_remark(machine, layout: CgroupMode) -> None:
    machine(replace(GOOD, cgroup=layout), everything)
    assert {row.name for row in checks.check() if not row.ok} == {"cgroup layout"}
    checks.require()


def test_a_kernel_without_overlay_is_not_enough(machine) -> None:
    machine(replace(GOOD, overlay_in_kernel=False), everything)
    with pytest.raises(MachineError, match="overlay"):
        checks.require()


@pytest.mark.parametrize("find, code", [(everything, 0), (nothing, 1)])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_command_ends_in_the_verdict(machine, find, code: int, options: list[str]) -> None:
    machine(GOOD, find)
    result = CliRunner().invoke(emulate, ["check", *options], standalone_mode=False)
    assert result.return_value == code
    assert ("apt-get install" in result.output) is (code == 1)
