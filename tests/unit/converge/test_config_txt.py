"""The firmware's rules for filters, as documented; each case is what one board would read."""

from __future__ import annotations

import pytest

from hedgerow.converge.config_txt import Board, closes, effective, open_overlay, settings

# Raspberry Pi OS 2026-06, arm64 (facts §2.1).
SHIPPED = """\
dtparam=audio=on
camera_auto_detect=1
auto_initramfs=1
dtoverlay=vc4-kms-v3d
arm_boost=1

[cm4]
otg_mode=1

[cm5]
dtoverlay=dwc2,dr_mode=host

[pi5]
dtoverlay=nospi10

[all]
"""
PI5 = Board(serial="e0d1c2b3a4950011", partition=1)


def read(text: str, board: Board = PI5) -> dict[str, str]:
    return {key: setting.value for key, setting in effective(text, board).items()}


def test_the_shipped_file_as_a_pi_5_and_as_a_compute_module_read_it() -> None:
    assert read(SHIPPED) == {
        "dtparam:audio": "on",
        "camera_auto_detect": "1",
        "auto_initramfs": "1",
        "dtoverlay=vc4-kms-v3d": "vc4-kms-v3d",
        "arm_boost": "1",
        "dtoverlay=nospi10": "nospi10",
    }
    assert "dtoverlay=dwc2,dr_mode=host" in read(SHIPPED, Board(type=0x18))


@pytest.mark.parametrize(
    "name, holds",
    [
        ("all", True),
        ("none", False),
        ("pi5", True),
        ("pi4", False),
        ("cm5", False),
        ("pi3+", False),
        ("pi02", False),
        ("board-type=0x17", True),
        ("board-type=0x14", False),
        ("0xe0d1c2b3a4950011", True),
        ("0xa4950011", True),
        ("0xe0d1c2b3a4950012", False),
        ("tryboot", False),
        ("boot_partition=1", True),
        ("partition=2", False),
        ("bogus", False),
    ],
)
def test_filter(name: str, *, holds: bool) -> None:
    assert ("a" in read(f"[{name}]\na=1\n")) is holds


def test_filters_of_one_kind_replace_each_other_and_kinds_must_all_hold() -> None:
    assert read("[pi4]\n[pi5]\na=1\n") == {"a": "1"}
    assert read("[0x99]\n[pi5]\na=1\n") == {}
    assert read("[none]\n[pi5]\na=1\n[all]\nb=1\n") == {"b": "1"}


def test_a_filter_that_only_the_board_can_answer_leaves_its_lines_uncertain() -> None:
    assert [(s.key, s.certain) for s in settings("[gpio4=1]\na=1\n[all]\nb=1\n", PI5)] == [("a", False), ("b", True)]
    assert settings("[gpio4=1]\n[pi4]\na=1\n", PI5) == []


def test_the_trial_boot_sees_its_own_section() -> None:
    assert read("[tryboot]\na=1\n", Board(tryboot=True)) == {"a": "1"}


def test_the_last_line_counts_and_nothing_after_the_98th_character() -> None:
    assert read("a=1\na=2\n")["a"] == "2"
    assert len(read("a=" + "x" * 200)["a"]) == 96


def test_parameters_belong_to_the_overlay_before_them_until_its_scope_ends() -> None:
    text = "dtparam=audio=on,spi=off\ndtoverlay=i2c-rtc,ds1307\ndtparam=addr=0x68\ndtoverlay=\ndtparam=i2c=on\n"
    assert read(text) == {
        "dtparam:audio": "on",
        "dtparam:spi": "off",
        "dtoverlay=i2c-rtc,ds1307": "i2c-rtc,ds1307",
        "dtparam:i2c-rtc:addr": "0x68",
        "dtparam:i2c": "on",
    }


def test_an_open_overlay_counts_only_where_it_is_certain() -> None:
    assert open_overlay("dtoverlay=x\n")
    assert not open_overlay("dtoverlay=x\ndtoverlay=\n")
    assert not open_overlay("[gpio4=1]\ndtoverlay=x\n[all]\n")
    assert not open_overlay("[pi4]\ndtoverlay=x\n")


def test_lists_that_leave_a_filter_open() -> None:
    assert closes(["a=1", "[pi5]", "b=1", "[all]"])
    assert closes([])
    assert not closes(["[pi5]", "b=1"])
