"""What a host's driver stack is, read from files as a host has them; recovery on an emulated chip."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hedgerow.device import npu

NOW = "6.18.50+rpt-rpi-2712"
DEP = """\
kernel/drivers/media/pci/hailo/hailo_pci.ko.xz:
kernel/net/ipv4/tcp_bbr.ko.xz: kernel/net/x.ko
updates/dkms/hailo1x_pci.ko.xz:
"""


class Host:
    """A guest with its own programs, and folders of ours in the places where ``npu`` looks."""

    def __init__(self, guest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.guest, self.folder = guest, tmp_path
        for name in ("MODULES", "DKMS", "FIRMWARE", "LOGS"):
            monkeypatch.setattr(npu, name, tmp_path / name.lower())
        monkeypatch.setattr(npu, "MODPROBE_D", (tmp_path / "etc", tmp_path / "usr"))
        monkeypatch.setattr(npu, "ROOT_FILE", tmp_path / "hardware-root")
        (tmp_path / "hardware-root").write_text(f"{guest.hardware}\n")
        monkeypatch.delenv("HEDGEROW_HARDWARE_ROOT", raising=False)
        (guest.hardware / "proc/sys/kernel").mkdir(parents=True, exist_ok=True)
        (guest.hardware / "proc/sys/kernel/osrelease").write_text(f"{NOW}\n")
        # modprobe and modinfo as a host's PATH has them: the first is the guest's, which asks kmod for the rest.
        (guest.folder / "bin/modprobe").write_text(f'#!/bin/sh\nexec "{guest.folder}/bin/npu" modprobe "$@"\n')
        (guest.folder / "bin/modprobe").chmod(0o755)
        monkeypatch.setenv("PATH", f"{guest.path}{os.pathsep}{os.defpath}")

    def kernel(self, name: str, dep: str = DEP, *, headers: bool = True) -> None:
        folder = self.folder / "modules" / name
        (folder / ("build/include" if headers else ".")).mkdir(parents=True, exist_ok=True)
        (folder / "modules.dep").write_text(dep)


@pytest.fixture
def host(hat_guest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    guest = hat_guest("hat-plus-2")
    guest.install("hailo1x_pci", "5.1.1")
    guest.boot()
    return Host(guest, monkeypatch, tmp_path)


def test_what_is_read_is_json_and_names_the_chip(host: Host) -> None:
    host.kernel(NOW)
    seen = npu.read()
    json.dumps(seen)
    assert (seen["address"], seen["device"], seen["kernel"]) == ("0001:01:00.0", "0x45c4", NOW)
    assert seen["loaded"]["hailo1x_pci"]["version"] == "5.1.1"
    assert seen["resettable"] is True
    assert any("Firmware loaded in 6504 ms" in line for line in seen["log"])


def test_keys_are_the_same_without_a_hat(host: Host, hat_guest, tmp_path: Path) -> None:
    with_hat = npu.read()
    (tmp_path / "nothing").mkdir()
    without = npu.read(str(tmp_path / "nothing"))
    assert without.keys() == with_hat.keys()
    assert (without["device"], without["loaded"], without["nodes"], without["log"]) == (None, {}, [], [])


def test_f06_a_kernel_without_headers_is_seen_before_it_boots(host: Host) -> None:
    host.kernel(NOW)
    host.kernel("6.18.55+rpt-rpi-2712", "kernel/net/x.ko:\n", headers=False)
    assert npu.read()["kernels"] == {
        NOW: {
            "headers": True,
            "modules": {
                "hailo_pci": "kernel/drivers/media/pci/hailo/hailo_pci.ko.xz",
                "hailo1x_pci": "updates/dkms/hailo1x_pci.ko.xz",
            },
        },
        "6.18.55+rpt-rpi-2712": {"headers": False, "modules": {}},
    }


def test_dkms_states_are_read_from_its_folders(host: Host) -> None:
    tree = host.folder / "dkms/hailo1x_pci/5.1.1"
    for kernel in (NOW, "6.18.55+rpt-rpi-2712"):
        (tree / kernel / "aarch64/module").mkdir(parents=True)
        (tree / kernel / "aarch64/module/hailo1x_pci.ko.xz").touch()
    (tree / "source").symlink_to("/usr/src/hailo1x_pci-5.1.1")
    installed = host.folder / "modules" / NOW / "updates/dkms"
    installed.mkdir(parents=True)
    (installed / "hailo1x_pci.ko.xz").touch()
    assert npu.read()["dkms"] == {"hailo1x_pci/5.1.1": {NOW: "installed", "6.18.55+rpt-rpi-2712": "built"}}


def test_f41_install_lines_are_found_and_comments_are_not() -> None:
    found = npu.parse_modprobe(
        {
            "/etc/modprobe.d/a.conf": "# install hailo1x_pci /bin/false\n"
            "install hailo1x-pci /bin/false\ninstall dccp /bin/true\n",
            "/etc/modprobe.d/b.conf": "blacklist hailo_pci\n"
            "options hailo1x_pci force_desc_page_size=4096 no_power_mode=1\n",
        }
    )
    assert found == {
        "blacklisted": ["hailo_pci"],
        "install_lines": [
            {"path": "/etc/modprobe.d/a.conf", "module": "hailo1x_pci", "line": "install hailo1x-pci /bin/false"}
        ],
        "options": {"hailo1x_pci": {"force_desc_page_size": "4096", "no_power_mode": "1"}},
    }


def test_f41_they_are_taken_out_and_other_lines_stay(host: Host) -> None:
    file = host.folder / "etc/old.conf"
    file.parent.mkdir()
    file.write_text("options snd index=1\ninstall hailo1x_pci /bin/false\n")
    lines = npu.read()["modprobe"]["install_lines"]
    assert npu.clean(install_lines=lines)["removed"] == [f"{file}: install hailo1x_pci /bin/false"]
    assert file.read_text() == "options snd index=1\n"
    assert npu.clean() == {"changed": False, "removed": []}


def test_the_first_folder_s_file_of_one_name_counts(host: Host) -> None:
    for folder, text in {"etc": "blacklist hailo_pci\n", "usr": "install hailo_pci /bin/false\n"}.items():
        (host.folder / folder).mkdir()
        (host.folder / folder / "hailo.conf").write_text(text)
    assert npu.read()["modprobe"] == {"blacklisted": ["hailo_pci"], "install_lines": [], "options": {}}


def test_f03_f04_a_stray_module_goes_and_one_of_a_package_is_refused(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    stray = host.folder / "modules" / NOW / "extra/hailo_pci.ko"
    built = host.folder / "modules" / NOW / "updates/dkms/hailo_pci.ko.xz"
    for file in (stray, built):
        file.parent.mkdir(parents=True)
        file.touch()
    asked: list[tuple[str, ...]] = []
    run = npu._run
    monkeypatch.setattr(npu, "_run", lambda *command, **more: asked.append(command) or run("true", **more))
    assert npu.clean(stray=[str(stray)])["removed"] == [str(stray)]
    assert ("depmod", NOW) in asked
    with pytest.raises(npu.NpuError, match="belongs to dkms"):
        npu.clean(stray=[str(built)])
    assert built.exists()


def test_the_kernel_s_log_is_cut_to_what_concerns_the_hat() -> None:
    records = (
        "6,1,100,-;brcm-pcie 1000110000.pcie: link up, 8.0 GT/s PCIe x1\n SUBSYSTEM=pci\n"
        "5,2,200,-;usb 1-1: new device\n3,3,300,-;hailo1x 0001:01:00.0: Failed to enable MSI -28\n"
    )
    assert npu.parse_kernel_log(records) == [
        "brcm-pcie 1000110000.pcie: link up, 8.0 GT/s PCIe x1",
        "hailo1x 0001:01:00.0: Failed to enable MSI -28",
    ]


def test_f20_memory_for_devices_is_read_in_kb() -> None:
    assert npu.parse_cma("CmaTotal:         262144 kB\nCmaFree:           98304 kB\n") == {
        "total_kb": 262144,
        "free_kb": 98304,
    }
    assert npu.parse_cma("MemTotal: 1 kB\n") == {"total_kb": None, "free_kb": None}


def test_f19_who_has_the_node_open(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu, "NODES", ("null",))
    (host.guest.hardware / "dev/null").touch()
    with Path("/dev/null").open("rb"):
        owners = npu.read()["owners"]
    assert os.getpid() in {owner["pid"] for owner in owners}


def test_f10_a_reset_loads_the_installed_firmware(host: Host) -> None:
    host.guest.latch.write_text("5.0.0\n")
    done = npu.recover("hailo1x_pci", reset=True)
    assert (done["changed"], done["node"]) == (True, "/dev/hailo0")
    assert host.guest.latch.read_text() == "5.1.1\n"
    assert any("Firmware loaded in 6504 ms" in line for line in done["log"])


def test_f10_a_reload_alone_does_not(host: Host) -> None:
    host.guest.latch.write_text("5.0.0\n")
    npu.recover("hailo1x_pci")
    assert host.guest.latch.read_text() == "5.0.0\n"


def test_f08_the_chip_s_logs_are_kept_before_it_is_reset(host: Host) -> None:
    logs = Path(npu.recover("hailo1x_pci", reset=True)["logs"])
    assert {file.name for file in logs.iterdir()} == {"kernel.log", "runtime.log", "system_control.log", "nnc.log"}
    assert "Added board" in (logs / "kernel.log").read_text()
    assert "emulated runtime log" in (logs / "runtime.log").read_text()


def test_a_chip_that_fell_off_the_bus_is_refused(host: Host) -> None:
    host.guest.set(hat_present="false")
    with pytest.raises(npu.NpuError, match="no Hailo device") as caught:
        npu.recover("hailo1x_pci", reset=True)
    assert "power" in str(caught.value.next_step)


def test_a_device_without_a_reset_asks_for_a_cold_cycle(host: Host) -> None:
    (host.guest.hardware / "sys/bus/pci/devices/0001:01:00.0/reset").unlink()
    with pytest.raises(npu.NpuError, match="offers no reset"):
        npu.recover("hailo1x_pci", reset=True)


def test_an_owner_that_is_no_service_is_not_killed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu, "_owners", lambda base: [{"pid": 4711, "program": "python3", "unit": None}])
    with pytest.raises(npu.NpuError, match=r"in use by python3 \(pid 4711\)"):
        npu.recover("hailo1x_pci", reset=True)


def test_services_that_have_it_open_are_started_again_whatever_happens(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npu, "_owners", lambda base: [{"pid": 1, "program": "x", "unit": "hedgerow-server.service"}])
    asked: list[tuple[str, ...]] = []

    def quiet(*command: str) -> None:
        asked.append(command)
        if command[:2] == ("modprobe", "-r"):
            raise npu.NpuError("busy")

    monkeypatch.setattr(npu, "_quiet", quiet)
    with pytest.raises(npu.NpuError, match="busy"):
        npu.recover("hailo1x_pci", reset=True)
    assert asked[0] == ("systemctl", "stop", "hedgerow-server.service")
    assert asked[-1] == ("systemctl", "start", "hedgerow-server.service")


def test_f07_a_driver_that_does_not_build_names_its_log(host: Host) -> None:
    program = host.guest.folder / "bin/dkms"
    program.write_text("#!/bin/sh\necho 'Error! Bad return status for module build on kernel: X' >&2\nexit 10\n")
    program.chmod(0o755)
    with pytest.raises(npu.NpuError, match=r"does not build for 6\.18\.55.*F7"):
        npu.build(["6.18.55+rpt-rpi-2712"])


def test_a_driver_that_cannot_be_loaded_is_left_to_the_proof(host: Host) -> None:
    host.guest.npu("rmmod", "hailo1x_pci")
    assert npu.load("hailo1x_pci")["node"] == "/dev/hailo0"
    program = host.guest.folder / "bin/modprobe"
    program.write_text("#!/bin/sh\necho 'modprobe: ERROR' >&2\nexit 1\n")
    assert npu.load("hailo1x_pci") == {"changed": False, "node": None, "said": "modprobe: ERROR"}
