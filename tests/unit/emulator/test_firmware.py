"""The stand-ins of the bootloader and its tools, run as they are, on a board below a folder."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hedgerow.emulator import eeprom
from hedgerow.emulator import values as live
from hedgerow.emulator.board import Board
from hedgerow.emulator.hardware_root import HardwareRoot

GUEST = Path(eeprom.__file__).parent / "guest"
PROGRAMS = {
    "firmware": GUEST / "image/usr/lib/emulated-pi/power-on.d/10-firmware",
    "vcgencmd": GUEST / "image/usr/bin/vcgencmd",
    **{name: GUEST / "eeprom" / name for name in ("rpi-eeprom-config", "rpi-eeprom-update", "rpi-bootloader-version")},
}
CONFIG = "dtparam=audio=on\n[cm5]\ncmdline=other.txt\n[all]\n"
OLD, NEW = "2025-05-08", "2026-05-26"


class Pi:
    def __init__(self, folder: Path, board: Board) -> None:
        self.root = HardwareRoot(folder / "state", board)
        self.root.create(live.defaults("none", "active"), "key")
        self.hardware, self.boot = self.root.path, folder / "boot"
        (folder / "vcio_gencmd").touch()
        images = folder / "images-2712/default"
        for path in (self.boot, folder / "run", folder / "bin", images):
            path.mkdir(parents=True)
        self.defaults = folder / "default"
        self.set()
        (images / f"pieeprom-{NEW}.bin").write_bytes(eeprom.image(NEW, mfg_version=1))
        self.image = images / f"pieeprom-{NEW}.bin"
        places = {
            "/usr/bin/python3": sys.executable,
            '"/hardware': f'"{self.hardware}',
            '"/boot/firmware"': f'"{self.boot}"',
            '"/run/emulated-pi': f'"{folder / "run"}',
            '"/etc/default/rpi-eeprom-update"': f'"{self.defaults}"',
            '"/dev/vcio_gencmd"': f'"{folder / "vcio_gencmd"}"',
            "/var/lib/raspberrypi": str(folder / "var"),
        }
        for name, source in PROGRAMS.items():
            text = source.read_text()
            for old, new in places.items():
                text = text.replace(old, new)
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        self.folder = folder
        (self.boot / "config.txt").write_text(CONFIG)
        (self.boot / "cmdline.txt").write_text("root=/dev/mmcblk0p2\n")

    def set(self, **more: str) -> None:
        given = {"FIRMWARE_ROOT": str(self.defaults.parent / "images"), "FIRMWARE_RELEASE_STATUS": "default", **more}
        self.defaults.write_text("".join(f'{key}="{value}"\n' for key, value in given.items()))

    def run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"},
        )

    def power_on(self, *, cold: bool = False, argument: str | None = None) -> None:
        if cold:
            self.root.mark_cold_boot()
        if argument is not None:
            (self.hardware / "power").mkdir(exist_ok=True)
            (self.hardware / "power/reboot-param").write_text(argument)
        done = self.run("firmware")
        assert done.returncode == 0, done.stderr

    def cell(self, name: str) -> int:
        return struct.unpack(">I", (self.hardware / "proc/device-tree/chosen" / name).read_bytes())[0]

    @property
    def build(self) -> int:
        return self.cell("bootloader/build-timestamp")

    @property
    def cmdline(self) -> str:
        return (self.hardware / "proc/cmdline").read_text()


@pytest.fixture
def pi(tmp_path: Path) -> Pi:
    pi = Pi(tmp_path, Board(serial="00000000deadbeef", hat="none", cooling="active", bootloader=OLD))
    pi.power_on(cold=True)
    return pi


def new_config(pi: Pi, text: str) -> Path:
    (pi.folder / "boot.conf").write_text(text)
    new = pi.folder / "new.bin"
    assert pi.run("rpi-eeprom-config", pi.image, "--config", pi.folder / "boot.conf", "--out", new).returncode == 0
    return new


def test_a_board_as_the_factory_left_it(pi: Pi) -> None:
    assert pi.build == 1746713597
    assert pi.cell("bootloader/tryboot") == 0
    assert pi.cmdline.endswith("cgroup_disable=memory root=/dev/mmcblk0p2\n")
    assert pi.run("rpi-eeprom-config").stdout == eeprom.FACTORY_CONFIG
    assert pi.run("vcgencmd", "bootloader_config").stdout == eeprom.FACTORY_CONFIG
    for program in (["rpi-bootloader-version"], ["vcgencmd", "bootloader_version"]):
        assert pi.run(*program).stdout.splitlines()[0] == "2025/05/08 14:13:17"


def test_live_values_leave_what_the_bootloader_tells_alone(pi: Pi) -> None:
    pi.run("rpi-eeprom-update", "-a")
    pi.power_on()
    pi.root.write(live.changed(pi.root.read(), {"temperature_c": "70"}, host="test"))
    assert pi.build == eeprom.build_timestamp(NEW)
    assert pi.run("rpi-eeprom-config").stdout == eeprom.FACTORY_CONFIG


def test_the_trial_flag_works_once_and_not_over_a_power_cut(pi: Pi) -> None:
    (pi.boot / "tryboot.txt").write_text("cmdline=trial.txt\n")
    (pi.boot / "trial.txt").write_text("trial=1\n")
    pi.power_on(argument="0 tryboot")
    assert (pi.cell("bootloader/tryboot"), pi.cmdline.split()[-1]) == (1, "trial=1")
    pi.power_on()
    assert (pi.cell("bootloader/tryboot"), pi.cmdline.split()[-1]) == (0, "root=/dev/mmcblk0p2")
    pi.power_on(argument="0 tryboot", cold=True)
    assert pi.cell("bootloader/tryboot") == 0


def test_every_boot_has_an_id_of_its_own(pi: Pi) -> None:
    ids = set()
    for _ in range(3):
        pi.power_on()
        ids.add((pi.hardware / "proc/sys/kernel/random/boot_id").read_text())
    assert len(ids) == 3


def test_an_update_is_staged_and_written_by_the_next_boot(pi: Pi) -> None:
    assert pi.run("rpi-eeprom-update").returncode == 1, "update required"
    assert pi.run("rpi-eeprom-update", "-a").returncode == 0
    assert pi.build == 1746713597
    pi.power_on()
    assert pi.build == eeprom.build_timestamp(NEW)
    assert pi.run("rpi-eeprom-update").returncode == 0, "up to date"
    assert (pi.boot / "recovery.000").exists()


def test_f44_a_warm_reboot_may_pass_a_staged_update_by(pi: Pi) -> None:
    pi.root.write(live.changed(pi.root.read(), {"eeprom_staged": "cold"}, host="test"))
    pi.run("rpi-eeprom-update", "-a")
    pi.power_on()
    assert pi.build == 1746713597
    pi.power_on(cold=True)
    assert pi.build == eeprom.build_timestamp(NEW)


def test_a_half_written_update_is_not_flashed(pi: Pi) -> None:
    pi.run("rpi-eeprom-update", "-a")
    staged = pi.boot / "pieeprom.upd"
    staged.write_bytes(staged.read_bytes()[:4096])
    pi.power_on()
    assert pi.build == 1746713597


def test_an_immediate_update_runs_after_the_next_reset(pi: Pi) -> None:
    pi.set(RPI_EEPROM_IMMEDIATE_UPDATE="1")
    assert "UPDATE SUCCESSFUL" in pi.run("rpi-eeprom-update", "-a").stdout
    assert not (pi.boot / "pieeprom.upd").exists()
    assert pi.build == 1746713597
    pi.power_on()
    assert pi.build == eeprom.build_timestamp(NEW)


def test_a_configuration_goes_into_an_image_and_comes_out_again(pi: Pi) -> None:
    text = eeprom.FACTORY_CONFIG + "PSU_MAX_CURRENT=5000\n"
    new = new_config(pi, text)
    assert pi.run("rpi-eeprom-config", new).stdout == text
    assert new.stat().st_size == pi.image.stat().st_size
    shorter = new_config(pi, "A=1\n")
    assert pi.run("rpi-eeprom-config", shorter).stdout == "A=1\n"


def test_f26_apply_jumps_to_the_newest_image_and_a_file_of_ours_does_not(pi: Pi) -> None:
    (pi.folder / "own.conf").write_text("[all]\nBOOT_ORDER=0xf416\nBOOT_UART=0\n")
    assert pi.run("rpi-eeprom-config", "--apply", pi.folder / "own.conf").returncode == 0
    pi.power_on()
    assert pi.build == eeprom.build_timestamp(NEW), "nobody asked for another version"

    same = pi.folder / "same.bin"
    same.write_bytes(eeprom.image("2025-05-08", config="[all]\nBOOT_ORDER=0xf461\nBOOT_UART=0\n"))
    assert pi.run("rpi-eeprom-update", "-d", "-f", same).returncode == 0
    pi.power_on()
    assert pi.build == 1746713597


def test_f26_the_service_restrains_itself_on_the_default_channel_alone(pi: Pi) -> None:
    assert pi.run("rpi-eeprom-update", "-s", "-a").returncode == 0
    assert not (pi.boot / "pieeprom.upd").exists()
    (pi.folder / "images-2712/default").rename(pi.folder / "images-2712/own")
    pi.set(FIRMWARE_RELEASE_STATUS="own")
    assert pi.run("rpi-eeprom-update", "-s", "-a").returncode == 0
    assert (pi.boot / "pieeprom.upd").exists()


def test_a_frozen_bootloader_is_exit_code_3(pi: Pi) -> None:
    new = new_config(pi, eeprom.FACTORY_CONFIG + "FREEZE_VERSION=1\n")
    assert pi.run("rpi-eeprom-update", "-d", "-f", new).returncode == 0
    pi.power_on()
    done = pi.run("rpi-eeprom-update", "-a")
    assert (done.returncode, done.stdout) == (3, "EEPROM version is frozen. Skipping update\n")


def test_f27_an_old_bootloader_tells_no_configuration_and_defaults_are_written(tmp_path: Path) -> None:
    pi = Pi(tmp_path, Board(serial="00000000deadbeef", hat="none", cooling="active", bootloader="2024-09-05"))
    (pi.hardware / "flash/pieeprom.bin").write_bytes(
        eeprom.image("2024-09-05", config="[all]\nBOOT_UART=1\nBOOT_ORDER=0xf416\n")
    )
    pi.power_on(cold=True)
    assert pi.run("rpi-eeprom-config").stdout.strip() == ""
    assert pi.run("rpi-eeprom-update", "-a").returncode == 0
    pi.power_on()
    assert "BOOT_ORDER=0xf461" in pi.run("rpi-eeprom-config").stdout, "the board's own order is gone"


def test_f28_an_image_older_than_the_board_is_refused_where_the_check_is_strict(tmp_path: Path) -> None:
    pi = Pi(tmp_path, Board(serial="00000000deadbeef", hat="none", cooling="active", bootloader=OLD, min_boot_ver=2))
    pi.power_on(cold=True)
    assert pi.run("rpi-eeprom-update", "-a").returncode == 0, "advisory by default"
    pi.set(STRICT_MIN_VER_CHECK="1")
    done = pi.run("rpi-eeprom-update", "-a")
    assert done.returncode == 2
    assert "MFG_VER: 1 is older than the board manufacture version (2)" in done.stderr


def test_f37_an_a_b_layout_is_told_and_its_trials_read_no_tryboot_txt(pi: Pi) -> None:
    (pi.boot / "autoboot.txt").write_text("[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n")
    (pi.boot / "tryboot.txt").write_text("a=1\n")
    pi.power_on(argument="0 tryboot")
    assert (pi.cell("bootloader/partition"), pi.cell("bootloader/tryboot")) == (2, 0)


def test_a_pending_update_can_be_taken_back(pi: Pi) -> None:
    pi.run("rpi-eeprom-update", "-a")
    assert pi.run("rpi-eeprom-update", "-r").returncode == 0
    pi.power_on()
    assert pi.build == 1746713597


@pytest.mark.parametrize("arguments", [("-f", "/nothing"), ("-x",)])
def test_what_fails_is_exit_code_2(pi: Pi, arguments: tuple[str, ...]) -> None:
    assert pi.run("rpi-eeprom-update", *arguments).returncode == 2
