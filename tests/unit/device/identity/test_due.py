"""When a renewal is due, and what time it is. Pure: the time is an argument."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from hedgerow.device.identity import due
from hedgerow.identity import certificates
from hedgerow.registry.client.times import Floor, TrustedTime

SERIAL = "10000000a1b2c3d4"
BEGIN = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
LIFE = dt.timedelta(days=30)


@pytest.fixture(scope="module")
def certificate():
    key = certificates.new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERIAL)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    return (
        builder.serial_number(1)
        .not_valid_before(BEGIN)
        .not_valid_after(BEGIN + LIFE)
        .sign(key, certificates.hashes.SHA256())
    )


def test_it_is_due_in_the_last_third_or_a_little_before(certificate):
    at = due.judge(certificate, SERIAL, BEGIN).at
    assert BEGIN + LIFE * 7 / 12 <= at <= BEGIN + LIFE * 2 / 3
    assert due.judge(certificate, SERIAL, at - dt.timedelta(seconds=1)).reason is None
    judged = due.judge(certificate, SERIAL, at)
    assert "days of its life are left" in judged.reason
    assert not judged.expired


def test_a_site_that_was_enrolled_at_once_does_not_come_back_at_once(certificate):
    moments = sorted(due.judge(certificate, f"10000000{number:08x}", BEGIN).at for number in range(200))
    assert moments[-1] - moments[0] > LIFE / 12 * 0.9
    # No tenth of the spread has more than a quarter of the site.
    tenth = LIFE / 120
    for start in moments:
        assert sum(start <= each < start + tenth for each in moments) < 50


def test_the_end_is_the_end(certificate):
    assert due.judge(certificate, SERIAL, BEGIN + LIFE).expired
    assert "expired on 2026-12-01" in due.judge(certificate, SERIAL, BEGIN + LIFE * 40).reason
    assert "hours of its life" in due.judge(certificate, SERIAL, BEGIN + LIFE - dt.timedelta(hours=5)).reason


def test_the_floor_is_the_newest_thing_that_was_signed(certificate):
    assert due.floor(None, []) is None
    assert due.floor(certificate, []) == Floor(BEGIN, "this device's certificate")


@pytest.mark.parametrize(
    "clock,synced,at,said",
    [
        (BEGIN - dt.timedelta(days=900), False, int(BEGIN.timestamp()), "is behind what is proven"),
        (BEGIN - dt.timedelta(days=900), True, int(BEGIN.timestamp()), "is behind what is proven"),
        (BEGIN + dt.timedelta(days=900), False, None, "is not synchronised"),
        (BEGIN + dt.timedelta(days=1), True, None, ""),
        (BEGIN + dt.timedelta(days=1), None, None, ""),
    ],
)
def test_a_clock_is_doubted_where_there_is_reason(clock, synced, at, said):
    time = TrustedTime(clock, Floor(BEGIN, "this device's certificate"), synced)
    assert due.verify_at(time) == at
    assert said in due.doubt(time) if said else due.doubt(time) == ""
