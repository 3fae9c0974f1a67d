"""Every rule refuses what it is for, passes what it is not for, and stands in the table with its source."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.release.conftest import host
from tests.unit.release.lock import V8, hailo

from hedgerow.errors import RefusedError
from hedgerow.release import Bundle, Combination, Source, Status, check, known, refuse, solver
from hedgerow.release.rules import BY_ID, RULES
from hedgerow.release.versions import numbers, upstream, within

Broken = Callable[..., list[str]]
Build = Callable[..., Combination]
ROOTFS = {"mender_client": {"integration": "rootfs"}}


def test_the_reference_build_is_known_good(broken: Broken) -> None:
    assert broken("hat-plus-2", "hat-plus-26", "hat-plus-13", "none") == []


def test_every_rule_has_its_source_and_a_sentence() -> None:
    assert len(BY_ID) == len(RULES)
    for rule in RULES:
        assert re.fullmatch(r"[a-z0-9-]+", rule.id)
        assert rule.says.endswith(".")
        assert re.search(r"§\d|\bF\d|manifest", rule.source)


# rule → (hats, change of the lock, other fields) that breaks it, and it alone.
CASES: list[tuple[str, tuple[str, ...], dict[str, Any], dict[str, Any]]] = [
    ("hailo-one-version", (), hailo("5.1.1", firmware="5.1.0"), {}),
    ("hailo-packages", (), hailo("5.1.1", packages={"h10-hailort": "5.1.1"}), {}),
    ("hailo-chip", ("hat-plus-26",), hailo("5.1.1", row="hailo_8") | {"allow": {"hailo-known": "x"}}, {}),
    ("hailo-wrong-stack", (), {"hailo_10h": {"packages": {"hailo-all": "5.1.1", "h10-hailort": "5.1.1",
                                                          "h10-hailort-pcie-driver": "5.1.1"}}}, {}),
    ("hailo-pinned", (), hailo("5.1.1", driver=None, library=None, firmware=None, packages={}), {}),
    ("hailo-archive", (), hailo("5.2.0"), {}),
    ("hailo-known", (), hailo("5.9.0") | {"allow": {"driver-may-build": "x"}}, {}),
    ("driver-builds", (), hailo("5.3.0") | {"allow": {"hailo-archive": "x"}}, {}),
    ("driver-may-build", (), hailo("5.4.0") | {"allow": {"hailo-archive": "x"}}, {}),
    ("kernel-flavour", (), {"kernel": {"page_size": 4096}}, {}),
    ("kernel-flavour", (), {"headers": {"package": "linux-headers-rpi-v8"}}, {}),
    ("driver-pages", ("hat-plus-26",), hailo("4.22.0", row="hailo_8") | {"allow": {"hailo-archive": "x"}}, {}),
    ("binary-pages", (), {}, {"odd_binaries": {"a.whl: a.so": 4096}}),
    ("kernel-headers", (), {"headers": {"deb": "1:6.18.34-1+rpt1"}}, {}),
    ("kernel-headers", (), {"kernel": {"version": "6.18.34"}}, {}),
    ("kernel-dkms", (), {"dkms": {"version": None}}, {}),
    ("kernel-raspberry", (), {"kernel": {"package": "linux-image-arm64-rpi-2712"}}, {}),
    ("kernel-known", (), {"kernel": {"version": "6.18.51", "deb": "1:6.18.51-1+rpt1"},
                          "headers": {"deb": "1:6.18.51-1+rpt1"}}, {}),
    ("suite-known", ("none",), {"os": {"suite": "bookworm"}, "runtime": {"python": "3.11"}}, {}),
    ("suite-python", (), {"runtime": {"python": "3.12"}}, {}),
    ("eeprom-kernel", (), {"eeprom": {"minimum": "2024-09-05"}}, {}),
    ("eeprom-hat", (), {"eeprom": {"minimum": "2023-11-20"}, "kernel": {"version": None, "deb": None},
                        "headers": {"deb": None}}, {}),
    ("eeprom-reachable", (), {"eeprom": {"minimum": "2026-08-12"}}, {}),
    ("eeprom-large-boards", (), {"eeprom": {"version": None}}, {"memory_mb": {"pi-1": 16384}}),
    ("mender-variant", (), {"mender_client": {"version": "5.1.0-1"}}, {}),
    ("mender-upstream", (), {"mender_client": {"variant": "upstream", "version": "5.1.0-1"}}, {}),
    ("mender-kernel", (), ROOTFS, {}),
    ("mender-new-boards", (), V8 | ROOTFS, {"memory_mb": {"pi-1": 16384}}),
    ("mender-apt-kernel", (), V8 | ROOTFS | {"raspi_firmware": {"version": None}}, {}),
    ("mender-archive", (), {}, {"sources": (Source("m", ("https://downloads.mender.example/repos/debian",)),)}),
    ("archive-key", (), {}, {"sources": (Source("m", ("https://a.example/",), key_expiry=100),), "now": 101.0}),
    ("bundle-host", ("hat-plus-2",), {}, {"bundle": Bundle("a@1.0.0", "hef", ("hat-plus-26",))}),
    ("hef-chip", ("hat-plus-2",), {}, {"bundle": Bundle("a@1.0.0", "hef")}),
    ("bundle-stack", (), {}, {"bundle": Bundle("a@1.0.0", "hef", ("hat-plus-2",), hailort=">=5.2")}),
    ("bundle-stack", (), {}, {"bundle": Bundle("a@1.0.0", "hef", ("hat-plus-2",), firmware="nonsense")}),
    ("bundle-runtime", (), {}, {"bundle": Bundle("a@1.0.0", "onnx", runtime=">=0.2")}),
]  # fmt: skip


@pytest.mark.parametrize("rule,hats,lock,fields", CASES, ids=[f"{case[0]}-{n}" for n, case in enumerate(CASES)])
def test_a_broken_rule_is_named_and_no_other(
    broken: Broken, rule: str, hats: tuple[str, ...], lock: dict[str, Any], fields: dict[str, Any]
) -> None:
    assert broken(*hats, lock=lock, **fields) == [rule]


def test_every_rule_has_a_case_that_breaks_it() -> None:
    elsewhere = {"suite-h10", "one-lane"}
    assert {case[0] for case in CASES} | elsewhere == set(BY_ID)


def test_a_hat_and_an_nvme_disk_exclude_each_other(combination: Build) -> None:
    of = combination("hat-plus-2", "none")
    hosts = {name: host(name, one.hat, storage="nvme") for name, one in of.hosts.items()}
    found = check(Combination(of.release, hosts))
    assert [finding.what for finding in found] == ["pi-1: hat is hat-plus-2, storage is nvme"]


def test_bookworm_has_no_stack_for_ai_hat_plus_2(broken: Broken) -> None:
    lock = {"os": {"suite": "bookworm"}, "runtime": {"python": "3.11"}, "allow": {"suite-known": "one old site"}}
    assert broken("hat-plus-2", lock=lock) == ["suite-h10"]
    assert broken("none", lock=lock) == []


# -- failures --------------------------------------------------------------

VERSIONS = ("5.1.0", "5.1.1", "5.2.0", "4.23.0", None)


@pytest.mark.parametrize("driver,library,firmware", list(itertools.product(VERSIONS, repeat=3)))
def test_f01_driver_library_and_firmware_are_one_version_or_refused(
    broken: Broken, driver: str | None, library: str | None, firmware: str | None
) -> None:
    """All 125 triples: where two that are named differ, it is this rule; where all are equal, it is not."""
    packages = {
        name: version
        for name, version in (("h10-hailort", library), ("h10-hailort-pcie-driver", driver))
        if version is not None
    }
    lock = {"hailo_10h": {"driver": driver, "library": library, "firmware": firmware, "packages": packages}}
    named = {driver, library, firmware} - {None}
    assert ("hailo-one-version" in broken(lock=lock)) == (len(named) > 1)
    if (driver, library, firmware) == ("5.1.1", "5.1.1", "5.1.1"):
        assert broken(lock=lock) == []


@pytest.mark.parametrize(
    "driver,kernel",
    list(
        itertools.product(
            ("5.1.1", "5.2.0", "5.3.0", "5.3.1", "5.4.0"),
            ("6.12.47", "6.12.75", "6.14.9", "6.15.0", "6.18.34", "6.18.50"),
        )
    ),
)
def test_f07_a_driver_that_does_not_build_on_the_kernel_is_refused(broken: Broken, driver: str, kernel: str) -> None:
    deb = f"1:{kernel}-1+rpt1"
    allow = dict.fromkeys(("hailo-archive", "hailo-known", "kernel-known"), "tried")
    lock = hailo(driver) | {"kernel": {"version": kernel, "deb": deb}, "headers": {"deb": deb}, "allow": allow}
    new = numbers(kernel)[:2] >= (6, 15)
    expected = {"5.3": ["driver-builds"], "5.4": ["driver-may-build"]}.get(driver[:3], []) if new else []
    assert broken(lock=lock) == expected


def test_f07_no_reason_allows_a_driver_that_cannot_be_built(combination: Build) -> None:
    of = combination(lock=hailo("5.3.0") | {"allow": {"hailo-archive": "tried", "driver-builds": "we patch it"}})
    found = {finding.rule.id: finding for finding in check(of) if finding.refused}
    assert set(found) == {"driver-builds", "allow"}
    assert "forbidden" in found["allow"].what


def test_f11_an_old_driver_is_taken_where_it_is_told_the_page_size(broken: Broken) -> None:
    lock = hailo("4.22.0", row="hailo_8") | {"allow": {"hailo-archive": "x"}}
    options = {"pi-1": {"force_desc_page_size": "4096"}}
    assert broken("hat-plus-26", lock=lock, driver_options=options) == []
    assert broken("hat-plus-26", lock=lock | V8) == []


@pytest.mark.parametrize("largest,pages,refused", [(4096, 16384, True), (16384, 16384, False), (4096, 4096, False)])
def test_f12_a_binary_for_small_pages_is_refused_on_large_ones(
    broken: Broken, *, largest: int, pages: int, refused: bool
) -> None:
    lock = V8 if pages == 4096 else {}
    assert broken(lock=lock, odd_binaries={"a.whl: a.so": largest}) == (["binary-pages"] if refused else [])


def test_f24_a_menderised_fleet_pins_what_apt_must_not_replace(broken: Broken) -> None:
    rootfs = V8 | {"mender_client": {"integration": "rootfs"}}
    assert broken(lock=rootfs) == []
    bare = rootfs | {"kernel": dict.fromkeys(V8["kernel"]), "headers": {"package": None}}
    assert "mender-apt-kernel" in broken(lock=bare)


def test_f25_a_key_that_is_over_and_a_path_that_moved_are_refused_before_a_host_is_asked(broken: Broken) -> None:
    old = Source("mender", ("https://downloads.mender.example/repos/debian/",), key_expiry=2000)
    new = Source("mender", ("https://downloads.mender.example/repos/device-components",), key_expiry=2000)
    assert broken(sources=(old,), now=1999.0) == ["mender-archive"]
    assert broken(sources=(new,), now=1999.0) == []
    assert broken(sources=(new,), now=2000.0) == ["archive-key"]


@pytest.mark.parametrize(
    "flavour,integration", list(itertools.product(("rpi-2712", "rpi-v8"), ("application", "rootfs")))
)
def test_f38_mender_s_images_boot_the_small_pages_alone(broken: Broken, flavour: str, integration: str) -> None:
    lock = (V8 if flavour == "rpi-v8" else {}) | {"mender_client": {"integration": integration}}
    refused = integration == "rootfs" and flavour != "rpi-v8"
    assert broken(lock=lock) == (["mender-kernel"] if refused else [])


@pytest.mark.parametrize("package", ["linux-image-arm64", "linux-image-generic", "linux-image-haos"])
def test_f43_kernels_of_other_systems_are_refused(broken: Broken, package: str) -> None:
    lock = {"kernel": {"package": package, "flavour": None}, "headers": {"package": None}}
    assert broken(lock=lock) == ["kernel-raspberry"]


# -- allowances ------------------------------------------------------------


@pytest.mark.parametrize("rule,hats,lock,fields", CASES, ids=[f"{case[0]}-{n}" for n, case in enumerate(CASES)])
def test_a_reason_allows_what_may_be_allowed_and_nothing_else(
    combination: Build, rule: str, hats: tuple[str, ...], lock: dict[str, Any], fields: dict[str, Any]
) -> None:
    allow = lock.get("allow", {}) | {rule: "the bench ran it for a week"}
    refused = {f.rule.id for f in check(combination(*hats, lock=lock | {"allow": allow}, **fields)) if f.refused}
    assert refused == (set() if BY_ID[rule].status is not Status.FORBIDDEN else {rule, "allow"})


def test_an_unknown_allowance_is_refused_and_an_idle_one_is_said(combination: Build) -> None:
    of = combination(lock={"allow": {"no-such-rule": "x", "hailo-archive": "we were on 5.2"}})
    found = check(of)
    assert [finding.rule.id for finding in found] == ["allow"]
    assert "hedgerow release rules" in found[0].what
    assert solver.idle_allowances(of, found) == ["hailo-archive", "no-such-rule"]


def test_a_refusal_names_every_rule_with_its_source_and_what_to_type(combination: Build) -> None:
    found = check(combination(lock=hailo("5.2.0") | {"runtime": {"python": "3.12"}}))
    with pytest.raises(RefusedError) as caught:
        refuse(found, name="2026.10", where="release.yml", next_step="change it")
    text = str(caught.value)
    assert "hailo-archive (opt-in; §3.4)" in text
    assert "suite-python (forbidden; §3.2)" in text
    assert "fleet_release.allow.hailo-archive" in text
    assert int(caught.value.exit_code) == 3


def test_nothing_refused_raises_nothing(combination: Build) -> None:
    refuse(check(combination()), name="n", where="w", next_step="s")


# -- bundles ---------------------------------------------------------------


def test_a_hef_for_the_lock_s_set_is_taken(broken: Broken, hef: Bundle) -> None:
    assert broken(bundle=hef) == []


@pytest.mark.parametrize("one,other", list(itertools.combinations(known.ARCHITECTURES, 2)))
def test_a_hef_for_two_chips_is_refused(broken: Broken, one: str, other: str) -> None:
    assert broken(one, bundle=Bundle("a@1.0.0", "hef", (one, other))) == ["hef-chip"]  # type: ignore[arg-type]


def test_another_format_may_run_on_every_board(broken: Broken) -> None:
    assert broken("hat-plus-2", "none", bundle=Bundle("a@1.0.0", "onnx")) == []


# -- versions --------------------------------------------------------------


@pytest.mark.parametrize(
    "version,specifier,holds",
    [
        ("5.1.1", ">=5.1,<5.2", True),
        ("5.2.0", ">=5.1,<5.2", False),
        ("5.2", "==5.2.0", True),
        ("5.10.0", ">5.9", True),
        ("5.1.1", "!=5.1.1", False),
        ("5.1.1", "<= 5.1.1", True),
    ],
)
def test_specifiers(version: str, specifier: str, *, holds: bool) -> None:
    assert within(version, specifier) is holds


def test_versions_are_numbers_without_epoch_and_revision() -> None:
    assert numbers("1:6.18.50-1+rpt1") == (6, 18, 50)
    assert numbers("6.9.1") < numbers("6.18.0")
    assert upstream("1:6.18.50-1+rpt1") == "6.18.50"
    assert upstream("5.1.1") == "5.1.1"
    with pytest.raises(ValueError, match="no clause"):
        within("5.1.1", "~=5.1")
