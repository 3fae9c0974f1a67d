from __future__ import annotations

from typing import Any

import pytest

from hedgerow.converge.eeprom import merged, plan, setting, too_old, with_keys
from hedgerow.errors import UsageError

CONFIG = "[all]\nBOOT_UART=1\nPOWER_OFF_ON_HALT=0\nBOOT_ORDER=0xf461\n"
ANCIENT, OLD, NEW = 1725537600, 1746713597, 1779807685  # 2024-09-05, 2025-05-08, 2026-05-26
RELEASE = {"eeprom": {"version": "28.28-1", "channel": "default", "minimum": "2025-05-08"}}
UNPINNED = {"eeprom": {"version": None, "channel": None, "minimum": "2025-05-08"}}
IMAGE = {"path": "/x/pieeprom-2026-05-26.bin", "timestamp": NEW, "mfg_version": 1}


def facts(build: int | None = OLD, config: str | None = CONFIG, **more: Any) -> dict[str, Any]:
    versions = {ANCIENT: "2024-09-05", OLD: "2025-05-08", NEW: "2026-05-26"}
    return {
        "hardware": {
            "board": {"revision": "d04171"},
            "eeprom": {
                "bootloader_timestamp": build,
                "bootloader_version": versions.get(build or 0),
                "min_boot_ver": more.get("min_boot_ver"),
                "config": config,
            },
        },
        "state": {"eeprom": {"images": more.get("images", {"default": IMAGE}), "staged": more.get("staged")}},
    }


def test_nothing_to_do() -> None:
    found = plan(facts(NEW), RELEASE, {"BOOT_ORDER": "0xf461"})
    assert (found["image"], found["why"], found["problems"], found["remarks"]) == (None, [], [], [])


def test_f26_a_key_is_set_in_the_image_that_runs() -> None:
    found = plan(facts(NEW), RELEASE, {"BOOT_ORDER": "0xf416"})
    assert (found["image"], found["timestamp"]) == (IMAGE["path"], NEW)
    assert found["config"] == CONFIG.replace("0xf461", "0xf416")
    assert found["why"] == ["BOOT_ORDER is 0xf461, wanted is 0xf416"]


def test_f26_a_key_is_no_reason_to_go_back_unasked() -> None:
    older = {"default": IMAGE | {"timestamp": OLD}}
    found = plan(facts(NEW, images=older), RELEASE, {"BOOT_ORDER": "0xf416"})
    assert found["image"] is None
    assert "older than what runs" in found["problems"][0]
    assert plan(facts(NEW, images=older), RELEASE, {}, downgrade=True)["image"] == IMAGE["path"]


def test_an_update_keeps_the_board_s_own_configuration() -> None:
    own = "[all]\nBOOT_ORDER=0xf416\nMY_KEY=1\n[0xdeadbeef]\nBOOT_ORDER=0xf4\n"
    found = plan(facts(OLD, own), RELEASE, {"PSU_MAX_CURRENT": "5000"})
    assert found["config"] == own.replace("MY_KEY=1\n", "MY_KEY=1\nPSU_MAX_CURRENT=5000\n")
    assert found["why"][0] == "it runs the bootloader of 2025-05-08, pinned is 2026-05-26"


def test_f27_a_configuration_that_cannot_be_read_is_not_overwritten() -> None:
    found = plan(facts(OLD, None), RELEASE, {"BOOT_ORDER": "0xf416"})
    assert found["image"] is None
    assert "cannot be read" in found["problems"][0]


def test_f28_an_image_that_predates_the_board_is_refused() -> None:
    for image in (IMAGE, IMAGE | {"mfg_version": None}):
        found = plan(facts(OLD, min_boot_ver=2, images={"default": image}), RELEASE, {})
        assert found["image"] is None
        assert "may never start again" in found["problems"][0]
    assert plan(facts(OLD, min_boot_ver=1), RELEASE, {})["problems"] == []


def test_f29_a_bootloader_below_the_minimum_that_nothing_updates_is_a_problem() -> None:
    (problem,) = plan(facts(ANCIENT), UNPINNED, {})["problems"]
    assert "newer kernels may not boot" in problem
    assert plan(facts(OLD), UNPINNED, {})["problems"] == []
    assert too_old(facts(ANCIENT)["hardware"]["eeprom"], UNPINNED["eeprom"])
    # An update that this very run makes is the remedy, not the problem.
    assert plan(facts(ANCIENT), RELEASE, {})["problems"] == []


def test_f29_an_image_below_the_minimum_is_no_remedy() -> None:
    ancient = {"default": IMAGE | {"timestamp": ANCIENT}}
    assert "newer kernels may not boot" in plan(facts(ANCIENT, images=ancient), RELEASE, {})["problems"][0]


def test_a_frozen_board_is_left_alone() -> None:
    assert "frozen" in plan(facts(OLD, CONFIG + "FREEZE_VERSION=1\n"), RELEASE, {})["problems"][0]
    assert plan(facts(NEW, CONFIG + "FREEZE_VERSION=1\n"), RELEASE, {})["problems"] == []


def staged(*, before_this_boot: bool, config: str = CONFIG) -> dict[str, Any]:
    return {"timestamp": NEW, "config": config, "before_this_boot": before_this_boot}


def test_what_is_staged_is_not_staged_again() -> None:
    found = plan(facts(OLD, staged=staged(before_this_boot=False)), RELEASE, {})
    assert (found["image"], found["problems"]) == (None, [])
    assert "waits for a reboot" in found["remarks"][0]


def test_f44_a_staged_update_that_a_warm_reboot_passed_by_asks_for_a_cold_one() -> None:
    found = plan(facts(OLD, staged=staged(before_this_boot=True)), RELEASE, {})
    assert found["image"] is None
    assert "Cut the power" in found["remarks"][0]


def test_another_staged_update_is_replaced_and_a_done_one_is_no_news() -> None:
    other = staged(before_this_boot=False, config="[all]\n")
    assert plan(facts(OLD, staged=other), RELEASE, {})["image"] == IMAGE["path"]
    assert plan(facts(NEW, staged=staged(before_this_boot=True)), RELEASE, {})["remarks"] == []


def test_a_folder_for_the_board_s_own_revision_comes_first() -> None:
    special = IMAGE | {"path": "/special"}
    for name in ("default-00d04171", "default-d04171"):
        assert plan(facts(OLD, images={"default": IMAGE, name: special}), RELEASE, {})["image"] == "/special"


def test_without_an_image_nothing_is_guessed() -> None:
    assert "no bootloader image" in plan(facts(images={}), RELEASE, {})["problems"][0]
    assert plan(facts(images={}), UNPINNED, {})["problems"] == []
    assert "set fleet_release.eeprom.channel" in plan(facts(), UNPINNED, {"BOOT_UART": "1"})["problems"][0]
    assert "left alone" in plan(facts(None), RELEASE, {})["remarks"][0]


def test_keys_are_set_where_they_count() -> None:
    assert with_keys("A=1\nA=2\n", {"A": "3"}) == "A=1\nA=3\n"
    assert with_keys("[pi4]\nA=1\n[all]\nB=1\n", {"A": "2"}) == "[pi4]\nA=1\n[all]\nB=1\nA=2\n"
    assert with_keys("[all]\nB=1\n\n[config.txt]\n[all]\nA=9\n", {"A": "2"}) == (
        "[all]\nB=1\nA=2\n\n[config.txt]\n[all]\nA=9\n"
    )
    assert with_keys("", {"A": "1"}) == "A=1\n"
    assert setting("[none]\nA=1\n[all]\nA=2\nA=3\n[config.txt]\nA=4\n", "A") == "3"


def test_layers_are_merged() -> None:
    found = merged({"BOOT_UART": 1}, {"BOOT_UART": "0", "PSU_MAX_CURRENT": 5000})
    assert found == {"BOOT_UART": "0", "PSU_MAX_CURRENT": "5000"}


@pytest.mark.parametrize(
    "keys, text",
    [
        ({"BOOT_ODER": "0xf41"}, "not known here"),
        ({"BOOT_ORDER": "f41"}, "cannot be 'f41'"),
        ({"BOOT_ORDER": "0xf48"}, "cannot be '0xf48'"),
        ({"PSU_MAX_CURRENT": "5A"}, "3000 or 5000"),
        ({"FREEZE_VERSION": "1"}, "recovery image"),
    ],
)
def test_a_key_that_is_unknown_or_malformed_is_refused(keys: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError) as error:
        merged(keys)
    assert text in str(error.value)
