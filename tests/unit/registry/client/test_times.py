"""Devices with any clock: the time is what signatures prove, and never less."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from client_support import ASSISTANT, NEXT, NOW, Timestamp

from hedgerow.registry.client import times
from hedgerow.registry.client.errors import Rule, TrustRefusedError
from hedgerow.registry.client.times import Floor, TrustedTime
from hedgerow.registry.trust_names import ISSUED

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def refused(view, reference=ASSISTANT):
    with pytest.raises(TrustRefusedError) as caught:
        view.manifest(reference)
    return caught.value


# -- the rules -------------------------------------------------------------------------


def test_the_later_of_clock_and_floor():
    floor = Floor(NOW, "timestamp 3")
    behind, right = TrustedTime(EPOCH, floor), TrustedTime(NOW + timedelta(hours=1), floor)
    assert (behind.now, behind.behind) == (NOW, NOW - EPOCH)
    assert (right.now, right.behind) == (NOW + timedelta(hours=1), timedelta())
    assert TrustedTime(EPOCH).now == EPOCH


def test_a_floor_never_sinks():
    floor = Floor(NOW, "timestamp 3")
    time = TrustedTime(EPOCH, floor)
    assert time.raised(Floor(NOW - timedelta(1), "targets 9")).floor == floor
    assert time.raised(None).floor == floor
    assert time.raised(Floor(NOW + timedelta(1), "targets 9")).floor.proven_by == "targets 9"


@pytest.mark.parametrize("synced, ahead", [(True, True), (False, False), (None, False)])
def test_only_a_synchronised_clock_contradicts(synced, ahead):
    time = TrustedTime(NOW, synced=synced)
    assert time.is_ahead(Floor(NOW + timedelta(days=1, seconds=1), "timestamp 3")) is ahead
    assert time.is_ahead(Floor(NOW + timedelta(days=1), "timestamp 3")) is False


@pytest.mark.parametrize("text", [None, 5, "", "2026-11-22", "2026-11-22T12:00:00+02:00", "9999-99-99T00:00:00Z"])
def test_what_says_no_time_in_the_one_form_proves_none(text):
    assert times.issued("timestamp", Timestamp(unrecognized_fields={ISSUED: text})) is None


def test_who_proves_a_time():
    signed = Timestamp(version=12, unrecognized_fields={ISSUED: "2026-11-22T12:00:00Z"})
    assert times.newest([("timestamp", signed), ("snapshot", Timestamp())]) == Floor(NOW, "timestamp 12")
    assert times.newest([]) is None


# -- a clock that is behind ----------------------------------------------------------------


def test_a_clock_of_1970_takes_the_time_from_what_it_verifies(device):
    view = device(now=EPOCH, synced=False)
    assert view.refresh().now == NOW
    assert view.manifest(ASSISTANT)


def test_the_floor_outlives_the_process_and_the_power(device):
    device().refresh()
    assert device(now=EPOCH).refresh().floor == Floor(NOW, "timestamp 2")


def test_a_clock_that_stands_still_does_not_keep_an_expired_builder_alive(device, repository, clock):
    """Online keys alone renew timestamp and snapshot; whoever has only those must not stretch a release's life."""
    stopped = clock.now
    assert device(now=stopped).manifest(ASSISTANT)
    clock.forward(days=91)
    repository.publish("targets")
    error = refused(device(now=stopped))
    assert error.rule is Rule.EXPIRED
    assert "model is expired" in error.what
    assert "timestamp" in error.what or "targets" in error.what


@pytest.mark.parametrize("role", ["root", "targets", "snapshot"])
def test_what_the_newest_timestamp_proves_expired_is_refused_by_any_clock(role, device, repository, clock):
    """A fresh timestamp over a role that ended while this clock stood still, on a device that had seen nothing."""
    repository.publish(role, lifetimes={role: 2})
    clock.forward(days=3)
    repository.write("timestamp", repository.sign("timestamp"))
    error = refused(device(now=EPOCH))
    assert error.rule is Rule.EXPIRED
    assert role in error.what
    assert "whatever the clock says (1970-01-01 00:00 UTC)" in error.what


# -- a clock that is ahead -----------------------------------------------------------------


@pytest.mark.parametrize(
    "days, synced, rule, typed",
    [
        (300, False, Rule.CLOCK, "timedatectl set-ntp true"),
        (1500, False, Rule.CLOCK, "timedatectl set-ntp true"),
        (300, True, Rule.EXPIRED, "hedgerow registry refresh"),
        (1500, True, Rule.EXPIRED, "hedgerow registry rotate root"),
    ],
)
def test_a_clock_years_ahead_says_what_to_type_and_leaves_no_trace(days, synced, rule, typed, device):
    error = refused(device(now=NOW + timedelta(days=days), synced=synced))
    assert error.rule is rule
    assert typed in error.next_step
    assert f"{days} days later" in error.what
    assert "2026-11-22 12:00 UTC" in error.what
    right = device(synced=True)
    assert right.manifest(ASSISTANT)
    assert right.refresh().floor.time == NOW


def test_where_nobody_knows_about_the_clock_both_are_named(device):
    error = refused(device(now=NOW + timedelta(days=3)))
    assert error.rule is Rule.EXPIRED
    assert "hedgerow registry refresh" in error.next_step
    assert "timedatectl set-ntp true" in error.next_step


def test_a_registry_without_signed_times_is_held_against_the_clock_alone(tmp_path, client_support, clock):
    from hedgerow.registry.client.trusted import Trusted
    from hedgerow.registry.source import FolderSource

    made = client_support.Repository(tmp_path / "plain", clock, issued=False)
    made.released()
    trust = client_support.device_trust(made, tmp_path / "plain-trust")
    source = FolderSource(made.folder)
    assert Trusted(source, trust, now=clock).refresh().floor is None
    late = Trusted(source, trust, now=lambda: NOW + timedelta(days=2))
    error = refused(late)
    assert error.rule is Rule.EXPIRED
    assert "by this device's clock, 2026-11-24 12:00 UTC" in error.what


# -- a registry that is ahead ---------------------------------------------------------------


def stolen(repository, **span):
    """A thief with the timestamp's key signs at another time."""
    honest, clock = repository.clock.now, repository.clock
    clock.forward(**span)
    repository.write("timestamp", repository.sign("timestamp"))
    clock.now = honest


def test_a_floor_that_a_thief_pushed_ahead_falls_with_the_key(device, repository, clock):
    assert device(synced=False).manifest(ASSISTANT)
    stolen(repository, days=20_000)
    assert refused(device(synced=False)).rule is Rule.EXPIRED
    repository.publish()
    assert refused(device(synced=False)).rule is Rule.EXPIRED  # the key is still believed, and so is its time
    repository.rotated("timestamp")
    view = device(synced=False)
    assert view.refresh().floor.time == NOW
    assert view.manifest(ASSISTANT)


def test_a_floor_that_a_thief_pushed_ahead_is_left_once_the_clock_is_synchronised(device, repository, trust_dir):
    assert device(synced=False).manifest(ASSISTANT)
    stolen(repository, days=20_000)
    assert refused(device(synced=False)).rule is Rule.EXPIRED
    assert refused(device(synced=True)).rule is Rule.CLOCK  # nothing newer is there yet
    repository.publish()
    assert device(synced=True).manifest(ASSISTANT)
    assert device(synced=False).refresh().floor.time == NOW


def test_a_synchronised_clock_refuses_it_and_keeps_nothing_of_it(device, repository, trust_dir):
    assert device(synced=True).manifest(ASSISTANT)
    kept = (trust_dir / "timestamp.json").read_bytes()
    stolen(repository, days=2)
    error = refused(device(synced=True))
    assert (trust_dir / "timestamp.json").read_bytes() == kept
    assert error.rule is Rule.CLOCK
    assert "was signed at 2026-11-24 12:00 UTC" in error.what
    assert "says 2026-11-22 12:00 UTC" in error.what
    repository.released(NEXT)  # a newer timestamp, and no ceremony
    assert device(synced=True).manifest(NEXT)


# -- months without a line --------------------------------------------------------------------


def test_months_offline_and_three_roots_meanwhile(device, repository, clock, trust_dir):
    assert device().manifest(ASSISTANT)
    for days, roles in ((60, ["root", "timestamp"]), (150, ["root", "snapshot"]), (200, ["root", "targets"])):
        clock.forward(days=days)
        repository.rotated(*roles)
    repository.publish("build-model", "approve-model")
    repository.released(NEXT)
    view = device()
    assert view.manifest(NEXT)
    assert view.manifest(ASSISTANT)
    assert (trust_dir / "root.json").readlink().name == "4.root.json"


def test_an_expired_root_without_another_is_refused_with_its_ceremony(device, repository, clock):
    clock.forward(days=366)
    repository.publish("targets")
    error = refused(device())
    assert error.rule is Rule.EXPIRED
    assert "rotate root" in error.next_step


def test_an_expired_timestamp_refuses_what_is_new_until_it_is_refreshed(device, repository, clock):
    assert device().manifest(ASSISTANT)
    clock.forward(days=1, seconds=1)
    error = refused(device(synced=True))
    assert error.rule is Rule.EXPIRED
    assert "what serves goes on" in error.next_step
    repository.publish()
    assert device(synced=True).manifest(ASSISTANT)
