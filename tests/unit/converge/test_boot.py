from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.converge import config_txt
from hedgerow.converge.boot import (
    cmdline_text,
    cmdline_tokens,
    config_lines,
    config_text,
    findings,
    missing_tokens,
    remarks,
    trial_of,
    trial_problems,
)
from hedgerow.converge.config_txt import Board
from hedgerow.errors import DeviceError, UsageError

# Raspberry Pi OS ships this shape (facts §2.1, §2.2).
CONFIG = "dtparam=audio=on\nauto_initramfs=1\n\n[cm4]\notg_mode=1\n\n[pi5]\ndtoverlay=nospi10\n"
CMDLINE = "console=serial0,115200 console=tty1 root=PARTUUID=1-02 rootfstype=ext4 fsck.repair=yes rootwait\n"
WANTED = ["cgroup_enable=memory", "psi=1", "lsm=apparmor", "panic=10"]


def test_the_block_neither_inherits_nor_leaks_a_filter() -> None:
    text = config_text(CONFIG, ["usb_max_current_enable=1"])
    assert text.startswith(CONFIG)
    block = text[len(CONFIG) :].splitlines()
    assert block[1:-1] == ["[all]", "usb_max_current_enable=1", "[all]"]


def test_a_parameter_of_the_base_tree_does_not_go_to_the_overlay_before_it() -> None:
    text = config_text(CONFIG, ["dtparam=watchdog=on"])
    assert text[len(CONFIG) :].splitlines()[1:-1] == ["[all]", "dtoverlay=", "dtparam=watchdog=on", "[all]"]
    assert config_txt.effective(text)["dtparam:watchdog"].value == "on"


def test_the_hat_s_own_overlay_is_not_suppressed() -> None:
    """`dtoverlay=` as the first directive would keep firmware from loading what the HAT's EEPROM names."""
    assert "dtoverlay=\n" not in config_text("arm_boost=1\n", ["dtparam=watchdog=on"])
    assert "dtoverlay=\n" not in config_text("[gpio4=1]\ndtoverlay=x\n[all]\n", ["dtparam=watchdog=on"])


def test_lists_of_fleet_group_and_host_are_joined_and_filters_stay_with_their_list() -> None:
    assert config_lines([["a=1", "b=1"], ["b=1", "c=1"], []]) == ["a=1", "b=1", "c=1"]
    assert config_lines([["[0x12]", "a=1"], ["b=1"]]) == ["[0x12]", "a=1", "[all]", "b=1"]


def test_f13_a_host_can_ask_for_gen_2() -> None:
    assert config_lines([["a=1"]], pcie_gen=2) == ["dtparam=pciex1_gen=2", "a=1"]
    with pytest.raises(UsageError, match="generation 5"):
        config_lines([], pcie_gen=5)


def test_f36_the_time_before_systemd_is_watched_when_asked() -> None:
    assert config_lines([], kernel_watchdog_s=120) == ["dtparam=watchdog=on", "kernel_watchdog_timeout=120"]


def test_f17_the_regulatory_country_is_a_token() -> None:
    tokens = cmdline_tokens([["psi=1"], ["psi=1", "quiet"]], lsm=["yama", "apparmor"], regdom="DE")
    assert tokens == ["psi=1", "quiet", "lsm=yama,apparmor", "cfg80211.ieee80211_regdom=DE"]
    assert cmdline_text("cfg80211.ieee80211_regdom=US\n", tokens).split().count("cfg80211.ieee80211_regdom=DE") == 1
    assert "US" not in cmdline_text("cfg80211.ieee80211_regdom=US\n", tokens)


def problems(text: str, lines: list[str], hat: str = "none") -> list[str]:
    return findings(config_text(text, lines), Board(), hat=hat)["problems"]


def test_a_foreign_line_after_the_block_that_contradicts_ours_is_told() -> None:
    text = config_text(CONFIG, ["a=1", "b=1"]) + "a=2\nb=1\n[cm4]\na=3\n"
    (problem,) = findings(text, Board(), hat="none")["problems"]
    assert "sets a=2 after Hedgerow's block and wins over a=1" in problem


def test_a_foreign_line_before_the_block_is_overruled_and_no_problem() -> None:
    assert problems("a=2\n", ["a=1"]) == []


def test_a_setting_for_another_board_in_our_block_is_no_problem() -> None:
    assert problems("", ["[0x99]", "a=1", "[all]", "a=2"]) == []


@pytest.mark.parametrize("line", ["cmdline=other.txt", "os_prefix=current/"])
def test_a_kernel_that_is_started_from_another_file_is_a_problem(line: str) -> None:
    assert "no effect" in problems(line + "\n", [])[0]


def test_a_hat_plus_whose_eeprom_is_not_read_is_a_problem() -> None:
    assert "force_eeprom_read=0" in problems("force_eeprom_read=0\n", [], hat="hat-plus-2")[0]
    assert problems("force_eeprom_read=0\n", []) == []
    assert problems("force_eeprom_read=0\n", ["force_eeprom_read=1"], hat="hat-plus-2") == []


@pytest.mark.parametrize(
    "line, text",
    [
        ("kernel=kernel8.img", "page size"),
        ("dtparam=pciex1_gen=2", "Gen 2"),
        ("include extra.txt", "is not read here"),
        ("[orange]\na=1\n[all]", "no filter that is documented"),
        ("a=" + "x" * 99, "98 characters"),
    ],
)
def test_what_an_operator_should_know_is_told_and_stops_nothing(line: str, text: str) -> None:
    found = findings(config_text(line + "\n", ["a=1"]), Board(), hat="hat-plus-2", flavour="rpi-2712")
    assert found["problems"] == []
    assert text in found["remarks"][0]


def test_a_filter_that_does_not_exist_is_refused_in_our_own_list() -> None:
    with pytest.raises(UsageError, match="no filter"):
        config_text(CONFIG, ["[rpi5]"])


def test_a_second_run_changes_nothing() -> None:
    once = config_text(CONFIG, ["a=1"])
    assert config_text(once, ["a=1"]) == once


def test_foreign_lines_on_both_sides_stay_where_they_are() -> None:
    text = config_text(CONFIG, ["a=1"]) + "later=1\n"
    changed = config_text(text, ["a=2", "b=1"])
    assert changed.startswith(CONFIG)
    assert changed.endswith("# END hedgerow\nlater=1\n")
    assert "a=1" not in changed


def test_no_lines_remove_the_block_and_nothing_else() -> None:
    assert config_text(config_text(CONFIG, ["a=1"]), []) == CONFIG
    assert config_text(CONFIG, []) == CONFIG


def test_a_file_without_a_last_newline_gets_one_before_the_block() -> None:
    assert config_text("arm_boost=1", ["a=1"]).startswith("arm_boost=1\n# BEGIN")


@pytest.mark.parametrize("broken", ["# BEGIN hedgerow\n", "# END hedgerow\n", "# END hedgerow\n# BEGIN hedgerow\n"])
def test_half_a_block_is_refused(broken: str) -> None:
    with pytest.raises(DeviceError, match="markers"):
        config_text(CONFIG + broken, ["a=1"])


@pytest.mark.parametrize("line", ["x" * 99, "a=1\nb=1"])
def test_a_line_that_firmware_would_cut_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="98"):
        config_text(CONFIG, [line])


def test_tokens_are_added_once_and_foreign_ones_kept() -> None:
    text = cmdline_text(CMDLINE, WANTED)
    assert text == CMDLINE.rstrip() + " cgroup_enable=memory psi=1 lsm=apparmor panic=10\n"
    assert cmdline_text(text, WANTED) == text


def test_a_single_valued_key_is_replaced_and_others_stand_beside_their_like() -> None:
    text = cmdline_text(
        "console=tty1 panic=30 cgroup_enable=cpuset\n", ["panic=10", "cgroup_enable=memory", "console=tty2"]
    )
    assert text == "console=tty1 cgroup_enable=cpuset panic=10 cgroup_enable=memory console=tty2\n"


def test_a_token_is_not_found_inside_another() -> None:
    assert cmdline_text("xpsi=1 psi=10\n", ["psi=1"]) == "xpsi=1 psi=1\n"


def test_unwanted_tokens_go() -> None:
    assert cmdline_text("quiet splash\n", [], ["splash"]) == "quiet\n"


@pytest.mark.parametrize("text", ["", "\n", "a b\nc d\n"])
def test_anything_but_one_line_is_refused(text: str) -> None:
    with pytest.raises(DeviceError, match="lines and must have one"):
        cmdline_text(text, ["psi=1"])


def test_a_token_with_a_blank_is_refused() -> None:
    with pytest.raises(UsageError, match="no blanks"):
        cmdline_text(CMDLINE, ["psi=1 panic=10"])


@given(st.lists(st.text(st.characters(categories=["Ll", "Nd"], include_characters="=,.-"), min_size=1), min_size=1))
def test_no_foreign_token_is_ever_lost(tokens: list[str]) -> None:
    foreign = [token for token in tokens if token.partition("=")[0] not in {"psi", "lsm", "panic"}]
    after = cmdline_text(" ".join(tokens), WANTED).split()
    assert [token for token in after if token in foreign and token not in WANTED] == [
        token for token in foreign if token not in WANTED
    ]
    assert all(token in after for token in WANTED)


def test_firmwares_own_disable_before_our_enable_is_fine() -> None:
    running = ["cgroup_disable=memory", *WANTED]
    assert missing_tokens(running, WANTED) == []


def test_a_later_token_that_wins_is_told() -> None:
    running = ["cgroup_enable=memory", "cgroup_disable=memory", "psi=1", "lsm=apparmor", "panic=10", "panic=0"]
    assert missing_tokens(running, WANTED) == ["cgroup_enable=memory", "panic=10"]


def test_what_the_kernel_never_saw_is_told() -> None:
    assert missing_tokens(CMDLINE.split(), WANTED) == WANTED


def facts(**more: Any) -> dict[str, Any]:
    boot = {
        "boot_id": "b1",
        "tryboot": False,
        "partition": 1,
        "watchdog": {"identity": "bcm2835-wdt", "state": "active"},
    }
    return {
        "hardware": {
            "board": {"serial": "e0d1c2b3a4950011", "revision": "d04171"},
            "boot": boot | more.get("boot", {}),
            "kernel": {"cmdline": more.get("cmdline", ["cgroup_disable=memory", "cgroup_enable=memory"])},
        },
        "state": {
            "container": more.get("container", False),
            "cgroup_controllers": more.get("controllers", ["cpu", "memory"]),
            "boot": {
                "size_mb": more.get("size_mb", 512),
                "autoboot": more.get("autoboot"),
                "trial": {"result": more.get("result")},
            },
        },
    }


def test_a_board_of_which_nothing_is_to_be_said() -> None:
    assert remarks(facts(), WANTED, watchdog_s=60) == []


def test_f16_a_kernel_that_was_asked_for_memory_cgroups_and_has_none() -> None:
    (remark,) = remarks(facts(controllers=["cpu"]), WANTED, watchdog_s=60)
    assert "has none" in remark
    assert remarks(facts(controllers=["cpu"], cmdline=["quiet"]), WANTED, watchdog_s=60) == [], "a reboot waits first"
    assert remarks(facts(controllers=["cpu"], container=True), WANTED, watchdog_s=60) == []


def test_f33_a_watchdog_that_nobody_feeds() -> None:
    idle = {"watchdog": {"identity": None, "state": None}}
    (remark,) = remarks(facts(boot=idle), WANTED, watchdog_s=60)
    assert "nobody feeds" in remark
    assert remarks(facts(boot=idle), WANTED, watchdog_s=None) == []
    assert remarks(facts(boot=idle), WANTED, watchdog_s=0) == []


def test_f40_a_boot_partition_too_small_for_kernels() -> None:
    assert "66 MiB" in remarks(facts(size_mb=66), WANTED, watchdog_s=60)[0]
    assert remarks(facts(size_mb=None), WANTED, watchdog_s=60) == []


def test_f40_a_file_system_on_256_mib_is_large_enough() -> None:
    """The FATs take up to 4 MiB of them."""
    assert remarks(facts(size_mb=252), WANTED, watchdog_s=60) == []


def test_a_trial_that_came_back_is_told_until_the_next_one() -> None:
    result = {"outcome": "fell_back", "reason": "failed: ssh.service"}
    assert "failed: ssh.service" in remarks(facts(result=result), WANTED, watchdog_s=60)[0]
    assert remarks(facts(result=result | {"outcome": "committed"}), WANTED, watchdog_s=60) == []


def test_a_device_that_can_try() -> None:
    assert trial_problems(facts(), CONFIG) == []
    kept = {"outcome": "committed", "boot_id": "b1"}
    assert trial_problems(facts(boot={"tryboot": True, "boot_id": "b1"}, result=kept), CONFIG) == []


@pytest.mark.parametrize(
    "more, config, text",
    [
        ({"boot": {"tryboot": None}}, CONFIG, "does not tell"),
        ({"boot": {"tryboot": True}}, CONFIG, "itself a trial"),
        ({"boot": {"tryboot": True}, "result": {"boot_id": "b0"}}, CONFIG, "itself a trial"),
        ({"boot": {"partition": 2}}, CONFIG, "A/B layout"),
        ({"autoboot": "[all]\ntryboot_a_b=1\n"}, CONFIG, "A/B layout"),
        ({}, CONFIG + "[all]\nboot_ramdisk=1\n", "boot_ramdisk=1"),
        ({}, CONFIG + "[all]\nos_prefix=a/\n", "os_prefix=a/"),
    ],
)
def test_f37_a_layout_in_which_no_tryboot_txt_is_read_is_refused(more: dict[str, Any], config: str, text: str) -> None:
    (problem,) = trial_problems(facts(**more), config)
    assert text in problem


def test_the_same_change_is_the_same_trial() -> None:
    one, two = (trial_of("a=1\n", cmdline, kernel_watchdog_s=60)["id"] for cmdline in ("quiet\n", "psi=1\n"))
    assert one != two
    assert one == trial_of("a=1\n", "quiet\n", kernel_watchdog_s=90)["id"]
