"""The archive of emulated hosts, on a host of its own: apt's trust, the stacks' conflict, kernels across a reboot."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from hedgerow import inventory as inventories
from hedgerow.emulator import checks
from hedgerow.emulator.archive.repository import FOLDER, KEYRING
from hedgerow.emulator.fleet import EmulatedFleet

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.nightly,  # a stand-in is under test here; every other scenario installs from it
    pytest.mark.skipif(os.geteuid() != 0, reason="emulated hosts are root's containers: run with sudo"),
]

PI = "pi-hill-1"
OLD, NOW, NEXT = "6.18.34", "6.18.50", "6.18.55"
SOURCE = "/etc/apt/sources.list.d/raspi.sources"
REPOSITORY = Path(__file__).parents[2]
HOSTS = """\
pis:
  hosts:
    pi-hill-1: {ansible_host: 10.178.0.11, pi_serial: e0d1c2b3a4951781, hat: hat-plus-2}
site_orchard:
  hosts: {pi-hill-1: }
"""


class Pi:
    """The host, as a shell that asks nothing."""

    def __init__(self, fleet: EmulatedFleet) -> None:
        self.fleet = fleet

    def __call__(self, command: str) -> subprocess.CompletedProcess[str]:
        return self.fleet.exec(PI, ["sh", "-c", f"export DEBIAN_FRONTEND=noninteractive\n{command}"])

    def apt(self, arguments: str) -> str:
        done = self(f"apt-get --yes --quiet --allow-downgrades --allow-change-held-packages {arguments} 2>&1")
        assert done.returncode == 0, done.stdout
        return done.stdout

    def kernel(self) -> str:
        return self("cat /hardware/proc/sys/kernel/osrelease").stdout.strip()

    def reboot(self) -> None:
        boot = self("stat -c %Y /proc/1").stdout
        self("systemctl reboot")
        deadline = time.monotonic() + 120
        while (
            self("systemctl is-system-running").stdout.strip() != "running" or self("stat -c %Y /proc/1").stdout == boot
        ):
            assert time.monotonic() < deadline, "never: the host came back by itself"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory):
    checks.require()
    folder = tmp_path_factory.mktemp("fleet") / "inventory"
    shutil.copytree(REPOSITORY / "inventory" / "emulated", folder)
    for file in folder.rglob("*.yml"):
        text = file.read_text().replace("10.77.0.", "10.178.0.").replace("fleet: meadow", "fleet: test-archive")
        file.write_text(text)
    (folder / "hosts.yml").write_text(HOSTS)
    fleet = EmulatedFleet(inventories.load(folder))
    fleet.build_images()
    yield fleet
    fleet.down()


@pytest.fixture
def new_pi(fleet: EmulatedFleet) -> Pi:
    """A host on which nothing was done yet."""
    with fleet.podman.session():
        fleet.hosts[PI].remove()
    fleet.up()
    return Pi(fleet)


def only_ours(pi: Pi) -> None:
    """Leave the vendor's archive as the only source: no test shall depend on a mirror being reachable."""
    pi("rm -f /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources")


def test_a_new_host_is_what_raspberry_pi_os_lite_is(new_pi: Pi) -> None:
    names = new_pi("dpkg-query -W -f '${Package} ${Version}\\n'").stdout
    for flavour in ("rpi-2712", "rpi-v8"):
        for kind in ("image", "headers"):
            assert f"linux-{kind}-{flavour} 1:{NOW}-1+rpt1\n" in names
            assert f"linux-{kind}-{NOW}+rpt-{flavour} 1:{NOW}-1+rpt1\n" in names
    assert "\nraspi-firmware 1:" in names
    assert "\nrpi-eeprom " in names
    assert "dkms" not in names
    assert "hailo" not in names
    assert new_pi.kernel() == f"{NOW}+rpt-rpi-2712"


def test_the_stack_of_the_hat_installs_from_the_signed_archive(new_pi: Pi) -> None:
    only_ours(new_pi)
    new_pi.apt("update -o APT::Update::Error-Mode=any")
    new_pi.apt("install dkms")
    new_pi.apt("install hailo-h10-all")
    policy = new_pi("apt-cache policy").stdout
    assert "release o=Raspberry Pi Foundation,a=stable,n=trixie,l=Raspberry Pi Foundation,c=main" in policy
    assert f"hailo1x_pci/5.1.1, {NOW}+rpt-rpi-2712, aarch64: installed" in new_pi("dkms status").stdout
    assert new_pi(f"modinfo -k {NOW}+rpt-rpi-2712 -F version hailo1x_pci").stdout == "5.1.1\n"
    # The metapackages exclude each other, so one goes when the other comes.
    assert "Remv hailo-h10-all" in new_pi.apt("--simulate install hailo-all")
    assert new_pi("apt-get --simulate install hailo-h10-all hailo-all").returncode != 0


def test_what_is_not_signed_by_the_archives_key_is_refused(new_pi: Pi) -> None:
    only_ours(new_pi)
    release = "/srv/archive/dists/trixie/InRelease"
    new_pi(f"cp -r /{FOLDER} /srv/archive && sed -i 's,^URIs:.*,URIs: file:/srv/archive,' {SOURCE}")
    new_pi.apt("update -o APT::Update::Error-Mode=any")
    new_pi(f"sed -i 's/^Label: .*/Label: Somebody else/' {release}; rm -f /srv/archive/dists/trixie/Release*")
    changed = new_pi("apt-get update -o APT::Update::Error-Mode=any 2>&1")
    assert changed.returncode != 0
    assert "signature" in changed.stdout.lower()
    # Another key under the right name: the signature is whole, and not the archive's.
    debians = "/usr/share/keyrings/debian-archive-keyring.pgp"
    swapped = new_pi(f"cp /{FOLDER}/dists/trixie/InRelease {release} && cp {debians} /{KEYRING}")
    assert swapped.returncode == 0, swapped.stderr
    assert new_pi("apt-get update -o APT::Update::Error-Mode=any 2>&1").returncode != 0


def test_a_package_that_differs_from_its_sum_is_refused(new_pi: Pi) -> None:
    only_ours(new_pi)
    new_pi(f"cp -r /{FOLDER} /srv/archive && sed -i 's,^URIs:.*,URIs: file:/srv/archive,' {SOURCE}")
    new_pi.apt("update")
    new_pi("printf x >> /srv/archive/pool/main/dkms_3.2.2-1~deb13u1+emulated1_all.deb")
    assert new_pi("apt-get --yes install dkms 2>&1").returncode != 0
    assert new_pi("dpkg -s dkms").returncode != 0


def test_a_new_kernel_waits_for_the_reboot_and_has_the_driver(new_pi: Pi) -> None:
    only_ours(new_pi)
    new_pi.apt("update")
    new_pi.apt("install dkms hailo-h10-all")
    new_pi(f"sed -i 's/^Suites:.*/Suites: trixie trixie-next/' {SOURCE}")
    new_pi.apt("update")
    new_pi.apt("install linux-image-rpi-2712 linux-headers-rpi-2712")
    assert new_pi.kernel() == f"{NOW}+rpt-rpi-2712"
    new_pi.reboot()
    assert new_pi.kernel() == f"{NEXT}+rpt-rpi-2712"
    assert new_pi("cat /run/emulated-pi/boot").stdout == "warm\n"
    assert f"hailo1x_pci/5.1.1, {NEXT}+rpt-rpi-2712, aarch64: installed" in new_pi("dkms status").stdout


def test_the_older_kernel_comes_back_by_version(new_pi: Pi) -> None:
    only_ours(new_pi)
    new_pi.apt("update")
    new_pi.apt(f"install linux-image-rpi-2712=1:{OLD}-1+rpt1 linux-headers-rpi-2712=1:{OLD}-1+rpt1")
    new_pi.reboot()
    assert new_pi.kernel() == f"{NOW}+rpt-rpi-2712"  # the newest that is installed
    new_pi.apt(f"remove linux-image-{NOW}+rpt-rpi-2712")
    new_pi("/etc/kernel/postinst.d/z50-raspi-firmware")
    new_pi.reboot()
    assert new_pi.kernel() == f"{OLD}+rpt-rpi-2712"


def test_a_kernel_without_headers_loses_the_driver_silently(new_pi: Pi) -> None:
    """What F6 is made of: apt reports success."""
    only_ours(new_pi)
    new_pi.apt("update")
    new_pi.apt("install dkms hailo-h10-all")
    new_pi(f"sed -i 's/^Suites:.*/Suites: trixie trixie-next/' {SOURCE}")
    new_pi.apt("update")
    assert "headers are missing" in new_pi.apt("install linux-image-rpi-2712")
    assert NEXT not in new_pi("dkms status").stdout
    # The headers' own hook builds it later.
    new_pi.apt("install linux-headers-rpi-2712")
    assert f"hailo1x_pci/5.1.1, {NEXT}+rpt-rpi-2712, aarch64: installed" in new_pi("dkms status").stdout


def test_the_other_flavour_is_one_line_of_config_txt_away(new_pi: Pi) -> None:
    new_pi("printf 'kernel=kernel8.img\\n' >> /boot/firmware/config.txt")
    new_pi.reboot()
    assert new_pi.kernel() == f"{NOW}+rpt-rpi-v8"


def test_a_live_value_overrides_the_kernel(new_pi: Pi) -> None:
    new_pi.fleet.set_values(PI, kernel_release=f"{OLD}+rpt-rpi-2712")
    assert new_pi.kernel() == f"{OLD}+rpt-rpi-2712"
    new_pi.reboot()
    assert new_pi.kernel() == f"{OLD}+rpt-rpi-2712"
    new_pi.fleet.set_values(PI, kernel_release=None)
    new_pi.reboot()
    assert new_pi.kernel() == f"{NOW}+rpt-rpi-2712"


def test_power_makes_a_cold_boot_and_a_reboot_a_warm_one(new_pi: Pi) -> None:
    assert new_pi("cat /run/emulated-pi/boot").stdout == "cold\n"
    new_pi.reboot()
    assert new_pi("cat /run/emulated-pi/boot").stdout == "warm\n"
    new_pi.fleet.power(PI, "cycle")
    assert new_pi("cat /run/emulated-pi/boot").stdout == "cold\n"
