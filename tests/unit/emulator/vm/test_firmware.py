"""The boot firmware's decisions, on boot partitions as dictionaries."""

from __future__ import annotations

import pytest

from hedgerow.emulator.vm import firmware

SERIAL = "e0d1c2b3a4950011"
KERNEL = b"emulated kernel 6.18.50+rpt-rpi-2712\n"
CARD = {
    "config.txt": b"auto_initramfs=1\n[all]\n",
    "cmdline.txt": b"console=serial0,115200 console=tty1 root=PARTUUID=68656467-02 rootwait\n",
    "kernel_2712.img": KERNEL,
    "kernel8.img": b"emulated kernel 6.18.50+rpt-rpi-v8\n",
}


def boot(card: dict[str, bytes], *, trial: bool = False) -> firmware.Boot:
    return firmware.boot(card.get, serial=SERIAL, trial=trial)


def effective(text: str, *, trial: bool = False) -> dict[str, str]:
    return firmware.effective("config.txt", {"config.txt": text.encode()}.get, serial=SERIAL, trial=trial)


def test_the_firmware_s_tokens_come_first_and_the_console_is_the_board_s():
    words = boot(CARD).cmdline.split()
    assert words[0] == "numa_policy=interleave"
    assert words[-4:] == ["console=ttyAMA0,115200", "console=tty1", "root=PARTUUID=68656467-02", "rootwait"]


def test_f16_the_two_tokens_about_memory_cgroups_cancel_out():
    assert "cgroup_disable=memory" in boot(CARD).cmdline
    words = boot(CARD | {"cmdline.txt": b"root=x cgroup_enable=memory psi=1"}).cmdline.split()
    assert "cgroup_disable=memory" not in words
    assert {"cgroup_enable=memory", "psi=1"} <= set(words)


def test_only_the_first_line_of_cmdline_txt_is_read():
    assert "lost" not in boot(CARD | {"cmdline.txt": b"root=x\nlost=1\n"}).cmdline


def test_a_trial_reads_tryboot_txt_and_the_command_line_that_it_names():
    card = CARD | {"tryboot.txt": b"cmdline=other.txt\n", "other.txt": b"root=y panic=10"}
    assert boot(card).config == "config.txt"
    found = boot(card, trial=True)
    assert found.config == "tryboot.txt"
    assert found.cmdline.endswith("root=y panic=10")


@pytest.mark.parametrize(
    "more", [{}, {"tryboot.txt": b"", "autoboot.txt": b"[all]\ntryboot_a_b=1\n"}], ids=["no file", "partitions"]
)
def test_a_trial_that_there_is_nothing_for_is_a_boot_as_ever(more):
    assert boot(CARD | more, trial=True).config == "config.txt"


def test_the_first_kernel_that_is_there_is_taken_or_the_one_that_is_named():
    assert boot(CARD).kernel == "kernel_2712.img"
    assert boot({name: data for name, data in CARD.items() if name != "kernel_2712.img"}).kernel == "kernel8.img"
    assert boot(CARD | {"config.txt": b"kernel=kernel8.img"}).kernel == "kernel8.img"


def test_no_kernel_or_half_of_one_does_not_boot():
    with pytest.raises(firmware.NotBootableError, match=r"mine\.img is not there"):
        boot(CARD | {"config.txt": b"kernel=mine.img"})
    with pytest.raises(firmware.NotBootableError, match=r"kernel_2712\.img is no kernel"):
        boot(CARD | {"kernel_2712.img": b"\0" * 100})


def test_without_config_txt_the_defaults_hold():
    assert boot({name: data for name, data in CARD.items() if name != "config.txt"}).kernel == "kernel_2712.img"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a=1\na=2\n", {"a": "2"}),
        ("# a=1\n\n a = 1\n", {"a": "1"}),
        ("[pi4]\na=1\n[all]\nb=2\n", {"b": "2"}),
        ("[pi5]\na=1\n", {"a": "1"}),
        ("[none]\na=1\n[pi5]\nb=1\n[all]\nc=1", {"c": "1"}),
        ("[pi4]\n[pi5]\na=1\n", {"a": "1"}),
        ("[pi5]\n[0x12345678]\na=1\n[all]\n", {}),
        (f"[0x{SERIAL[8:]}]\na=1\n", {"a": "1"}),
        ("[board-type=0x17]\na=1\n[board-type=0x11]\na=2\n", {"a": "1"}),
        ("[gpio4=1]\na=1\n", {}),
        ("[tryboot]\na=1\n", {}),
        ("dtparam=pciex1_gen=3\n", {"dtparam": "pciex1_gen=3"}),
    ],
)
def test_filters(text, expected):
    assert effective(text) == expected


def test_the_filter_tryboot_holds_in_a_trial():
    assert effective("[tryboot]\na=1\n", trial=True) == {"a": "1"}


def test_included_files_are_read_in_place_and_loops_end():
    files = {"config.txt": b"a=1\ninclude more.txt\n", "more.txt": b"a=2\n"}
    assert firmware.effective("config.txt", files.get, serial=SERIAL, trial=False) == {"a": "2"}
    loop = {"config.txt": b"a=1\ninclude config.txt\n"}
    assert firmware.effective("config.txt", loop.get, serial=SERIAL, trial=False) == {"a": "1"}
