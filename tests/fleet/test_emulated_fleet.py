"""The emulator itself, on a fleet and network of its own: boot, live values, power, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow import inventory as inventories
from hedgerow import paths, remote_script
from hedgerow.emulator import checks, remains
from hedgerow.emulator.fleet import EmulatedFleet
from hedgerow.errors import DeviceError, MachineError, UsageError

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.skipif(os.geteuid() != 0, reason="emulated hosts are root's containers: run with sudo"),
]

REPOSITORY = Path(__file__).parents[2]
NAME = "test-emulator"
PI, GATEWAY = "pi-orchard-1", "gw-orchard"


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded default under another name and on another network."""
    folder = tmp_path_factory.mktemp("fleet") / "inventory"
    shutil.copytree(REPOSITORY / "inventory" / "emulated", folder)
    for file in folder.rglob("*.yml"):
        text = file.read_text().replace("10.77.0.", "10.177.0.").replace("fleet: meadow", f"fleet: {NAME}")
        file.write_text(text)
    return folder


@pytest.fixture(scope="module")
def fleet(inventory: Path):
    checks.require()
    fleet = EmulatedFleet(inventories.load(inventory))
    fleet.build_images()
    yield fleet
    fleet.down()


@pytest.fixture
def up(fleet: EmulatedFleet) -> EmulatedFleet:
    fleet.up()
    return fleet


@pytest.fixture
def stack(up: EmulatedFleet) -> EmulatedFleet:
    """The first Pi has the software of its HAT, as the role installs it."""
    if up.exec(PI, ["which", "hailortcli"]).returncode != 0:
        install = ["apt-get", "--yes", "--quiet=2", "install", "dkms", "hailo-h10-all"]
        for command in (["apt-get", "--quiet=2", "update"], install, ["modprobe", "hailo1x_pci"]):
            done = up.exec(PI, command)
            assert done.returncode == 0, done.stderr
    return up


def hardware(fleet: EmulatedFleet, host: str) -> dict:
    """What a controller sees over nothing but ``python3 -``."""
    program = remote_script.build("hedgerow.device.hardware", "read")
    ssh = [
        "ssh", "-i", str(fleet.first_contact_key), "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes",
        "-o", f"UserKnownHostsFile={known_hosts(fleet, host)}", f"pi@{fleet.hosts[host].host.address}",
        "sudo", "python3", "-",
    ]  # fmt: skip
    done = subprocess.run(ssh, input=program, capture_output=True, text=True, timeout=60, check=True)
    return remote_script.parse(done.stdout, host=host)


def known_hosts(fleet: EmulatedFleet, host: str) -> Path:
    target = fleet.hosts[host]
    file = target.board.folder / "known_hosts"
    file.write_text(f"{target.host.address} {target.host_key.read_text()}")
    return file


def test_four_hosts_boot_and_a_second_up_changes_nothing(fleet: EmulatedFleet) -> None:
    fleet.down()
    hosts = fleet.up()
    assert [host.state for host in hosts] == ["running"] * 4
    assert all(host.changed and host.ssh for host in hosts)
    assert not any(host.changed or host.outdated for host in fleet.up())


def test_hosts_are_boards_of_their_own(stack: EmulatedFleet) -> None:
    seen = {name: hardware(stack, name) for name in (PI, GATEWAY)}
    assert seen[PI]["board"]["serial"] == stack.hosts[PI].host.serial
    assert seen[PI]["hat"]["architecture"] == "HAILO10H"
    assert seen[PI]["hat"]["node"] == "/dev/hailo0"
    assert seen[PI]["thermal"]["hat_c"] == 52.4
    assert seen[GATEWAY]["hat"]["kind"] == "none"
    ids = {stack.exec(name, ["cat", "/etc/machine-id"]).stdout for name in stack.hosts}
    keys = {host.host_key.read_text().split()[1] for host in stack.hosts.values()}
    assert len(ids) == len(keys) == 4


def test_a_host_without_a_hat_has_nothing_of_hailo(up: EmulatedFleet) -> None:
    assert up.exec(GATEWAY, ["which", "hailortcli"]).returncode != 0
    assert up.exec(GATEWAY, ["sh", "-c", "ls /dev | grep -i -e hailo -e h1x"]).returncode != 0


def test_live_values_are_seen_while_the_host_runs(stack: EmulatedFleet) -> None:
    stack.set_values(PI, temperature_c=84.5, undervoltage=True, link_speed_gts="5.0", hat_temperature_c=97)
    seen = hardware(stack, PI)
    assert seen["thermal"]["soc_c"] == 84.5
    assert seen["thermal"]["hat_c"] == 97.0
    assert seen["throttled"]["raw"] == "0x10001"
    assert seen["undervoltage_now"] is True
    assert seen["hat"]["link_speed_gts"] == 5.0


def test_versions_that_differ_fail_as_the_real_tool_does(stack: EmulatedFleet) -> None:
    stack.set_values(PI, library_version="5.3.0")
    identify = stack.exec(PI, ["hailortcli", "fw-control", "identify"])
    assert identify.returncode == 76
    assert "HAILO_INVALID_DRIVER_VERSION(76)" in identify.stderr
    stack.set_values(PI, library_version="5.1.1")
    assert stack.exec(PI, ["hailortcli", "fw-control", "identify"]).returncode == 0


def test_a_hat_that_falls_off_takes_its_node_along(stack: EmulatedFleet) -> None:
    stack.set_values(PI, hat_present=False)
    assert stack.exec(PI, ["test", "-e", "/dev/hailo0"]).returncode == 1
    silent = stack.exec(PI, ["hailortcli", "fw-control", "identify"])
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, "", "")
    stack.set_values(PI, hat_present=True)
    assert stack.exec(PI, ["test", "-c", "/dev/hailo0"]).returncode == 0


def test_power_cut_keeps_the_disk_and_clears_what_counts_since_boot(up: EmulatedFleet) -> None:
    up.set_values(PI, throttled="0xf0000")
    up.exec(PI, ["sh", "-c", "echo kept > /srv/kept; echo lost > /run/lost; sync"])
    key = up.hosts[PI].host_key.read_text()
    off = up.power(PI, "off")
    assert (off.state, off.ssh) == ("off", False)
    with pytest.raises(DeviceError, match="switched off"):
        up.exec(PI, ["true"])
    on = up.power(PI, "on")
    assert (on.state, on.ssh) == ("running", True)
    assert up.exec(PI, ["cat", "/srv/kept"]).stdout == "kept\n"
    assert up.exec(PI, ["test", "-e", "/run/lost"]).returncode == 1
    assert up.values(PI)["throttled"] == "0x0"
    assert up.hosts[PI].host_key.read_text() == key


def test_boot_configuration_takes_effect_at_reboot(up: EmulatedFleet) -> None:
    up.exec(PI, ["sed", "-i", "s/$/ cgroup_enable=memory/", "/boot/firmware/cmdline.txt"])
    up.exec(PI, ["sed", "-i", "$ a usb_max_current_enable=1", "/boot/firmware/config.txt"])
    assert "cgroup_enable=memory" not in hardware(up, PI)["kernel"]["cmdline"]
    up.exec(PI, ["systemctl", "reboot"])
    await_condition(lambda: up.status([PI])[0].state == "running" and on_cmdline(up), "the host came back by itself")
    assert "cgroup_enable=memory" in hardware(up, PI)["kernel"]["cmdline"]
    answer = up.exec(PI, ["vcgencmd", "get_config", "usb_max_current_enable"])
    assert answer.stdout == "usb_max_current_enable=1\n"


def on_cmdline(fleet: EmulatedFleet) -> bool:
    return "cgroup_enable=memory" in fleet.exec(PI, ["cat", "/hardware/proc/cmdline"]).stdout


def await_condition(condition, what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.2)


def test_a_failed_unit_is_told_and_no_reason_to_stop(up: EmulatedFleet) -> None:
    up.exec(PI, ["systemd-run", "--wait", "--quiet", "--unit=broken", "false"])
    assert {host.host: host.state for host in up.up()}[PI] == "degraded"
    up.exec(PI, ["systemctl", "reset-failed"])


def test_no_guest_sets_the_machines_clock(up: EmulatedFleet) -> None:
    # The time it sets is the present one: harmless where the guard is broken.
    program = "import time; time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME))"
    for command in (
        ["python3", "-c", program],
        ["systemd-run", "--wait", "--collect", "--quiet", "python3", "-c", program],
    ):
        assert up.exec(PI, command).returncode != 0


def test_names_resolve_among_the_hosts(up: EmulatedFleet) -> None:
    for name in (PI, f"{PI}.orchard.{NAME}"):
        assert up.hosts[PI].host.address in up.exec(GATEWAY, ["getent", "hosts", name]).stdout


def test_a_killed_up_is_resumed(fleet: EmulatedFleet, inventory: Path) -> None:
    fleet.down()
    # Tests that run in the background of a shell have Ctrl-C ignored, and so would their children.
    default = ["env", "--default-signal=INT"]
    command = [*default, sys.executable, "-m", "hedgerow.cli", "emulate", "up", "-i", str(inventory)]
    for moment in (0.6, 0.9, 1.2, 1.5, 1.8, 2.1):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(moment)  # a moment of its own each time; no condition is awaited here
        if int(moment * 10) % 2:
            os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches the whole group
        else:
            process.kill()
        process.wait()
    assert all(host.state == "running" for host in fleet.up())


@pytest.fixture
def other(
    fleet: EmulatedFleet, inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EmulatedFleet]:
    """The same fleet as another checkout has it, in a podman environment of its own: nobody else's hosts run there."""
    fleet.down()
    images = paths.cache_dir() / "images"
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("HEDGEROW_VAR", str(tmp_path))
        paths.cache_dir().mkdir()
        (paths.cache_dir() / "images").symlink_to(images)
        other = EmulatedFleet(inventories.load(inventory))
        assert other.podman.run_dir != fleet.podman.run_dir
        try:
            yield other
        finally:
            fleet.down()
            if other.podman.storage.exists():
                other.down()
    assert not other.podman.run_dir.exists()


def kill_every_process(fleet: EmulatedFleet) -> None:
    """As a CI runner does at a job's end: nobody of the fleet, or of others in its environment, gets to tidy up."""
    podman = fleet.podman
    # Conmon before its container, or it would see the container end and take its network down.
    for pid in reversed([*remains.to_end(podman.storage, podman.run_dir)]):
        # What `emulate exec` began has a conmon too, and ends with its container.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await_condition(lambda: remains.is_deserted(podman.storage, podman.run_dir), "the last process is gone")


def test_a_fleet_whose_every_process_was_killed_boots_again_with_its_disks(other: EmulatedFleet) -> None:
    other.up([PI, GATEWAY])
    other.exec(PI, ["sh", "-c", "echo kept > /srv/kept; sync"])
    kill_every_process(other)
    hosts = other.up([PI, GATEWAY])
    assert [(host.state, host.changed, host.ssh) for host in hosts] == [("running", True, True)] * 2
    assert other.exec(PI, ["cat", "/srv/kept"]).stdout == "kept\n"
    assert other.hosts[PI].host.address in other.exec(GATEWAY, ["getent", "hosts", PI]).stdout


@pytest.mark.parametrize("deleted", [False, True], ids=["checkout stands", "checkout deleted"])
def test_a_killed_fleet_of_another_checkout_does_not_keep_its_addresses(
    fleet: EmulatedFleet, other: EmulatedFleet, *, deleted: bool
) -> None:
    other.up([GATEWAY])
    with pytest.raises(MachineError, match="overlaps"):
        fleet.up([PI])
    kill_every_process(other)
    if deleted:
        shutil.rmtree(other.podman.storage)
    assert fleet.up([PI])[0].ssh
    assert not other.podman.exists()


def test_outdated_hosts_are_told_of_and_replaced_only_on_request(up: EmulatedFleet, inventory: Path) -> None:
    up.exec(PI, ["touch", "/srv/mine"])
    hosts = inventory / "hosts.yml"
    original = hosts.read_text()
    hosts.write_text(original.replace("e0d1c2b3a4950011", "e0d1c2b3a49500ff"))
    try:
        other = EmulatedFleet(inventories.load(inventory))
        assert {host.host for host in other.up() if host.outdated} == {PI}
        assert other.exec(PI, ["test", "-e", "/srv/mine"]).returncode == 0
        assert not any(host.outdated for host in other.up(recreate=True))
        assert other.exec(PI, ["test", "-e", "/srv/mine"]).returncode == 1
        assert hardware(other, PI)["board"]["serial"] == "e0d1c2b3a49500ff"
    finally:
        hosts.write_text(original)
        up.up(recreate=True)


def test_unknown_hosts_are_named_with_the_known_ones(up: EmulatedFleet) -> None:
    with pytest.raises(UsageError, match=PI):
        up.power("pi-orchard-9", "off")


def test_down_leaves_nothing(up: EmulatedFleet) -> None:
    state = paths.var_dir() / "emulator" / NAME
    assert state.is_dir()
    up.down()
    assert not state.exists()
    assert {host.state for host in up.status()} == {"absent"}
    routes = json.loads(subprocess.run(["ip", "-json", "route"], capture_output=True, text=True, check=True).stdout)
    assert not [route for route in routes if route["dst"].startswith("10.177.0.")]
    processes = b"".join(read(file) for file in Path("/proc").glob("[0-9]*/cmdline"))
    assert f"hedgerow-{NAME}-".encode() not in processes


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
