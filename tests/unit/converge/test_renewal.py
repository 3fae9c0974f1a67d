from __future__ import annotations

from typing import Any

from hedgerow.converge import renewal
from hedgerow.gateway.renewal.config import Board, RenewalConfig
from hedgerow.identity.holders import Anchored, Seen, Settled

HOSTVARS: dict[str, dict[str, Any]] = {
    "gw": {"pi_serial": "10000000000000aa"},
    "pi-1": {"pi_serial": "10000000000000b1"},
    "pi-2": {"pi_serial": "10000000000000b2"},
}
AT = "2026-11-01T00:00:00Z"


def test_the_machines_of_the_site_by_name_each_with_its_profile() -> None:
    found = renewal.boards(HOSTVARS, ["pi-2", "gw", "pi-1"], ["gw"], [])
    assert found == [
        {"host": "gw", "serial": "10000000000000aa", "profile": "gateway"},
        {"host": "pi-1", "serial": "10000000000000b1", "profile": "device"},
        {"host": "pi-2", "serial": "10000000000000b2", "profile": "device"},
    ]
    # The service reads what is written here.
    assert RenewalConfig("meadow", "orchard", tuple(Board(**each) for each in found)).board("10000000000000b1")


def test_what_visits_have_found_comes_along() -> None:
    serial = "10000000000000b1"
    history = [
        Anchored(time=AT, serial=serial, host="pi-1", public_key="PEM"),
        Seen(time=AT, serial="10000000000000b2", host="pi-2", key_sha256="00", not_after=AT),
    ]
    found = renewal.boards(HOSTVARS, ["pi-1", "pi-2"], [], history)
    assert (found[0]["anchor"], "anchor" in found[1]) == ("PEM", False)
    settled = Settled(time="2026-11-02T00:00:00Z", serial=serial, host="pi-1", reason="a new board", by="ada")
    (board,) = renewal.boards(HOSTVARS, ["pi-1"], [], [*history, settled])
    assert board["cleared"] == "2026-11-02T00:00:00Z"
    assert "anchor" not in board
