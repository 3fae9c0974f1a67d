from __future__ import annotations

import copy
from typing import Any

import pytest

from hedgerow.converge import hat
from hedgerow.errors import RefusedError, UsageError

NOW, NEXT = "6.18.50+rpt-rpi-2712", "6.18.55+rpt-rpi-2712"
LOCK: dict[str, Any] = {
    "dkms": {"version": "3.2.2-1~deb13u1"},
    "kernel": {"version": "6.18.50"},
    "headers": {"package": "linux-headers-rpi-2712", "deb": "1:6.18.50-1+rpt1"},
    "hailo_10h": {
        **dict.fromkeys(("driver", "library", "firmware"), "5.1.1"),
        "packages": {"hailo-h10-all": "5.1.1", "h10-hailort": "5.1.1"},
    },
    "hailo_8": {**dict.fromkeys(("driver", "library", "firmware"), "4.23.0"), "packages": {"hailo-all": "5.1.1"}},
}
HAT: dict[str, Any] = {
    "kind": "hat-plus-2",
    "vendor": "Raspberry Pi",
    "product": "AI HAT+ 2",
    "driver": "hailo1x_pci",
    "driver_version_loaded": "5.1.1",
    "library_version": "5.1.1",
    "firmware_version": "5.1.1",
    "architecture": "HAILO10H",
    "node": "/dev/hailo0",
    "link_speed_gts": 8.0,
    "link_width": 1,
    "mismatch": False,
    "error": None,
}
FILE = "updates/dkms/{}.ko.xz"
NPU: dict[str, Any] = {
    "address": "0001:01:00.0",
    "device": "0x45c4",
    "resettable": True,
    "kernel": NOW,
    "kernels": {NOW: {"headers": True, "modules": {"hailo1x_pci": FILE.format("hailo1x_pci")}}},
    "on_disk": {"hailo1x_pci": "5.1.1"},
    "dkms": {"hailo1x_pci/5.1.1": {NOW: "installed"}},
    "loaded": {"hailo1x_pci": {"version": "5.1.1", "parameters": {}}},
    "modprobe": {"blacklisted": ["hailo_pci"], "install_lines": [], "options": {}},
    "firmware_missing": None,
    "nodes": [{"path": "/dev/hailo0", "mode": "0660", "group": "hailo"}],
    "owners": [],
    "log": [],
    "cma": {"total_kb": 262144, "free_kb": 200000},
}
PACKAGES = {
    "dkms": "3.2.2-1~deb13u1",
    "linux-headers-rpi-2712": "1:6.18.50-1+rpt1",
    f"linux-headers-{NOW}": "1:6.18.50-1+rpt1",
    f"linux-image-{NOW}": "1:6.18.50-1+rpt1",
    "hailo-h10-all": "5.1.1",
    "h10-hailort": "5.1.1",
}
NONE: dict[str, Any] = dict.fromkeys(HAT) | {"kind": "none", "mismatch": False}
EMPTY: dict[str, Any] = {
    **dict.fromkeys(NPU),
    "kernels": {NOW: {"headers": True, "modules": {}}},
    "modprobe": {"blacklisted": [], "install_lines": [], "options": {}},
    "dkms": {},
    "loaded": {},
}


def facts(packages: dict[str, str] | None = None, npu: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    hardware = {"hat": HAT | changes, "kernel": {"release": NOW}, "throttled": None, "power_supply": None}
    return copy.deepcopy(
        {"hardware": hardware, "npu": NPU | (npu or {}), "packages": PACKAGES if packages is None else packages}
    )


def bare(packages: dict[str, str] | None = None, **npu: Any) -> dict[str, Any]:
    found = facts({} if packages is None else packages)
    return found | {"npu": EMPTY | npu, "hardware": found["hardware"] | {"hat": NONE}}


def problems(wanted: str = "hat-plus-2", **changes: Any) -> list[str]:
    found: list[str] = hat.verdict(facts(**changes), wanted, LOCK, "hailo")["problems"]
    return found


def test_a_healthy_chain_is_one_line() -> None:
    told = hat.verdict(facts(), "hat-plus-2", LOCK, "hailo")
    assert told["problems"] == []
    assert told["remarks"] == []
    assert told["text"].startswith("HAT hat-plus-2: HAILO10H, driver 5.1.1, library 5.1.1, firmware 5.1.1, /dev/hailo0")


def test_no_hat_where_none_is_meant() -> None:
    told = hat.verdict(bare(), "none", LOCK)
    assert (told["text"], told["problems"], told["lines"]) == ("no HAT, as the inventory says", [], [])


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"kind": "none"}, "switched off and on"),
        ({"kind": "hat-ai"}, "the board has hat-ai, the inventory says hat-plus-2"),
        ({"library_version": "5.3.0", "mismatch": True}, "(F1)"),
        ({"architecture": "HAILO15H"}, "HAILO15H"),
    ],
)
def test_the_first_broken_link_is_the_problem(changes: dict[str, Any], text: str) -> None:
    found = problems(**changes)
    assert len(found) == 1
    assert text in found[0]


def test_another_set_than_the_lock_s_is_a_problem() -> None:
    versions = dict.fromkeys(("driver_version_loaded", "library_version", "firmware_version"), "5.2.0")
    npu = {"loaded": {"hailo1x_pci": {"version": "5.2.0", "parameters": {}}}, "on_disk": {"hailo1x_pci": "5.2.0"}}
    assert "driver is 5.2.0, the lock says 5.1.1" in problems(npu=npu, **versions)[0]


def test_an_unexpected_hat_is_told() -> None:
    assert "the inventory says none" in problems("none")[0]


def test_8_and_8l_are_told_apart_by_what_identify_says() -> None:
    versions = dict.fromkeys(("driver_version_loaded", "library_version", "firmware_version"), "4.23.0")
    board = versions | {"kind": "hat-ai", "driver": "hailo_pci", "architecture": "HAILO8"}
    npu = {
        "device": "0x2864",
        "loaded": {"hailo_pci": {"version": "4.23.0", "parameters": {}}},
        "on_disk": {"hailo_pci": "4.23.0"},
        "kernels": {NOW: {"headers": True, "modules": {"hailo_pci": FILE.format("hailo_pci")}}},
    }
    assert problems("hat-plus-26", npu=npu, **board) == []
    assert "hat-plus-13 has HAILO8L" in problems("hat-plus-13", npu=npu, **board)[0]


def test_f13_a_slow_link_is_said_and_is_no_fault() -> None:
    told = hat.verdict(facts(link_speed_gts=5.0), "hat-plus-2", LOCK, "hailo")
    assert told["problems"] == []
    assert "(F13)" in told["remarks"][0]


# -- plan ------------------------------------------------------------------


def test_nothing_is_missing_from_a_converged_host() -> None:
    plan = hat.plan(facts(), LOCK, "hat-plus-2")
    assert plan == {
        "module": {"own": "hailo1x_pci", "other": "hailo_pci"},
        **{key: [] for key in ("build", "stack", "foreign", "stray", "install_lines", "unbuilt")},
    }


def test_f06_headers_of_what_runs_and_of_what_comes_are_installed_before_the_driver() -> None:
    packages = {f"linux-image-{NOW}": "1:6.18.50-1+rpt1", f"linux-image-{NEXT}": "1:6.18.55-1+rpt1"}
    plan = hat.plan(facts(packages), LOCK, "hat-plus-2")
    assert plan["build"] == [
        "dkms=3.2.2-1~deb13u1",
        "linux-headers-rpi-2712=1:6.18.50-1+rpt1",
        f"linux-headers-{NOW}=1:6.18.50-1+rpt1",
        f"linux-headers-{NEXT}",
    ]


def test_f06_the_next_kernel_gets_its_module_before_it_boots() -> None:
    kernels = NPU["kernels"] | {NEXT: {"headers": True, "modules": {}}, "6.12.1+old": {"headers": True, "modules": {}}}
    found = facts(PACKAGES | {f"linux-image-{NEXT}": "1:6.18.55-1+rpt1"}, {"kernels": kernels})
    assert hat.plan(found, LOCK, "hat-plus-2")["unbuilt"] == [NEXT]


def test_f01_driver_and_library_come_in_one_transaction() -> None:
    plan = hat.plan(
        facts({name: version for name, version in PACKAGES.items() if name != "h10-hailort"}), LOCK, "hat-plus-2"
    )
    assert plan["stack"] == ["hailo-h10-all=5.1.1", "h10-hailort=5.1.1"]


def test_a_lock_that_pins_nothing_takes_the_archive_s() -> None:
    lock = LOCK | {
        "dkms": {"version": None},
        "headers": {"package": None, "deb": None},
        "hailo_8": {"packages": None},
        "kernel": {"version": None},
    }
    plan = hat.plan(bare(), lock, "hat-plus-26")
    assert plan["stack"] == ["hailo-all"]
    assert plan["build"] == ["dkms", "linux-headers-rpi-2712", f"linux-headers-{NOW}"]


def test_f05_the_other_chip_s_stack_is_refused_with_the_command_that_removes_it() -> None:
    found = hat.plan(facts(PACKAGES | {"hailo-all": "5.1.1", "hailort": "4.23.0"}), LOCK, "hat-plus-2")["foreign"]
    assert found == ["hailo-all", "hailort"]
    with pytest.raises(RefusedError, match="F5") as caught:
        hat.refuse_foreign(found, "hat-plus-2", purge=False)
    assert "sudo apt-get purge hailo-all hailort" in str(caught.value)
    assert hat.refuse_foreign(found, "hat-plus-2", purge=True) == found


def test_a_name_that_the_lock_gives_to_this_stack_is_none_of_the_others() -> None:
    """From 5.4 on Hailo's own runtime package for the Hailo-10H is called hailort."""
    lock = LOCK | {"hailo_10h": LOCK["hailo_10h"] | {"packages": {"hailort": "5.4.0"}}}
    assert hat.plan(facts({"hailort": "5.4.0"}), lock, "hat-plus-2")["foreign"] == []


def test_a_board_without_a_hat_is_told_of_what_was_left_behind() -> None:
    modules = {NOW: {"headers": True, "modules": {"hailo_pci": FILE.format("hailo_pci")}}}
    assert hat.plan(bare({"hailo-all": "5.1.1"}, kernels=modules), LOCK, "none")["foreign"] == ["hailo-all"]
    assert hat.plan(bare(kernels=modules), LOCK, "none")["stray"] == [
        f"/lib/modules/{NOW}/updates/dkms/hailo_pci.ko.xz"
    ]


def test_f03_f04_a_stray_copy_of_the_other_module_is_found() -> None:
    kernel = NPU["kernels"][NOW]
    copied = kernel | {"modules": kernel["modules"] | {"hailo_pci": "kernel/drivers/media/pci/hailo/hailo_pci.ko.xz"}}
    plan = hat.plan(facts(npu={"kernels": {NOW: copied}}), LOCK, "hat-plus-2")
    assert plan["stray"] == [f"/lib/modules/{NOW}/kernel/drivers/media/pci/hailo/hailo_pci.ko.xz"]


def test_a_driver_that_is_there_and_not_loaded_is_loaded() -> None:
    assert not hat.unloaded(facts(), "hat-plus-2")
    assert hat.unloaded(facts(npu={"loaded": {}}), "hat-plus-2")
    assert not hat.unloaded(facts(npu={"loaded": {}, "device": None}), "hat-plus-2")


# -- module options --------------------------------------------------------


def test_the_nearest_layer_of_options_wins() -> None:
    merged = hat.options(
        "hat-plus-2", {"force_desc_page_size": 4096}, {"no_power_mode": True}, {"force_desc_page_size": 2048}
    )
    assert merged == {"force_desc_page_size": 2048, "no_power_mode": 1}


@pytest.mark.parametrize("size", [16384, 3000, 0, -4096, "4096"])
def test_f11_a_page_size_that_the_chip_has_not_is_refused(size: object) -> None:
    with pytest.raises(UsageError, match="F11"):
        hat.options("hat-plus-26", {"force_desc_page_size": size})


def test_a_parameter_of_the_other_driver_is_refused() -> None:
    assert hat.options("hat-plus-26", {"force_allocation_from_driver": 1}) == {"force_allocation_from_driver": 1}
    with pytest.raises(UsageError, match="hailo1x_pci has no parameter force_allocation_from_driver"):
        hat.options("hat-plus-2", {"force_allocation_from_driver": 1})


def test_f11_an_option_that_waits_for_the_module_to_be_loaded_anew_is_told() -> None:
    loaded = {"hailo1x_pci": {"version": "5.1.1", "parameters": {"force_desc_page_size": "0", "no_power_mode": "Y"}}}
    found = facts(npu={"loaded": loaded})
    wanted = {"force_desc_page_size": 4096, "no_power_mode": 1}
    told = hat.options_waiting(found, "hat-plus-2", wanted)
    assert len(told) == 1
    assert "runs with force_desc_page_size=0" in told[0]
    assert hat.options_waiting(facts(npu={"loaded": {}}), "hat-plus-2", wanted) == []
