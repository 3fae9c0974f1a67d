"""Transactions on packages, with dpkg and apt as programs of this test: no host, no root."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hedgerow.device import packages
from hedgerow.device.packages import PackagesError

SIMULATION = """\
NOTE: This is only a simulation!
Inst linux-image-6.18.50+rpt-rpi-2712 (1:6.18.50-1+rpt1 Raspberry Pi Foundation:stable [arm64])
Inst linux-image-rpi-2712 [1:6.18.34-1+rpt1] (1:6.18.50-1+rpt1 Raspberry Pi Foundation:stable [arm64])
Remv linux-image-6.18.55+rpt-rpi-2712 [1:6.18.55-1+rpt1]
Conf linux-image-rpi-2712 (1:6.18.50-1+rpt1 Raspberry Pi Foundation:stable [arm64])
"""
HAT = {"name": "HAT", "install": {"h10-hailort": "5.2.0", "h10-hailort-pcie-driver": "5.2.0"}, "remove": []}
LOCKED = {"h10-hailort": "5.2.0", "h10-hailort-pcie-driver": "5.2.0", "dkms": "3.2.2-1~deb13u1"}

# One program for all of dpkg and apt: a package table in JSON, what was called in a log.
PROGRAM = """\
#!/usr/bin/env python3
import json, os, re, sys
from pathlib import Path
folder = Path(os.environ["FAKE"])
name, *words = [Path(sys.argv[0]).name, *sys.argv[1:]]
state = json.loads((folder / "state.json").read_text())
(folder / "log").open("a").write(" ".join([name, *words]) + "\\n")
def save(): (folder / "state.json").write_text(json.dumps(state))
if name == "systemd-run":
    words = words[next(i for i, word in enumerate(words) if not word.startswith("--")):]
    os.execv(words[0], words)
if name == "systemctl":
    print("inactive"); sys.exit(3)
if name == "dpkg-query":
    for package, (version, want) in state["packages"].items():
        print(f"{package}\\t{want} ok installed\\t{version}")
elif name == "dpkg" and words == ["--audit"]:
    print(state.get("audit", ""), end="")
elif name == "dpkg" and words == ["--set-selections"]:
    for line in sys.stdin:
        package, want = line.split()
        if package in state["packages"]: state["packages"][package][1] = want
    save()
elif name == "apt-get":
    if "update" in words:
        log = folder / "apt.log"; log.write_text(state.get("update", "")); sys.exit(100 if state.get("update") else 0)
    wanted = dict(word.split("=") for word in words if re.match(r"[a-z0-9.+-]+=[0-9]", word))
    if "--simulate" in words:
        if state.get("unknown"):
            print(state["unknown"], file=sys.stderr); sys.exit(100)
        for package, version in wanted.items(): print(f"Inst {package} [x] ({version.rstrip('*')} a [all])")
        print(state.get("simulation", ""), end="")
        sys.exit(0)
    held = [package for package in wanted if state["packages"].get(package, ["", ""])[1] == "hold"]
    if held: sys.exit("E: Held packages were changed and -y was used without --allow-change-held-packages.")
    if state.get("breaks"):
        (folder / "apt.log").write_text("dpkg: error processing package h10-hailort-pcie-driver\\n"); sys.exit(100)
    for package, version in wanted.items(): state["packages"][package] = [version.rstrip("*"), "install"]
    for word in words:
        if word.endswith("-"): state["packages"].pop(word[:-1], None)
    save()
"""


class Host:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def set(self, **values: Any) -> None:
        self._write(self._read() | values)

    @property
    def packages(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = self._read()["packages"]
        return found

    @property
    def calls(self) -> list[str]:
        log = self._folder / "log"
        return log.read_text().splitlines() if log.exists() else []

    def _read(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self._folder / "state.json").read_text())
        return state

    def _write(self, state: dict[str, Any]) -> None:
        (self._folder / "state.json").write_text(json.dumps(state))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("apt-get", "dpkg", "dpkg-query", "systemctl", "systemd-run"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setattr(packages, "LOG", tmp_path / "apt.log")
    old = {"h10-hailort": ["5.1.1", "hold"], "h10-hailort-pcie-driver": ["5.1.1", "hold"], "bash": ["5", "install"]}
    (tmp_path / "state.json").write_text(json.dumps({"packages": old}))
    return Host(tmp_path)


def test_holds_alone_touch_no_apt(host: Host) -> None:
    done = packages.settle(hold=["bash"], release=["h10-hailort"])
    assert done == {"changed": True, "held": ["bash"], "released": ["h10-hailort"], "done": []}
    assert host.packages["bash"][1] == "hold"
    assert host.packages["h10-hailort"][1] == "install"
    assert not any(call.startswith("apt-get") for call in host.calls)


def test_f01_driver_and_library_move_in_one_call_and_are_held_again(host: Host) -> None:
    done = packages.settle(transactions=[HAT], locked=LOCKED)
    assert done["done"] == ["HAT: h10-hailort=5.2.0, h10-hailort-pcie-driver=5.2.0"]
    assert host.packages["h10-hailort"] == ["5.2.0", "hold"]
    assert host.packages["h10-hailort-pcie-driver"] == ["5.2.0", "hold"]
    installs = [call for call in host.calls if call.startswith("apt-get") and "--simulate" not in call]
    installs = [call for call in installs if " install " in call]
    assert len(installs) == 1
    assert "h10-hailort=5.2.0 h10-hailort-pcie-driver=5.2.0" in installs[0]


def test_f01_half_of_a_set_is_refused_before_anything_changes(host: Host) -> None:
    half = HAT | {"install": {"h10-hailort": "5.2.0"}}
    host.set(simulation="Remv h10-hailort-pcie-driver [5.1.1]\n")
    with pytest.raises(PackagesError, match="would remove h10-hailort-pcie-driver, which the lock names"):
        packages.settle(transactions=[half], locked=LOCKED)
    assert host.packages["h10-hailort"] == ["5.1.1", "hold"]


def test_a_removal_that_nobody_asked_for_is_refused(host: Host) -> None:
    host.set(simulation="Remv bash [5]\n")
    with pytest.raises(PackagesError, match="would remove bash"):
        packages.settle(transactions=[HAT], locked=LOCKED)


def test_f06_holds_come_back_where_apt_fails(host: Host) -> None:
    host.set(breaks=True)
    with pytest.raises(PackagesError, match="dpkg: error processing package h10-hailort-pcie-driver") as caught:
        packages.settle(transactions=[HAT], locked=LOCKED)
    assert host.packages["h10-hailort"] == ["5.1.1", "hold"]
    assert "dpkg --configure -a" in str(caught.value.next_step)


def test_f07_a_half_configured_package_stops_everything(host: Host) -> None:
    host.set(
        audit="The following packages are only half configured, probably due to problems\n"
        "configuring them the first time.  The configuration should be retried using\n"
        "dpkg --configure <package> or the configure menu option in dselect:\n"
        " h10-hailort-pcie-driver stand-in\n\n"
    )
    with pytest.raises(PackagesError, match="h10-hailort-pcie-driver not fully installed") as caught:
        packages.settle(transactions=[HAT], locked=LOCKED)
    assert "sudo dpkg --configure -a" in str(caught.value.next_step)
    assert not any(call.startswith("apt-get") for call in host.calls)


def test_a_full_disk_stops_everything(host: Host) -> None:
    with pytest.raises(PackagesError, match="MiB are free on /") as caught:
        packages.settle(transactions=[HAT], locked=LOCKED, free_mb={"/": 2**40})
    assert "apt-get clean" in str(caught.value.next_step)
    assert not any(call.startswith("apt-get") for call in host.calls)


@pytest.mark.parametrize(
    "said, next_step",
    [
        ("E: The repository is not signed: EXPKEYSIG 24072B80A1B29B00 Mender Team", "F25"),
        ("E: Failed to fetch https://downloads.example/repos/debian/dists/stable/InRelease  403  Forbidden", "F25"),
        ("E: Failed to fetch http://a.example/InRelease  Could not resolve 'a.example'", "sudo apt-get update"),
    ],
)
def test_f25_an_archive_that_moved_or_whose_key_is_over_is_named(host: Host, said: str, next_step: str) -> None:
    host.set(update=said)
    with pytest.raises(PackagesError, match="does not answer as it should") as caught:
        packages.settle(transactions=[HAT], locked=LOCKED)
    assert next_step in str(caught.value.next_step)
    assert host.packages["h10-hailort"] == ["5.1.1", "hold"]


def test_a_check_changes_nothing_and_says_what_would_come(host: Host) -> None:
    before = host.packages
    done = packages.settle(hold=["bash"], transactions=[HAT], locked=LOCKED, check=True)
    assert done["changed"]
    assert done["done"] == ["HAT: h10-hailort=5.2.0, h10-hailort-pcie-driver=5.2.0"]
    assert host.packages == before
    assert not any("update" in call for call in host.calls)


def test_a_version_that_the_archive_has_not_is_refused_and_in_a_check_may_be_to_come(host: Host) -> None:
    host.set(unknown="E: Version '5.2.0' for 'h10-hailort' was not found")
    assert packages.settle(transactions=[HAT], locked=LOCKED, check=True)["changed"]
    with pytest.raises(PackagesError, match="was not found") as caught:
        packages.settle(transactions=[HAT], locked=LOCKED)
    assert "apt-cache policy h10-hailort" in str(caught.value.next_step)


def test_apt_s_simulation_is_read() -> None:
    installs, removals = packages.parse_simulation(SIMULATION)
    assert installs["linux-image-rpi-2712"] == "1:6.18.50-1+rpt1"
    assert installs["linux-image-6.18.50+rpt-rpi-2712"] == "1:6.18.50-1+rpt1"
    assert removals == ["linux-image-6.18.55+rpt-rpi-2712"]


def test_what_was_asked_to_go_is_no_objection() -> None:
    back = {"name": "kernel", "install": {"linux-image-rpi-2712": "1"}, "remove": ["linux-image-6.18.55+rpt-rpi-2712"]}
    locked = {"linux-image-rpi-2712": "1", "dkms": "3"}
    assert packages.objections([back], locked, {"linux-image-rpi-2712": "1"}, back["remove"]) == []
    assert packages.objections([back], locked, {"dkms": "4"}, []) == ["it would bring dkms to 4, the lock says 3"]


def test_a_rebuild_is_the_version() -> None:
    assert packages.same("3.4.0+ds1-5", "3.4.0+ds1-5+b15")
    assert not packages.same("3.4.0+ds1-5", "3.4.0+ds1-50")
