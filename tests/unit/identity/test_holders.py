"""The rules of who has which key: pure, and each can be broken."""

import datetime as dt

import pytest

from hedgerow.chainlog import ChainError
from hedgerow.identity.holders import (
    FILE,
    Anchored,
    Conflict,
    Holders,
    Seen,
    Settled,
    Verdict,
    anchor_of,
    judge,
    relevant,
)

NOW = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
A, B = "10000000a1b2c3d4", "10000000a1b2c3d5"
K1, K2, K3 = "11" * 32, "22" * 32, "33" * 32


def seen(serial, key, *, until="2026-12-20T00:00:00Z"):
    return Seen(time="2026-11-20T00:00:00Z", serial=serial, host=f"pi-{serial[-1]}", key_sha256=key, not_after=until)


def settled(serial):
    return Settled(time="2026-11-21T00:00:00Z", serial=serial, host="pi", reason="looked", by="jane@desk")


def conflict(serial):
    return Conflict(time="2026-11-21T00:00:00Z", serial=serial, host="pi", code="cloned", what="…")


def code(lines, serial, key, **options):
    verdict = judge(lines, serial, key, NOW, **options)
    return None if verdict is None else verdict.code


@pytest.mark.parametrize(
    "lines,serial,key,expected",
    [
        ([], A, K1, None),
        ([seen(A, K1)], A, K1, None),
        ([seen(A, K1)], A, K2, None),
        ([seen(A, K1)], B, K2, None),
        ([seen(A, K1)], B, K1, "copied_card"),
        ([seen(A, K1), seen(A, K2)], B, K1, "copied_card"),
        ([seen(A, K1), seen(A, K2)], A, K2, None),
        ([seen(A, K1), seen(A, K2)], A, K3, None),
        ([seen(A, K1), seen(A, K2)], A, K1, "cloned"),
        ([seen(A, K1), seen(A, K2), conflict(A)], A, K1, "cloned"),
        ([seen(A, K1), seen(A, K2), settled(A)], A, K1, None),
        ([seen(A, K1), seen(A, K2), settled(B)], A, K1, "cloned"),
        ([seen(A, K1), settled(A)], B, K1, None),
        ([seen(A, K1), seen(A, K2), settled(A), seen(A, K1), seen(A, K2)], A, K1, "cloned"),
    ],
)
def test_the_rules(lines, serial, key, expected):
    assert code(lines, serial, key) == expected


@pytest.mark.parametrize(
    "until,options,expected",
    [
        ("2026-12-20T00:00:00Z", {}, "other_key"),
        ("2026-11-21T00:00:00Z", {}, None),
        ("2026-12-20T00:00:00Z", {"new_key": True}, None),
    ],
)
def test_strict_is_one_key_at_a_time(until, options, expected):
    assert code([seen(A, K1, until=until)], A, K2, strict=True, **options) == expected


def test_a_key_that_was_asked_for_never_excuses_a_clone():
    assert code([seen(A, K1), seen(A, K2)], A, K1, new_key=True) == "cloned"


def test_what_was_settled_is_forgotten_of_that_board_alone():
    lines = [seen(A, K1), seen(B, K2), settled(A), seen(A, K3)]
    assert [(line.serial, line.key_sha256) for line in relevant(lines)] == [(B, K2), (A, K3)]


def test_an_anchor_stands_until_it_is_settled():
    word = Anchored(time="2026-11-20T00:00:00Z", serial=A, host="pi", public_key="PEM")
    assert anchor_of([word, settled(B)], A) == "PEM"
    assert anchor_of([word], B) is None
    assert anchor_of([word, settled(A)], A) is None


def test_a_line_is_written_only_where_something_is_new(tmp_path):
    holders = Holders(tmp_path)
    end = NOW + dt.timedelta(days=30)
    for _ in range(3):
        holders.seen("pi-1", A, K1, end, NOW)
    holders.seen("pi-1", A, K1, end + dt.timedelta(days=20), NOW)
    assert len(holders.lines()) == 2


def test_a_refusal_is_one_line_however_often_it_is_visited(tmp_path):
    holders = Holders(tmp_path)
    for _ in range(3):
        holders.refused("pi-1", A, Verdict("cloned", "a key that was replaced"), NOW)
    holders.refused("pi-1", A, Verdict("other_key", "another one"), NOW)
    assert [line.code for line in holders.lines()] == ["cloned", "other_key"]


def test_a_history_that_was_changed_is_not_believed(tmp_path):
    holders = Holders(tmp_path)
    holders.seen("pi-1", A, K1, NOW, NOW)
    holders.seen("pi-1", A, K2, NOW, NOW)
    path = tmp_path / FILE
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    with pytest.raises(ChainError):
        holders.seen("pi-1", A, K3, NOW, NOW)
