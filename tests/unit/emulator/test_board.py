from __future__ import annotations

import struct

import pytest

from hedgerow.device import hardware
from hedgerow.emulator import board as boards
from hedgerow.emulator import values as live
from hedgerow.emulator.board import Board, render

PI = Board(serial="00000000deadbeef", hat="hat-plus-2", cooling="active")


def rendered(board: Board = PI, **settings: str):
    return render(board, live.changed(live.defaults(board.hat, board.cooling), settings, host="pi"))


@pytest.mark.parametrize("memory_mb, code", boards.REVISIONS.items())
def test_revision_codes_say_pi_5_and_the_memory(memory_mb: int, code: str) -> None:
    assert hardware.parse_revision(code) == {"memory_mb": memory_mb, "type": 0x17}


def test_device_tree_strings_end_in_nul() -> None:
    files = rendered()
    assert files["proc/device-tree/serial-number"] == b"00000000deadbeef\0"
    assert files["proc/device-tree/compatible"] == b"raspberrypi,5-model-b\0brcm,bcm2712\0"


def test_power_supply_is_a_big_endian_cell() -> None:
    assert rendered(psu_max_current_ma="3000")["proc/device-tree/chosen/power/max_current"] == struct.pack(">I", 3000)


def test_pmic_answer_is_what_the_parser_reads() -> None:
    rails = hardware.parse_pmic(boards.pmic_answer(live.defaults("none", "active")))
    assert len(rails) == len(boards.RAILS) + 2
    assert rails["VDD_CORE"] == {"volts": 0.768, "amps": 0.56259}


def test_without_a_hat_nothing_of_hailo_is_there() -> None:
    files = rendered(Board(serial="0" * 16, hat="none", cooling="active"))
    assert not [path for path in files if "hailo" in path or "pci" in path or "/hat" in path or "h1x" in path]


def test_hat_off_the_bus_is_no_device_and_keeps_its_eeprom() -> None:
    files = rendered(hat_present="false")
    assert not [path for path in files if path.startswith("sys/bus/pci")]
    assert "proc/device-tree/hat/product" in files


def test_what_a_driver_makes_is_the_guests_to_show() -> None:
    assert not [path for path in rendered() if path.startswith(("dev/", "sys/class/hailo", "sys/module"))]


def test_an_unsynchronised_clock_has_no_flag() -> None:
    assert "run/systemd/timesync/synchronized" in rendered()
    assert "run/systemd/timesync/synchronized" not in rendered(clock_synced="false")
