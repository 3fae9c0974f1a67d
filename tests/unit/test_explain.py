"""Where values come from, and where a host is not what the inventory says."""

from __future__ import annotations

import copy
import json
import subprocess

import pytest

from hedgerow import explain, paths, ssh
from hedgerow.errors import DeviceError
from hedgerow.inventory import files, load

EXAMPLE = paths.repository_root() / "inventory" / "example"
# A real answer of an emulated Pi; packages and units are cut to a few.
REPORTED = json.loads((paths.repository_root() / "tests/fixtures/reported/pi-orchard-3.json").read_text())


@pytest.fixture(scope="module")
def emulated():
    return load(paths.repository_root() / "inventory" / "emulated")


@pytest.fixture
def reported():
    return copy.deepcopy(REPORTED)


def test_the_winner_and_what_it_overrides():
    host = load(EXAMPLE).hosts["pi-upper-2"]
    found = {origin.key: origin for origin in explain.origins(host, files.read(EXAMPLE))}
    assert found["cooling"].value == "passive"
    assert found["cooling"].place is not None
    assert found["cooling"].place.endswith("host_vars/pi-upper-2.yml:2")
    assert ["fleet.yml:" in place for place in found["cooling"].overrides] == [True]
    assert str(found["hat"].place).endswith("group_vars/pis.yml:2")
    assert str(found["pi_serial"].place).rpartition(":")[0].endswith("hosts.yml")
    assert found["fleet"].overrides == ()


def test_every_value_of_the_example_has_a_place():
    fleet, found = load(EXAMPLE), files.read(EXAMPLE)
    for host in fleet.hosts.values():
        for origin in explain.origins(host, found):
            assert origin.place is not None, origin.key


def test_lines_that_are_named_hold_the_key():
    host = load(EXAMPLE).hosts["pi-lower-1"]
    for origin in explain.origins(host, files.read(EXAMPLE)):
        file, _, line = str(origin.place).rpartition(":")
        assert origin.key in (paths.repository_root() / file).read_text().splitlines()[int(line) - 1]


def test_a_value_from_elsewhere_has_no_place():
    found = load(EXAMPLE)
    assert explain.origins(found.hosts["pi-lower-1"], files.Files([], []))[0].place is None


def test_a_host_that_is_as_it_should_be(emulated, reported):
    assert explain.differences(emulated.hosts["pi-orchard-3"], emulated.release, reported) == []
    assert explain.trouble(reported["hardware"]) == []


@pytest.mark.parametrize(
    "part, change, said",
    [
        ("board", {"serial": "ffffffffffffffff"}, "serial is ffffffffffffffff, the inventory says e0d1c2b3a4950013"),
        ("board", {"is_pi5": False}, "no Raspberry Pi 5"),
        ("hat", {"kind": "none"}, "no NPU on the PCIe bus, the inventory says hat-plus-2"),
        ("hat", {"library_version": "5.3.0"}, "driver 5.1.1 and library 5.3.0 differ"),
    ],
)
def test_boards_that_differ(emulated, reported, part, change, said):
    reported["hardware"][part] |= change
    found = explain.board_differences(emulated.hosts["pi-orchard-3"], emulated.release, reported["hardware"])
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"hostname": "raspberrypi"}, "calls itself raspberrypi"),
        ({"os": {"version_codename": "bookworm"}}, "runs bookworm, the lock says trixie"),
        ({"python": "3.11"}, "Python 3.11, the lock says 3.13"),
        ({"packages": {"mender-client": "4.0.0"}}, "mender-client is 4.0.0, the lock says 3.4.0"),
    ],
)
def test_systems_that_differ(emulated, reported, change, said):
    reported["state"] |= change
    found = explain.differences(emulated.hosts["pi-orchard-3"], emulated.release, reported)
    assert len(found) == 1
    assert said in found[0]


def test_trouble_is_what_happens_now(reported):
    reported["hardware"]["throttled"]["now"] |= {"undervoltage": True, "soft_limit": True}
    assert sorted(explain.trouble(reported["hardware"])) == ["soft limit", "undervoltage"]
    reported["hardware"]["throttled"] = None
    assert explain.trouble(reported["hardware"]) == []


def test_asking_takes_one_login(emulated, monkeypatch):
    logins = []

    def answer(inventory, host, command, *, stdin, timeout_s):
        logins.append(command)
        compile(stdin, "sent", "exec")  # what is sent is a program
        return subprocess.CompletedProcess(
            [], 0, "banner\n" + "\n".join(json.dumps(REPORTED[module]) for module in ("hardware", "state", "npu")), ""
        )

    monkeypatch.setattr(ssh, "run", answer)
    assert explain.ask(emulated, emulated.hosts["pi-orchard-3"]) == REPORTED
    assert logins == ["sudo -n /usr/bin/python3 -"]


def test_a_host_without_python_is_at_fault(emulated, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "sudo: python3: command not found")
    monkeypatch.setattr(ssh, "run", lambda *_, **__: failed)
    with pytest.raises(DeviceError, match="exit code 1"):
        explain.ask(emulated, emulated.hosts["pi-orchard-3"])
