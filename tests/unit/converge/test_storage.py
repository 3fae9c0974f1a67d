from __future__ import annotations

import copy
from typing import Any

import pytest

from hedgerow.converge import storage
from hedgerow.errors import UsageError

DATA = "/dev/disk/by-id/usb-Fast_SSD_0042-0:0"
LIMITS = {"boot_free_mb": 64, "inodes_free_percent": 5}


def device(name: str, number: str, **more: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "parent": None,
        "fstype": None,
        "label": None,
        "table": None,
        "links": [],
        "size_mb": 1000,
        "type": "disk",
    }
    return {"name": name, "path": f"/dev/{name}", "number": number, **known, **more}


def mount(path: str, number: str, **more: Any) -> dict[str, Any]:
    known = {"type": "ext4", "read_only": False, "size_mb": 512, "free_mb": 300, "inodes_free_percent": 90}
    return {"path": path, "device": number, "source": "/dev/x", **known, **more}


def host(**of_disk: Any) -> dict[str, Any]:
    """Facts of a Pi that runs from a card and has an empty SSD."""
    return {
        "packages": {"e2fsprogs": "1.47.2-3"},
        "state": {
            "container": False,
            "packages": {},
            "units": {},
            "storage": {
                "mounts": [mount("/", "179:2"), mount("/boot/firmware", "179:1", type="vfat")],
                "root": {"source": "/dev/mmcblk0p2", "type": "ext4", "read_only": False},
                "devices": [
                    device("mmcblk0", "179:0", table="dos", links=["/dev/disk/by-id/mmc-SD32G_0x1"]),
                    device("mmcblk0p1", "179:1", parent="mmcblk0", fstype="vfat", type="part"),
                    device("mmcblk0p2", "179:2", parent="mmcblk0", fstype="ext4", type="part", label="rootfs",
                           links=["/dev/disk/by-partuuid/1-02"]),
                    device("sda", "8:0", links=[DATA], **of_disk),
                ],
                "ext4": {"mmcblk0p2": {"errors": 0, "first": 0, "last": 0}},
                "wear": {"mmcblk0": {"pre_eol_info": None}},
                "swaps": [],
                "fstab_swaps": [],
                "zram_backing": None,
                "tpm2": False,
                "crypttab": None,
                "left_on_card": False,
            },
        },
    }  # fmt: skip


def asked(**data: Any) -> dict[str, Any]:
    known = {"device": DATA, "encrypted": False, "pcrs": "", "format": "", "rebind": ""}
    return {"host": "pi-1", "data": known | data, "swap": "unmanaged", "limits": LIMITS}


def refusal(facts: dict[str, Any], **data: Any) -> str:
    return " ".join(storage.plan(facts, asked(**data))["refusals"])


def mounted(facts: dict[str, Any], number: str = "8:0") -> dict[str, Any]:
    facts["state"]["storage"]["mounts"].append(mount(storage.TARGET, number))
    return facts


# -- data partition --------------------------------------------------------


def test_nothing_asked_nothing_done() -> None:
    plan = storage.plan(host(), asked(device="none"))
    assert (plan["data"]["step"], plan["refusals"], plan["packages"]) == ("none", [], [])


def test_an_empty_disk_is_taken_with_the_operator_s_word_alone() -> None:
    assert f"-e storage_data_format=pi-1:{DATA}" in refusal(host())
    plan = storage.plan(host(), asked(format=f"pi-1:{DATA}"))
    assert (plan["refusals"], plan["data"]["step"], plan["data"]["may_format"]) == ([], "prepare", True)


@pytest.mark.parametrize("word", [f"pi-2:{DATA}", "pi-1:/dev/sda", "pi-1", DATA, "yes"])
def test_a_word_for_another_host_or_disk_is_none(word: str) -> None:
    assert "is empty and would be formatted" in refusal(host(), format=word)


@pytest.mark.parametrize(
    "content",
    [
        {"fstype": "ext4", "label": "photos"},
        {"fstype": "ext4"},
        {"fstype": "vfat"},
        {"table": "gpt"},
        {"fstype": "crypto_LUKS", "label": "hedgerow-luks"},  # ours, but asked for unencrypted
    ],
)
def test_a_disk_with_anything_on_it_is_refused_whatever_was_typed(content: dict[str, Any]) -> None:
    assert "Nothing is formatted that carries anything" in refusal(host(**content), format=f"pi-1:{DATA}")


def test_a_disk_with_a_partition_is_not_empty_even_without_a_table() -> None:
    facts = host()
    facts["state"]["storage"]["devices"].append(device("sda1", "8:1", parent="sda"))
    assert "it carries sda1" in refusal(facts, format=f"pi-1:{DATA}")


@pytest.mark.parametrize("name", ["/dev/disk/by-id/mmc-SD32G_0x1", "/dev/disk/by-partuuid/1-02"])
def test_the_disk_below_root_is_refused_by_any_name(name: str) -> None:
    found = refusal(host(), device=name, format=f"pi-1:{name}")
    assert "which this host runs from" in found
    assert DATA in found, "it names the disk that may be meant"


def test_a_missing_disk_is_refused_with_those_that_are_there() -> None:
    found = refusal(host(), device="/dev/disk/by-id/usb-Gone")
    assert "is not there" in found
    assert DATA in found


def test_a_container_s_disks_are_its_machine_s() -> None:
    facts = host()
    facts["state"]["container"] = True
    assert "are its machine's" in refusal(facts, format=f"pi-1:{DATA}")


@pytest.mark.parametrize("name", ["/dev/sda", "/dev/disk/by-uuid/1-2", "/dev/disk/by-id/../../sda", "sda", ""])
def test_a_name_that_may_be_another_disk_tomorrow_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="stays the same"):
        storage.plan(host(), asked(device=name))


def test_our_own_disk_is_mounted_without_asking_and_never_formatted_again() -> None:
    plan = storage.plan(host(fstype="ext4", label="hedgerow-data"), asked(format=f"pi-1:{DATA}"))
    assert (plan["refusals"], plan["data"]["step"], plan["data"]["may_format"]) == ([], "prepare", False)


def test_an_unfinished_disk_of_ours_goes_on_with_the_word() -> None:
    assert "is unfinished" in refusal(host(fstype="ext4", label="hedgerow-new"))
    assert refusal(host(fstype="ext4", label="hedgerow-new"), format=f"pi-1:{DATA}") == ""


def test_mounted_is_ready() -> None:
    facts = mounted(host(fstype="ext4", label="hedgerow-data"))
    assert storage.plan(facts, asked())["data"]["step"] == "ready"


def test_mounted_with_a_copy_left_on_the_card_is_cleaned_up() -> None:
    facts = mounted(host(fstype="ext4", label="hedgerow-data"))
    facts["state"]["storage"]["left_on_card"] = True
    assert storage.plan(facts, asked())["data"]["step"] == "prepare"


def test_mounted_from_another_disk_is_not() -> None:
    facts = mounted(host(fstype="ext4", label="hedgerow-data"), number="179:2")
    assert storage.plan(facts, asked())["data"]["step"] == "prepare"


def test_taking_the_partition_out_of_the_inventory_moves_nothing() -> None:
    facts = host()
    facts["state"]["units"][storage.MOUNT_UNIT] = {"enabled": "enabled", "active": "active"}
    assert "never moved back by itself" in refusal(facts, device="none")


# -- encryption ------------------------------------------------------------


def encrypted_host(**of_disk: Any) -> dict[str, Any]:
    facts = host(**of_disk)
    facts["state"]["storage"]["tpm2"] = True
    return facts


def test_encryption_needs_a_tpm_and_says_where_the_recovery_key_is() -> None:
    found = refusal(host(), encrypted=True, format=f"pi-1:{DATA}")
    assert "no TPM 2.0 is there" in found
    assert "recovery key is on the controller" in found


def test_an_encrypted_disk_is_opened_by_the_mapping_s_name() -> None:
    plan = storage.plan(encrypted_host(), asked(encrypted=True, format=f"pi-1:{DATA}"))
    assert plan["refusals"] == []
    assert plan["data"]["what"] == "/dev/mapper/hedgerow_data"
    assert plan["data"]["fsck_unit"] == "systemd-fsck@dev-mapper-hedgerow_data.service"
    assert {"systemd-cryptsetup", "cryptsetup-bin", "libtss2-tcti-device0t64"} <= set(plan["packages"])
    assert plan["data"]["crypttab"].split()[:3] == ["hedgerow_data", DATA, "-"]


def test_an_open_and_mounted_one_is_ready_unless_it_is_to_be_rebound() -> None:
    facts = encrypted_host(fstype="crypto_LUKS", label="hedgerow-luks")
    facts["state"]["storage"]["devices"].append(device("hedgerow_data", "252:0", parent="sda", type="crypt"))
    mounted(facts, "252:0")
    assert storage.plan(facts, asked(encrypted=True))["data"]["step"] == "ready"
    assert storage.plan(facts, asked(encrypted=True, rebind="pi-2"))["data"]["step"] == "ready"
    assert storage.plan(facts, asked(encrypted=True, rebind="pi-1"))["data"]["step"] == "prepare"


@pytest.mark.parametrize("pcrs", ["24", "7,8", "7+", "sha256", "7 8"])
def test_pcrs_that_are_none_are_refused(pcrs: str) -> None:
    with pytest.raises(UsageError, match="PCRs are numbers"):
        storage.plan(encrypted_host(), asked(encrypted=True, pcrs=pcrs))


FOREIGN = "swap /dev/sdb1 /dev/urandom swap\n# a remark\n"


@pytest.mark.parametrize(
    "current,device,expected",
    [
        (None, None, None),
        (FOREIGN, None, None),
        (FOREIGN + f"hedgerow_data {DATA} - x\n", None, FOREIGN),
    ],
)
def test_crypttab_without_ours(current: str | None, device: str | None, expected: str | None) -> None:
    assert storage.crypttab(current, device) == expected


def test_crypttab_keeps_foreign_lines_and_settles() -> None:
    text = storage.crypttab(FOREIGN, DATA)
    assert text is not None
    assert text.startswith(FOREIGN)
    assert "tpm2-device=auto,headless=true,nofail" in text
    assert storage.crypttab(text, DATA) is None, "a second run finds it as wanted"


@pytest.mark.parametrize(
    "path,name",
    [
        # as `systemd-escape --path` prints them
        ("/", "-"),
        ("/var/lib/hedgerow", "var-lib-hedgerow"),
        ("/dev/disk/by-id/usb-Fast_SSD_0042-0:0", r"dev-disk-by\x2did-usb\x2dFast_SSD_0042\x2d0:0"),
        ("/dev//mapper/a b/", r"dev-mapper-a\x20b"),
        ("/.hidden/x.y", r"\x2ehidden-x.y"),
        ("/é", r"\xc3\xa9"),
    ],
)
def test_unit_names_of_paths(path: str, name: str) -> None:
    assert storage.escape(path) == name


# -- swap ------------------------------------------------------------------


def swap(facts: dict[str, Any], mode: str = "zram") -> tuple[dict[str, Any], list[str]]:
    return storage.swap_plan(facts["state"], mode)


def test_raspberry_pi_s_own_swap_is_configured_where_it_is() -> None:
    facts = host()
    assert swap(facts)[0]["kind"] == "zram-generator"
    assert storage.plan(facts, asked(device="none") | {"swap": "zram"})["packages"] == ["systemd-zram-generator"]
    facts["state"]["packages"]["rpi-swap"] = "1.0"
    assert swap(facts)[0]["kind"] == "rpi-swap"
    assert swap(facts, "unmanaged")[0]["kind"] == "none"


def test_a_container_has_no_swap_of_its_own_and_hears_why() -> None:
    facts = host()
    facts["state"]["container"] = True
    plan, remarks = swap(facts)
    assert plan["kind"] == "none"
    assert "a container has its machine's swap" in remarks[0]


def test_f15_swap_that_still_writes_to_the_card_is_said() -> None:
    facts = host()
    facts["state"]["storage"] |= {
        "swaps": [{"path": "/var/swap", "type": "file", "size_mb": 512}, {"path": "/dev/zram0", "type": "partition"}],
        "fstab_swaps": ["/dev/mmcblk0p3"],
        "zram_backing": "/dev/loop0",
    }
    said = " ".join(swap(facts)[1])
    assert "swap lies on /var/swap" in said
    assert "/dev/mmcblk0p3" in said
    assert "still writes to /dev/loop0" in said
    assert "/dev/zram0" not in said


# -- what is wrong ---------------------------------------------------------


def signs(change: Any) -> list[str]:
    facts = copy.deepcopy(host())
    change(facts["state"]["storage"])
    return storage.signs(facts["state"]["storage"], LIMITS)


def test_a_healthy_host_has_no_signs() -> None:
    assert signs(lambda _: None) == []


def test_f15_a_root_that_went_read_only_stops_the_run() -> None:
    facts = host()
    facts["state"]["storage"]["root"]["read_only"] = True
    assert "is read-only, and nothing can be converged" in refusal(facts, device="none")


def test_f15_errors_of_ext4_are_said_with_their_day() -> None:
    found = signs(lambda s: s["ext4"].update(mmcblk0p2={"errors": 3, "first": 1, "last": 1793000000}))
    assert "has 3 errors" in found[0]
    assert "2026-10-26" in found[0]


def test_f15_an_emmc_near_its_end_is_said() -> None:
    assert "near its end" in signs(lambda s: s["wear"]["mmcblk0"].update(pre_eol_info="0x02"))[0]
    assert signs(lambda s: s["wear"]["mmcblk0"].update(pre_eol_info="0x01")) == []


@pytest.mark.parametrize(
    "size,free",
    [(66, 10), (512, 12)],
)
def test_f40_a_boot_partition_without_room_for_the_next_kernel_is_said(size: int, free: int) -> None:
    found = signs(lambda s: s["mounts"][1].update(size_mb=size, free_mb=free))
    assert f"has {free} of {size} MiB free" in found[0]
    assert "fails halfway" in found[0]


def test_a_filesystem_without_inodes_is_said() -> None:
    assert "4 % of its inodes" in signs(lambda s: s["mounts"][0].update(inodes_free_percent=4))[0]
    assert signs(lambda s: s["mounts"][0].update(inodes_free_percent=None)) == [], "FAT counts none"
