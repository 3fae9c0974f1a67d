"""First contact and sweep on booted hosts, with the commands that an operator types."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hedgerow import explain, paths
from hedgerow import inventory as inventories
from hedgerow.demo.steps import tool
from hedgerow.emulator import checks
from hedgerow.emulator.fleet import EmulatedFleet

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.skipif(os.geteuid() != 0, reason="emulated hosts are root's containers: run with sudo"),
]

REPOSITORY = Path(__file__).parents[2]
NAME = "test-contact"
PI = "pi-orchard-1"


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded default under another name and on another network."""
    folder = tmp_path_factory.mktemp("fleet") / "inventory"
    shutil.copytree(REPOSITORY / "inventory" / "emulated", folder)
    for file in folder.rglob("*.yml"):
        text = file.read_text().replace("10.77.0.", "10.179.0.").replace("fleet: meadow", f"fleet: {NAME}")
        file.write_text(text)
    return folder


@pytest.fixture(scope="module")
def fleet(inventory: Path):
    checks.require()
    fleet = EmulatedFleet(inventories.load(inventory))
    shutil.rmtree(paths.fleet_dir(NAME), ignore_errors=True)
    fleet.up()
    yield fleet
    fleet.down()
    shutil.rmtree(paths.fleet_dir(NAME))


@pytest.fixture
def pyinfra(inventory: Path, fleet: EmulatedFleet):
    def run(connector: str, deploy: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [tool("pyinfra"), "-y", f"@{connector}/{inventory}", *more, f"deploy/{deploy}.py"]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)

    return run


@pytest.fixture
def contacted(pyinfra):
    done = pyinfra("first-contact", "bootstrap")
    assert done.returncode == 0, done.stderr
    return done


def _totals(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The last line of pyinfra's results: Hosts, Success, Error, No Change."""
    line = next(line for line in done.stderr.splitlines() if "Grand total" in line)
    return dict(zip(("hosts", "success", "error", "no_change"), line.split()[2:], strict=True))


def _differs_as_a_new_board(differs: list[str], *, hat: str) -> None:
    """A board before its first converge is what the inventory says, but for its HAT, whose driver a role installs."""
    assert len(differs) == (0 if hat == "none" else 1), differs
    assert all("driver" in text and "(F6)" in text for text in differs), differs


def test_nobody_is_trusted_unseen(pyinfra, fleet):
    """Before first contact there is no key to log in with, and none to know a host by."""
    done = pyinfra("fleet", "sweep")
    assert done.returncode != 0
    assert "has no first contact yet" in done.stderr


def test_first_contact_then_ansible_then_nothing_to_do(pyinfra, inventory, fleet):
    first = pyinfra("first-contact", "bootstrap")
    assert first.returncode == 0, first.stderr
    assert _totals(first)["success"] == "16"

    ping = [tool("ansible"), "-i", str(inventory), "all", "-b", "-m", "ansible.builtin.ping"]
    done = subprocess.run(ping, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.count("SUCCESS") == len(fleet.hosts), done.stdout + done.stderr

    again = pyinfra("first-contact", "bootstrap")
    assert again.returncode == 0
    assert _totals(again) == {"hosts": "16", "success": "-", "error": "-", "no_change": "16"}


def test_a_cut_off_first_contact_is_resumed(pyinfra, contacted, fleet):
    fleet.exec(PI, ["rm", "/etc/sudoers.d/50-hedgerow-admin"])
    done = pyinfra("first-contact", "bootstrap")
    assert done.returncode == 0, done.stderr
    assert _totals(done)["success"] == "2"  # it, and writing it to the card


def test_a_host_with_another_key_is_refused_by_everyone(pyinfra, contacted, inventory, fleet, tmp_path):
    """Somebody answers at a Pi's address with a key of his own."""
    fleet.exec(PI, ["cp", "-a", "/etc/ssh/ssh_host_ed25519_key", "/root/true_key"])
    try:
        fleet.exec(PI, ["sh", "-c", "yes | ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key"])
        fleet.exec(PI, ["systemctl", "restart", "ssh"])
        first = pyinfra("first-contact", "bootstrap", "--limit", PI, "--data", "accept_new_host_keys=true")
        assert first.returncode != 0
        assert "but its key is SHA256:" in first.stderr
        sweep = pyinfra("fleet", "sweep", "--limit", PI)
        assert sweep.returncode != 0
        assert "does not match" in sweep.stderr
        ping = [tool("ansible"), "-i", str(inventory), PI, "-m", "ansible.builtin.ping"]
        # A connection that is still open from before needs no key; this one is new.
        fresh = os.environ | {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(tmp_path)}
        done = subprocess.run(ping, cwd=REPOSITORY, env=fresh, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "UNREACHABLE" in done.stdout
    finally:
        fleet.exec(PI, ["mv", "/root/true_key", "/etc/ssh/ssh_host_ed25519_key"])
        fleet.exec(PI, ["systemctl", "restart", "ssh"])
    assert pyinfra("fleet", "sweep", "--limit", PI).returncode == 0


def test_sweep_tells_what_each_host_is(pyinfra, contacted, inventory, fleet):
    fleet.set_values(PI, temperature_c=84.5, throttled="0x50005")
    done = pyinfra("fleet", "sweep", "--data", "json=true")
    assert done.returncode == 0, done.stderr
    hosts = {row["host"]: row for row in json.loads(done.stdout)["hosts"]}
    assert list(hosts) == list(fleet.hosts)
    assert {name: row["serial"] for name, row in hosts.items()} == {
        name: host.serial for name, host in inventories.load(inventory).hosts.items()
    }
    for name, host in inventories.load(inventory).hosts.items():
        _differs_as_a_new_board(hosts[name]["differs"], hat=host.hat)
    assert (hosts[PI]["temperature_c"], sorted(hosts[PI]["throttled"])) == (84.5, ["throttled", "undervoltage"])


def test_sweep_lists_who_is_silent(pyinfra, contacted, fleet):
    fleet.power(PI, "off")
    try:
        done = pyinfra("fleet", "sweep", "--data", "json=true")
    finally:
        fleet.power(PI, "on")
    assert done.returncode == 1
    hosts = {row["host"]: row for row in json.loads(done.stdout)["hosts"]}
    assert [name for name, row in hosts.items() if row["problem"] is not None] == [PI]


def test_a_host_explains_itself(contacted, inventory, fleet):
    loaded = inventories.load(inventory)
    host = loaded.hosts[PI]
    reported = explain.ask(loaded, host)
    assert reported["state"]["hostname"] == PI
    _differs_as_a_new_board(explain.differences(host, loaded.release, reported), hat=host.hat)
    other = loaded.hosts["pi-orchard-2"]
    assert any("serial" in text for text in explain.differences(other, loaded.release, reported))
