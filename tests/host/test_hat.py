"""What role `hat` promises of any converged Pi: its stack and no other, a driver for each kernel, a chain that holds.

These run on real boards, too. There the link to the chip is a real one: what only that can show says so.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hedgerow import remote_script
from hedgerow.converge import hat as hats
from hedgerow.converge import pins, reboot
from hedgerow.device import hat_chain

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def ask(pi: Any, module: str) -> dict[str, Any]:
    """``read`` of one of the device's modules, by the host's own Python."""
    program = remote_script.build(f"hedgerow.device.{module}", "read")
    done = pi.shell.run("sudo python3 -c %s", program)
    assert done.rc == 0, done.stderr
    answer: dict[str, Any] = remote_script.parse(done.stdout, host=pi.name)
    return answer


@pytest.fixture(scope="module")
def npu(pi):
    return ask(pi, "npu")


@pytest.fixture(scope="module")
def board(pi):
    return ask(pi, "hardware")


@pytest.fixture
def with_hat(pi):
    if pi.entry.hat == "none":
        pytest.skip("this board has no HAT")
    return pi


def test_the_chain_holds_from_the_bus_to_the_chip_s_answer(with_hat, board, npu):
    found = hat_chain.prove(board, npu, group="hailo")
    assert found["ok"], "\n".join(hat_chain.lines(found))


def test_the_hat_is_the_inventory_s(pi, board):
    told = hats.verdict({"hardware": board}, pi.entry.hat, _lock(pi))
    assert told["problems"] == []


def test_f05_no_package_of_another_stack(pi):
    names = set(pi.run("dpkg-query -W -f '${Package}\\n'").stdout.split())
    other = {*pins.HAILO8_PACKAGES, *pins.HAILO10_PACKAGES} - set(pins.locked(_lock(pi), pi.entry.hat))
    assert names & other == set()


def test_f06_the_driver_is_built_for_what_runs_and_for_what_comes(with_hat, board, npu):
    module = hats.module(with_hat.entry.hat)["own"]
    packages = dict.fromkeys(with_hat.run("dpkg-query -W -f '${Package}\\n'").stdout.split(), "")
    running = board["kernel"]["release"]
    for kernel in {running, reboot.pending_kernel(running, packages)} - {None}:
        assert npu["kernels"][kernel]["headers"], f"{kernel} has no headers"
        assert module in npu["kernels"][kernel]["modules"], f"{kernel} has no {module}"


def test_f04_f41_the_other_driver_is_kept_away_by_a_blacklist_alone(with_hat, npu):
    other = hats.module(with_hat.entry.hat)["other"]
    assert other in npu["modprobe"]["blacklisted"]
    assert other not in npu["loaded"]
    assert npu["modprobe"]["install_lines"] == []


def test_f21_f42_the_node_is_the_group_s_under_both_names(with_hat, npu):
    rules = with_hat.root("cat /etc/udev/rules.d/99-hailo.rules")
    for subsystem in ("hailo_chardev", "hailo1x"):
        assert f'SUBSYSTEM=="{subsystem}", MODE="0660", GROUP="hailo"' in rules
    assert [(node["mode"], node["group"]) for node in npu["nodes"]] == [("0660", "hailo")]


def test_f45_identify_is_believed_by_its_text(with_hat, board):
    done = with_hat.as_root("hailortcli fw-control identify")
    if board["hat"]["error"] is not None:
        pytest.skip(f"the chip is in use: {board['hat']['error']}")
    assert f"Device Architecture: {board['hat']['architecture']}" in done.stdout


def test_the_lane_is_at_full_speed(with_hat, board):
    with_hat.only_on_a_board("the speed of an emulated lane is a value that somebody set")
    assert board["hat"]["link_speed_gts"] == hat_chain.FULL_SPEED_GTS
    assert board["hat"]["link_width"] == 1


def test_f10_the_firmware_came_with_this_power_on_or_is_the_driver_s(with_hat, board, npu):
    with_hat.only_on_a_board("an emulated chip's firmware is a file of its host")
    assert any("Firmware loaded" in line for line in npu["log"]), "the kernel's log is gone, or cannot be read"
    assert board["hat"]["firmware_version"] in {None, board["hat"]["driver_version_loaded"]}


def _lock(pi: Any) -> dict[str, Any]:
    lock: dict[str, Any] = msgspec.to_builtins(pi.fleet.release)
    return lock
