"""Certificates of the whole fleet exchanged while it is asked all the time: by the playbook, and with their CA."""

from __future__ import annotations

import json
import time

import identity_fleet as fleets
import pytest
from rollout_fleet import Callers

from hedgerow.fleet import access
from hedgerow.identity.profiles import Profile

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

# Of a playbook that goes host by host at first, on two cores that the hosts themselves need as well.
SECONDS_PER_HOST = 60.0


def numbers(shown: dict[str, set[int]]) -> dict[str, int]:
    """Host → the one certificate that all of its servers show."""
    return {host: each.copy().pop() if len(each) == 1 else 0 for host, each in shown.items()}


@pytest.mark.parametrize("new_key", [False, True], ids=["the same keys", "other keys"])
def test_every_certificate_is_exchanged_and_no_answer_is_missing(spinney, wait, capsys, new_key) -> None:
    before, keys, servers = spinney.serial_numbers(), spinney.keys(), spinney.servers()
    with Callers(spinney, spinney.pis) as staying, Callers(spinney, spinney.pis, fresh=True) as coming:
        started = time.monotonic()
        done = spinney.rotate(**({"device_identity_new_key": True} if new_key else {}))
        seconds = (time.monotonic() - started) / len(spinney.hosts)
        after = spinney.serial_numbers()
        # Callers go on until the new certificates have been shown to them.
        wait(lambda: numbers(spinney.all_shown()) == after)
    spinney.done(done)
    for callers in (staying, coming):
        callers.none_failed()
    assert not set(before.values()) & set(after.values()), "every host has another certificate"
    assert all((spinney.keys()[host] != keys[host]) is new_key for host in spinney.hosts)
    assert spinney.servers() == servers, "the server takes a certificate without a restart"
    with capsys.disabled():
        print(f"\ncertificates exchanged: {seconds:.1f} s a host ({len(spinney.hosts)} hosts)")
    assert seconds < SECONDS_PER_HOST


def test_who_would_be_renewed_is_told_and_nobody_is(spinney) -> None:
    before = spinney.serial_numbers()
    said = spinney.done(spinney.controller.play("rotate_identity.yml", "--check", "--diff"))
    assert said.count("because: a renewal was asked for") == len(spinney.hosts)
    assert spinney.serial_numbers() == before


@pytest.mark.parametrize("tiers", [1, 2], ids=["one tier", "two tiers"])
def test_the_ca_is_exchanged_and_no_answer_is_missing(spinney, wait, tmp_path, tiers: int) -> None:
    """As docs/identity.md, "Rotation", has it: begin, distribute, switch, renew, finish, distribute."""
    old, servers = spinney.authority(), spinney.servers()
    kept = spinney.kept(Profile.OPERATOR, tmp_path)
    with Callers(spinney, spinney.pis, fresh=True) as coming:
        spinney.begin(tiers)
        assert spinney.authority() == old, "the old one goes on signing"
        early = spinney.hedgerow("ca", "rotate", "switch")
        assert early.returncode == 2
        assert "rule: trust before use" in early.stderr
        spinney.done(spinney.hedgerow("ca", "rotate", "switch", "--everybody-trusts-both"))
        new = spinney.authority()
        assert new != old
        spinney.done(spinney.rotate())
        after = spinney.serial_numbers()
        wait(lambda: numbers(spinney.all_shown()) == after)
        assert {spinney.certificate(host).issuer for host in spinney.hosts} == {new.subject}
        for host in spinney.hosts:
            spinney.certificate(host).verify_directly_issued_by(new)
        refused = spinney.hedgerow("ca", "rotate", "finish")
        assert refused.returncode == 3, "what was replaced has life left"
        assert "rule: a CA is trusted while what it signed is in use" in refused.stderr
        # This controller's own are replaced when they are used: after this nobody here has one of the old CA.
        for profile in (Profile.CLIENT, Profile.OPERATOR, Profile.MONITOR):
            access.context(spinney.inventory.fleet, profile)
        spinney.done(spinney.hedgerow("ca", "rotate", "finish", "--force"))
        spinney.done(spinney.converge())
        answered = coming.answered.copy()
        wait(lambda: all(coming.answered[host] > answered[host] + 5 for host in spinney.pis))
    coming.none_failed()
    assert spinney.servers() == servers
    for host in spinney.hosts:
        trusted = spinney.on(host, f"cat {fleets.IDENTITY}/ca.crt")
        assert trusted.count("BEGIN CERTIFICATE") == 1, f"{host} trusts the new one alone"
    shown = json.loads(spinney.done(spinney.hedgerow("ca", "rotate", "status", "--json")))
    assert [row["generation"]["state"] for row in shown][-2:] == ["retired", "active"]
    # Who kept a certificate of the CA that was retired is let in nowhere; nginx answers 400 to strangers.
    assert set(spinney.attempts(kept, spinney.pis[0]).values()) <= {"cut", "400"}
    assert spinney.attempts(spinney.holder(Profile.OPERATOR), spinney.pis[0])["infer"] == "200"
