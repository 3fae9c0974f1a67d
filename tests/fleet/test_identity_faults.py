"""What goes wrong with the identity of one host, what an operator reads of it, and how it is mended."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator

import identity_fleet as fleets
import pytest
import wrong_clock
from identity_fleet import said
from rollout_fleet import Callers

from hedgerow.identity.profiles import Profile

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

KEY = f"{fleets.IDENTITY}/device.key"
FILLER = f"{fleets.IDENTITY}/filler"
SHOW = "/opt/hedgerow/runtime/current/bin/python -m hedgerow.device.cli identity show --json"
YEARS = 5


@pytest.fixture
def pi(spinney) -> str:
    host = str(spinney.pis[-1])
    spinney.rested(host)
    return host


@pytest.fixture
def callers(spinney, pi) -> Iterator[Callers]:
    """Somebody asks all along, and no answer may be missing."""
    with Callers(spinney, [pi], fresh=True) as running:
        yield running
    running.none_failed()


# ── permissions ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "broken, what",
    [
        (("chmod 0644", KEY), "mode 0644 instead of 0600"),
        (("chown nobody", KEY), "instead of root"),
        (("chmod 0755", fleets.IDENTITY), "mode 0755 instead of 0700"),
    ],
    ids=["mode", "owner", "folder"],
)
def test_broken_permissions_are_told_and_mended(spinney, pi, callers, broken: tuple[str, str], what: str) -> None:
    before, path = spinney.serial_numbers([pi]), broken[1]
    spinney.on(pi, " ".join(broken))
    faults = json.loads(spinney.on(pi, SHOW))["faults"]
    assert [fault["path"] for fault in faults] == [path]
    assert what in faults[0]["what"]
    told = spinney.converge(pi)
    spinney.done(told)
    assert f"mended: {path}: {faults[0]['what']}" in said(told)
    modes = spinney.on(pi, f"stat -c '%a %U:%G' {fleets.IDENTITY} {KEY}")
    assert modes.split() == ["700", "root:root", "600", "root:root"]
    assert spinney.serial_numbers([pi]) == before, "permissions alone are no reason for another certificate"
    assert "mended" not in said(spinney.converge(pi))


def test_a_key_that_others_could_read_is_replaced_as_the_warning_says(spinney, pi, callers, wait) -> None:
    key = spinney.keys([pi])
    spinney.on(pi, f"chmod 0755 {fleets.IDENTITY}; chmod 0644 {KEY}")
    told = said(spinney.converge(pi))
    assert f"other users of {pi} could read its key until now" in told
    assert f"rotate_identity.yml --limit {pi} -e device_identity_new_key=true" in told
    assert spinney.keys([pi]) == key, "that is for a person to decide"
    spinney.done(spinney.rotate(pi, device_identity_new_key=True))
    assert spinney.keys([pi]) != key
    wait(lambda: spinney.all_shown([pi]) == {pi: set(spinney.serial_numbers([pi]).values())})


# ── the disk ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("new_key", [False, True], ids=["same key", "another key"])
def test_with_a_full_disk_the_old_certificate_stays_and_serves(spinney, pi, callers, wait, new_key) -> None:
    before, keys = spinney.serial_numbers([pi]), spinney.keys([pi])
    aside = f"{fleets.IDENTITY}.aside"
    spinney.on(
        pi,
        f"cp -a {fleets.IDENTITY} {aside} && mount -t tmpfs -o size=64k,mode=0700 tmpfs {fleets.IDENTITY}"
        f" && cp -a {aside}/. {fleets.IDENTITY}/",
    )
    try:
        spinney.on(pi, f"dd if=/dev/zero of={FILLER} bs=4k 2>/dev/null; df {fleets.IDENTITY} | grep 100%")
        refused = spinney.rotate(pi, device_identity_new_key=new_key)
        assert refused.returncode != 0
        assert "the disk is full; the old certificate stays" in said(refused)
        assert f"make room: df -h {fleets.IDENTITY}" in said(refused)
        assert (spinney.serial_numbers([pi]), spinney.keys([pi])) == (before, keys)
        assert spinney.all_shown([pi]) == {pi: set(before.values())}
        left = spinney.on(pi, f"ls -A {fleets.IDENTITY}").split()
        assert sorted(left) == sorted([*fleets.FILES, "filler"]), "nothing half-done is left"
        spinney.on(pi, f"rm {FILLER}")
        spinney.done(spinney.rotate(pi, device_identity_new_key=new_key))
        after = spinney.serial_numbers([pi])
        assert after != before
        wait(lambda: spinney.all_shown([pi]) == {pi: set(after.values())})
    finally:
        # What has been issued meanwhile stays: the card of before would be a copy that comes back.
        spinney.on(
            pi,
            f"rm -rf {aside} && cp -a {fleets.IDENTITY} {aside} && umount {fleets.IDENTITY}"
            f" && cp -a {aside}/. {fleets.IDENTITY}/ && rm -rf {aside} {FILLER}",
        )


# ── two boards with one serial ──────────────────────────────────────────────


def conflicts(spinney, serial: str) -> list[str]:
    lines = json.loads(spinney.done(spinney.hedgerow("ca", "holders", "--json")))
    return [line["code"] for line in lines if line["serial"] == serial and line["event"] == "conflict"]


def test_a_key_that_was_replaced_comes_back_and_is_refused_until_it_is_settled(spinney, pi, callers) -> None:
    """A clone has the serial and the card of before; the board of that serial has had another key since."""
    serial = spinney.inventory.hosts[pi].serial
    known = conflicts(spinney, serial)
    aside = f"{fleets.IDENTITY}.clone"
    spinney.on(pi, f"rm -rf {aside} && cp -a {fleets.IDENTITY} {aside}")
    spinney.done(spinney.rotate(pi, device_identity_new_key=True))
    rightful = spinney.serial_numbers([pi])
    spinney.on(pi, f"cp -a {aside}/. {fleets.IDENTITY}/ && rm -rf {aside}")
    clone = spinney.serial_numbers([pi])
    assert clone != rightful
    for _ in range(2):
        refused = spinney.rotate(pi)
        assert refused.returncode != 0
        assert f"{pi} gets no certificate: it shows a key that was replaced on" in said(refused)
        assert f"two boards with serial {serial}, or an old card" in said(refused)
        assert f"hedgerow ca settle {serial} --reason WHY" in said(refused)
    assert spinney.serial_numbers([pi]) == clone, "nothing was signed and nothing replaced"
    assert conflicts(spinney, serial) == [*known, "cloned"], "written down, once"
    assert spinney.done(spinney.rotate(spinney.pis[0])), "the others are served as ever"
    spinney.done(spinney.hedgerow("ca", "settle", pi, "--reason", "the card was restored from a copy"))
    spinney.done(spinney.rotate(pi, device_identity_new_key=True))
    assert spinney.serial_numbers([pi]) not in (clone, rightful)


def test_another_key_while_the_last_one_lives_is_refused_where_the_fleet_is_strict(spinney, pi, callers) -> None:
    serial = spinney.inventory.hosts[pi].serial
    known = conflicts(spinney, serial)
    spinney.on(
        pi,
        f"rm {KEY} {fleets.IDENTITY}/device.crt && openssl genpkey -algorithm EC"
        f" -pkeyopt ec_paramgen_curve:P-256 -out {KEY} && chmod 600 {KEY}",
    )
    refused = spinney.converge(pi, device_identity_strict=True)
    assert refused.returncode != 0
    assert f"{pi} gets no certificate: it shows another key than on" in said(refused)
    assert f"hedgerow ca settle {serial} --reason WHY" in said(refused)
    assert conflicts(spinney, serial) == [*known, "other_key"]
    spinney.done(spinney.hedgerow("ca", "settle", serial, "--reason", "the card was written anew"))
    spinney.done(spinney.converge(pi, device_identity_strict=True))
    assert conflicts(spinney, serial) == [*known, "other_key"]


def test_a_card_that_was_copied_to_another_board_gets_a_key_of_its_own(spinney, pi, wait) -> None:
    first = spinney.pis[0]
    key = spinney.keys([first])[first]
    for name in fleets.FILES:
        text = spinney.on(first, f"cat {fleets.IDENTITY}/{name}")
        spinney.controller.on(pi, f"cat > {fleets.IDENTITY}/{name}", stdin=text.encode())
    assert spinney.keys([pi]) == {pi: key}
    told = spinney.converge(pi)
    spinney.done(told)
    assert f"its key is the one of {first}" in said(told)
    assert spinney.keys([pi])[pi] != key
    assert spinney.keys([first]) == {first: key}
    wait(lambda: spinney.all_shown([pi]) == {pi: set(spinney.serial_numbers([pi]).values())})


# ── clocks ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("years", [YEARS, -YEARS], ids=["ahead", "behind"])
def test_a_controller_whose_clock_is_years_off_renews_no_host(spinney, callers, years: int) -> None:
    before, issued = spinney.serial_numbers(), spinney.issued()
    with wrong_clock.on_controller(years):
        refused = spinney.rotate()
        looked = spinney.hedgerow("fleet", "table", "--json")
        asked = spinney.hedgerow("ca", "issue", "--profile", "client", "--name", "late-application")
    assert refused.returncode != 0
    assert f"{'behind' if years > 0 else 'ahead of'} the controller's" in said(refused)
    assert "Check NTP on both" in said(refused)
    assert spinney.serial_numbers() == before
    if years < 0:  # its own CA proves that it is not so early; that it is not so late nothing proves
        assert asked.returncode == 3
        assert "before this CA began" in asked.stderr
        assert "timedatectl timesync-status" in asked.stderr
        assert spinney.issued() == issued
        assert looked.returncode != 0
    # With the right clock all is as before, the controller's own certificates too.
    rows = spinney.controller.table()
    assert {row["health"] for row in rows.values()} <= {"ok", "degraded"}, rows
    again = spinney.done(spinney.hedgerow("ca", "issue", "--profile", "client", "--name", "late-application", "--json"))
    assert dt.datetime.fromisoformat(json.loads(again)["not_after"]) < dt.datetime.now(dt.UTC) + dt.timedelta(days=91)
    spinney.done(spinney.rotate())


@pytest.mark.parametrize("years", [YEARS, -YEARS], ids=["ahead", "behind"])
def test_a_device_whose_clock_is_years_off_is_told_of_and_gets_no_certificate(spinney, pi, wait, years: int) -> None:
    before = spinney.serial_numbers([pi])
    operator = spinney.holder(Profile.OPERATOR)
    with wrong_clock.on_device(spinney, pi, years, "hedgerow-server") as variables:
        refused = spinney.rotate(pi, **variables)
        assert refused.returncode != 0
        assert f"{'ahead of' if years > 0 else 'behind'} the controller's" in said(refused)
        assert "a Pi 5 keeps time over a power cut only with a battery" in said(refused)
        assert spinney.serial_numbers([pi]) == before
        # To its server every certificate is over, or not yet good: it lets nobody in.
        wait(lambda: "200" not in spinney.attempts(operator, pi)["infer"])
        assert spinney.controller.table()[pi]["health"] == "unreachable"
    wait(lambda: spinney.attempts(operator, pi)["infer"] == "200")
    spinney.done(spinney.rotate(pi))
    assert spinney.serial_numbers([pi]) != before
