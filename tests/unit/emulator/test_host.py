from __future__ import annotations

import pytest

from hedgerow.emulator.host import EmulatedHost, mac_address
from hedgerow.emulator.podman import Podman
from hedgerow.errors import UsageError
from hedgerow.inventory import Host


def emulated(tmp_path, **changes) -> EmulatedHost:
    settings = {
        "name": "pi", "address": "10.77.0.11", "groups": ("pis",), "site": "orchard", "serial": "00000000deadbeef",
        "hat": "hat-plus-2", "cooling": "active", "storage": "sd",
    }  # fmt: skip
    return EmulatedHost(Podman(tmp_path / "podman"), "meadow", Host(**settings | changes), tmp_path / "pi")


@pytest.mark.parametrize(
    "change",
    [{"address": "10.77.0.12"}, {"serial": "00000000deadbee0"}, {"site": "heath"}, {"cooling": "passive"},
     {"vars": {"board_memory_mb": 4096}}],
)  # fmt: skip
def test_what_a_container_is_made_from_changes_its_digest(tmp_path, change) -> None:
    before = emulated(tmp_path).digest("image", "10.77.0.0/24")
    assert emulated(tmp_path, **change).digest("image", "10.77.0.0/24") != before


def test_labels_are_no_part_of_it(tmp_path) -> None:
    before = emulated(tmp_path).digest("image", "10.77.0.0/24")
    assert emulated(tmp_path, labels={"ring": "canary"}).digest("image", "10.77.0.0/24") == before


@pytest.mark.parametrize("memory", [3000, "8192", None])
def test_memory_that_no_board_has(tmp_path, memory) -> None:
    with pytest.raises(UsageError, match="board_memory_mb"):
        emulated(tmp_path, vars={"board_memory_mb": memory})


def test_mac_address_is_kept_local_and_unicast() -> None:
    address = mac_address("00000000deadbeef")
    assert address == mac_address("00000000deadbeef") != mac_address("00000000deadbee0")
    assert int(address[:2], 16) & 0b11 == 0b10
    assert len(address) == 17
