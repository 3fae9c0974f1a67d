"""A HAT from card to answer on an emulated host of its own: what apt, dkms, boots and resets make of it.

What the role decides from these facts is tested without a host; what it does is Molecule's scenario ``hat``.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from hedgerow import inventory as inventories
from hedgerow import remote_script
from hedgerow.device import hat_chain
from hedgerow.emulator import checks
from hedgerow.emulator.fleet import EmulatedFleet

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.skipif(os.geteuid() != 0, reason="emulated hosts are root's containers: run with sudo"),
]

PI, NOW, NEXT = "pi-hatch-1", "6.18.50", "6.18.55"
SOURCE = "/etc/apt/sources.list.d/raspi.sources"
RULES = "/etc/udev/rules.d/99-hailo.rules"
REPOSITORY = Path(__file__).parents[2]
HOSTS = """\
pis:
  hosts:
    pi-hatch-1: {ansible_host: 10.179.0.11, pi_serial: e0d1c2b3a4951791, hat: hat-plus-2}
site_orchard:
  hosts: {pi-hatch-1: }
"""


class Pi:
    """The host, as a shell that asks nothing, and as its controller sees it."""

    def __init__(self, fleet: EmulatedFleet) -> None:
        self.fleet = fleet

    def __call__(self, command: str) -> Any:
        return self.fleet.exec(PI, ["sh", "-c", f"export DEBIAN_FRONTEND=noninteractive\n{command}"])

    def apt(self, arguments: str) -> str:
        done = self(f"apt-get --yes --quiet --allow-change-held-packages {arguments} 2>&1")
        assert done.returncode == 0, done.stdout
        return str(done.stdout)

    def reboot(self) -> None:
        boot = self("stat -c %Y /proc/1").stdout
        self("systemctl reboot")
        deadline = time.monotonic() + 120
        while (
            self("systemctl is-system-running").stdout.strip() != "running" or self("stat -c %Y /proc/1").stdout == boot
        ):
            assert time.monotonic() < deadline, "never: the host came back by itself"
            time.sleep(0.2)

    def call(self, module: str, function: str = "read", **arguments: Any) -> Any:
        program = remote_script.build(f"hedgerow.device.{module}", function, **arguments)
        done = self.fleet.exec(PI, ["python3", "-c", program])
        assert done.returncode == 0, done.stderr
        return remote_script.parse(done.stdout, host=PI)

    def chain(self, group: str | None = None) -> dict[str, Any]:
        return hat_chain.prove(self.call("hardware"), self.call("npu"), group=group)

    def verdict(self) -> tuple[str | None, str | None]:
        found = self.chain()
        return found["broken"], found["failure"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory):
    checks.require()
    folder = tmp_path_factory.mktemp("fleet") / "inventory"
    shutil.copytree(REPOSITORY / "inventory" / "emulated", folder)
    for file in folder.rglob("*.yml"):
        text = file.read_text().replace("10.77.0.", "10.179.0.").replace("fleet: meadow", "fleet: test-hat")
        file.write_text(text)
    (folder / "hosts.yml").write_text(HOSTS)
    fleet = EmulatedFleet(inventories.load(folder))
    fleet.build_images()
    yield fleet
    fleet.down()


@pytest.fixture
def bare(fleet: EmulatedFleet) -> Pi:
    """A host as the imager leaves it, with the vendor's archive as its only source."""
    with fleet.podman.session():
        fleet.hosts[PI].remove()
    fleet.up()
    pi = Pi(fleet)
    pi("rm -f /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources")
    pi.apt("update")
    return pi


@pytest.fixture
def pi(bare: Pi) -> Pi:
    """The same with its stack installed and its driver loaded."""
    bare.apt("install dkms")
    bare.apt("install hailo-h10-all")
    assert bare("modprobe hailo1x_pci").returncode == 0
    assert bare.chain()["ok"], bare.chain()["text"]
    return bare


def test_a_driver_that_was_just_installed_works_without_a_reboot(pi: Pi) -> None:
    found = pi.chain()
    assert found["text"].startswith("HAILO10H, driver 5.1.1, library 5.1.1, firmware 5.1.1, /dev/hailo0")
    json.dumps(found)


def test_f05_the_other_chip_s_stack_installs_cleanly_and_never_binds(bare: Pi) -> None:
    bare.apt("install dkms hailo-all")
    bare.reboot()
    assert bare.verdict() == ("driver_built", "F5")
    bare.apt("purge hailo-all hailort hailort-pcie-driver python3-hailort")
    bare.apt("install hailo-h10-all")
    bare("modprobe hailo1x_pci")
    assert bare.chain()["ok"]


def test_f06_a_kernel_without_headers_has_no_driver_until_they_come(pi: Pi) -> None:
    pi(f"sed -i 's/^Suites:.*/Suites: trixie trixie-next/' {SOURCE}")
    pi.apt("update")
    pi.apt("install linux-image-rpi-2712")
    assert pi.call("npu")["kernels"][f"{NEXT}+rpt-rpi-2712"]["headers"] is False
    pi.reboot()
    assert pi.verdict() == ("driver_built", "F6")
    pi.apt("install linux-headers-rpi-2712")
    assert pi.call("npu", "load", driver="hailo1x_pci")["node"] == "/dev/hailo0"
    assert pi.chain()["ok"]


def test_f06_a_driver_that_came_before_dkms_is_not_built(bare: Pi) -> None:
    bare.apt("install hailo-h10-all")
    bare.apt("install dkms")
    assert bare.verdict() == ("driver_built", "F6")
    bare.apt("install --reinstall h10-hailort-pcie-driver")
    bare("modprobe hailo1x_pci")
    assert bare.chain()["ok"]


def test_f07_f10_f21_f42_the_newer_set_with_everything_that_happens_on_the_way(pi: Pi) -> None:
    """5.3.0 does not build on this kernel; repaired, it renames the node, and finds the old firmware on the chip."""
    pi(f"sed -i 's/^Suites:.*/Suites: trixie trixie-next/' {SOURCE}")
    pi.apt("update")
    broken = pi("apt-get --yes --quiet install hailort=5.3.0 h10-hailort-pcie-driver=5.3.0 2>&1")
    assert broken.returncode != 0
    assert "h10-hailort-pcie-driver" in pi("dpkg --audit").stdout
    assert "del_timer_sync" in pi("cat /var/lib/dkms/hailo1x_pci/5.3.0/build/make.log").stdout
    pi("sed -i s/del_timer_sync/timer_delete_sync/ /usr/src/hailo1x_pci-5.3.0/linux/vdma/monitor.c")
    assert pi("dpkg --configure -a").returncode == 0
    # The old one runs on: what is loaded is not what is installed.
    assert pi.verdict() == ("driver_loaded", "F3")
    pi.reboot()
    found = pi.chain(group="hailo")
    assert (found["broken"], found["failure"]) == ("node", "F42")
    assert pi("stat -c '%a %n' /dev/h1x-0").stdout == "600 /dev/h1x-0\n"
    pi(f'groupadd --system hailo; echo \'SUBSYSTEM=="hailo1x", MODE="0660", GROUP="hailo"\' > {RULES}')
    pi.call("npu", "apply_rules")
    found = pi.chain(group="hailo")
    assert (found["broken"], found["failure"]) == ("firmware", "F10")
    assert "firmware 5.1.1 still runs on the chip, the driver is 5.3.0" in found["text"]
    # A warm reboot does not help; power does.
    pi.reboot()
    assert pi.verdict() == ("firmware", "F10")
    pi.fleet.power(PI, "cycle")
    assert pi.chain(group="hailo")["text"].startswith(
        "HAILO10H, driver 5.3.0, library 5.3.0, firmware 5.3.0, /dev/h1x-0"
    )


def test_f08_f10_a_reset_on_the_bus_does_what_power_does_and_keeps_the_logs(pi: Pi) -> None:
    pi("printf '5.0.0\\n' > /var/lib/emulated-pi/npu-firmware")
    assert pi.verdict() == ("firmware", "F10")
    done = pi.call("npu", "recover", driver="hailo1x_pci", reset=True)
    assert done["node"] == "/dev/hailo0"
    assert "Added board" in pi(f"cat {done['logs']}/kernel.log").stdout
    assert pi.chain()["ok"]


@pytest.mark.parametrize(
    "fault, link, failure",
    [("firmware-timeout", "bound", "F9"), ("no-msi", "bound", "F39")],
)
def test_f09_f39_a_start_that_fails_is_explained_by_what_the_driver_said(pi: Pi, fault, link, failure) -> None:
    pi.fleet.set_values(PI, hat_fault=fault)
    pi.fleet.power(PI, "cycle")
    assert pi.verdict() == (link, failure)
    pi.fleet.set_values(PI, hat_fault="none")
    pi.fleet.power(PI, "cycle")
    assert pi.chain()["ok"]


def test_f04_an_old_copy_of_the_other_driver_takes_the_class(pi: Pi) -> None:
    """Driver 4.20, which was in Raspberry Pi's kernels, claimed this chip, too."""
    source = "/usr/src/hailo_pci-4.20.0"
    pi(f"cp -r /usr/src/hailo1x_pci-5.1.1 {source}")
    pi(f"sed -i 's/hailo1x_pci/hailo_pci/; s/5.1.1/4.20.0/' {source}/dkms.conf")
    assert pi("dkms install hailo_pci/4.20.0").returncode == 0
    pi.reboot()
    assert pi.verdict() == ("driver_alone", "F4")
    pi("echo 'blacklist hailo_pci' > /etc/modprobe.d/hedgerow-hat.conf")
    pi.reboot()
    found = pi.chain()
    assert found["ok"]
    assert [(entry["link"], entry["failure"]) for entry in found["warnings"]] == [("driver_alone", "F3")]


def test_f41_an_install_line_keeps_the_right_driver_out_until_it_is_taken_out(pi: Pi) -> None:
    pi("echo 'install hailo1x_pci /bin/false' > /etc/modprobe.d/old.conf")
    pi.reboot()
    assert pi.verdict() == ("driver_loaded", "F41")
    lines = pi.call("npu")["modprobe"]["install_lines"]
    assert pi.call("npu", "clean", install_lines=lines)["changed"] is True
    assert pi.call("npu", "load", driver="hailo1x_pci")["node"] == "/dev/hailo0"
    assert pi.chain()["ok"]


def test_f30_a_header_that_is_not_seated_is_a_warning_with_what_to_do(pi: Pi) -> None:
    pi.fleet.set_values(PI, hat_eeprom=False, link_speed_gts="5.0")
    found = pi.chain()
    assert found["ok"]
    assert {(entry["link"], entry["failure"]) for entry in found["warnings"]} == {("eeprom", "F30"), ("link", "F30")}


def test_f01_a_library_of_another_version_is_refused_by_every_call(pi: Pi) -> None:
    pi.fleet.set_values(PI, library_version="5.2.0")
    assert pi.verdict() == ("versions", "F1")


def test_f19_a_chip_in_use_is_no_fault(pi: Pi) -> None:
    pi.fleet.set_values(PI, hat_fault="in-use")
    found = pi.chain()
    assert found["ok"]
    assert [entry["failure"] for entry in found["warnings"]] == ["F19"]  # nobody has the node open here
