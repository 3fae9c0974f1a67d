"""The board's own key in one-time programmable memory: burnt by a person, and asked for its word from then on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import identity_fleet as fleets
import pytest
from identity_fleet import said
from rollout_fleet import Callers

from hedgerow.identity.keys_device import otp

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

MEMORY = "/hardware/otp"
ANCHOR = "/opt/hedgerow/runtime/current/bin/python -m hedgerow.device.cli identity anchor"


@pytest.fixture
def pi(spinney) -> Iterator[str]:
    """A Pi whose one-time memory is blank; afterwards it is, as no real board's ever is again."""
    host = str(spinney.pis[-1])
    spinney.rested(host)
    spinney.on(host, f"test ! -e {MEMORY}/key.pem")
    yield host
    spinney.on(host, f"rm -rf {MEMORY} {MEMORY}.aside")
    spinney.done(spinney.hedgerow("ca", "settle", host, "--reason", "its board was exchanged for a blank one"))
    spinney.done(spinney.rotate(host, device_identity_key="file", device_identity_new_key=True))


def burn(spinney, pi: str, typed: str, *, named: str) -> str:
    """What ``identity anchor --burn`` says at a terminal to somebody who types ``typed``."""
    command = f"env HEDGEROW_BURN_OTP={named} {ANCHOR} --burn"
    done = spinney.controller.on(pi, f'script -qec "{command}" /dev/null', stdin=f"{typed}\n".encode())
    return " ".join((done.stdout + done.stderr).split())


def burns(spinney, pi: str) -> list[str]:
    return spinney.on(pi, f"cat {MEMORY}/burns 2>/dev/null || :").splitlines()


def anchored(spinney, serial: str) -> list[str]:
    lines = json.loads(spinney.done(spinney.hedgerow("ca", "holders", "--json")))
    return [line["public_key"] for line in lines if line["serial"] == serial and line["event"] == "anchored"]


def test_a_board_vouches_with_its_own_key_and_a_card_in_another_board_gets_nothing(spinney, pi, wait) -> None:
    serial = spinney.inventory.hosts[pi].serial
    before = anchored(spinney, serial)

    # Nobody burns by accident, by a script, or into the wrong board.
    other = spinney.inventory.hosts[spinney.pis[0]].serial
    assert "the board has to be named first" in burn(spinney, pi, otp.confirmation(serial), named=other)
    assert "not confirmed; nothing was burnt" in burn(spinney, pi, "yes", named=serial)
    script = spinney.controller.on(pi, f"HEDGEROW_BURN_OTP={serial} {ANCHOR} --burn")
    assert "the confirmation is typed by a person" in script.stderr
    without = spinney.rotate(pi, device_identity_key="otp")
    assert without.returncode != 0
    assert "this board has no key of its own to vouch with" in said(without)
    assert burns(spinney, pi) == []

    burn(spinney, pi, otp.confirmation(serial), named=serial)
    assert burns(spinney, pi) == ["key 1"]
    assert "it stays; nothing was burnt" in burn(spinney, pi, otp.confirmation(serial), named=serial)
    assert burns(spinney, pi) == ["key 1"]

    # Somebody asks all along: what is refused below takes nothing from what is in service.
    with Callers(spinney, [pi], fresh=True) as callers:
        spinney.done(spinney.rotate(pi, device_identity_key="otp"))
        own = spinney.on(pi, "rpi-fw-crypto pubkey --key-id 1 | openssl pkey -pubin -inform DER -pubout")
        assert [key.split() for key in anchored(spinney, serial)] == [*(key.split() for key in before), own.split()]
        served = spinney.serial_numbers([pi])

        # The same card in another board: one with a key of its own, and one that has none.
        spinney.on(pi, f"mv {MEMORY} {MEMORY}.aside && rpi-fw-crypto genkey --key-id 1 --alg ec")
        for new_key in (False, True):
            refused = spinney.rotate(pi, device_identity_key="otp", device_identity_new_key=new_key)
            assert refused.returncode != 0
            assert f"the board of {pi} does not vouch for its request with its own key" in said(refused)
            assert f"hedgerow ca settle {serial} --reason WHY" in said(refused)
        refused = spinney.rotate(pi, device_identity_key="file")
        assert "a board that has once vouched does so for ever" in said(refused)
        assert spinney.serial_numbers([pi]) == served

        spinney.on(pi, f"rm -r {MEMORY} && mv {MEMORY}.aside {MEMORY}")
        spinney.done(spinney.rotate(pi, device_identity_key="otp"))
        after = spinney.serial_numbers([pi])
        assert after != served
        wait(lambda: spinney.all_shown([pi]) == {pi: set(after.values())})
    callers.none_failed()
    folder = spinney.on(pi, f"cat {fleets.IDENTITY}/device.key")
    assert "PRIVATE KEY" in folder, "what TLS uses is a file's key; the board's own has signed, and stayed where it is"
