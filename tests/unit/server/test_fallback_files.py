"""What the fallback keeps on the disk: key, answers, spending, audit lines."""

from __future__ import annotations

import json
import sqlite3
import stat
import threading
from datetime import UTC, datetime

import pytest
from msgspec import structs

from hedgerow.errors import MachineError
from hedgerow.server.fallback import keys
from hedgerow.server.fallback.audit import FILE as AUDIT
from hedgerow.server.fallback.audit import Audit, Departure, Line
from hedgerow.server.fallback.cache import FILE as ANSWERS
from hedgerow.server.fallback.cache import Cache, Kept
from hedgerow.server.fallback.config import CacheConfig
from hedgerow.server.fallback.ledger import FILE as SPEND
from hedgerow.server.fallback.ledger import Ledger

NOW = 1_800_000_000.0
ANSWER = Kept("a quite particular answer", "stop", 3, 11)
DEPARTURE = Departure(
    time=datetime(2026, 11, 21, tzinfo=UTC),
    model="assistant",
    endpoint="cloud",
    endpoint_model="big",
    reason="queue_time",
    prompt_hmac_sha256="ab" * 32,
    redactions={"email": 1},
    bytes=300,
)
LINE = Line(
    **structs.asdict(DEPARTURE), outcome="answered", prompt_tokens=11, completion_tokens=3, cost=0.01, exact=True
)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ── the key ─────────────────────────────────────────────────────────────────


def test_a_key_is_made_once_and_read_again(tmp_path) -> None:
    first = keys.load(tmp_path)
    assert keys.load(tmp_path) == first
    assert mode(tmp_path / "key") == 0o600
    assert len({first.seal, first.lookup, first.audit, (tmp_path / "key").read_bytes()}) == 4
    assert first.fingerprint(b"x") != first.lookup_of(b"x").hex()


def test_a_key_that_others_can_read_or_that_is_cut_is_refused(tmp_path) -> None:
    keys.load(tmp_path)
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(MachineError, match="others can read") as caught:
        keys.load(tmp_path)
    assert "chmod 600" in str(caught.value)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(MachineError, match="has 5 bytes, not 32"):
        keys.load(tmp_path)


# ── the cache ───────────────────────────────────────────────────────────────


@pytest.fixture
def cache(tmp_path, running):
    def make(key: bytes = b"k" * 32, **settings) -> Cache:
        made = Cache(tmp_path, key, CacheConfig(**settings))
        running.append(made)
        return made

    return make


def test_an_answer_outlives_a_restart_and_not_its_time(cache) -> None:
    cache(ttl_s=60).put(b"asked", ANSWER, NOW)
    again = cache(ttl_s=60)
    assert again.get(b"asked", NOW + 59) == ANSWER
    assert again.get(b"asked", NOW + 60) is None
    assert again.get(b"asked", NOW - 1) is None  # a clock that went back would keep it for longer
    assert again.get(b"other", NOW) is None


def test_the_file_tells_nothing(cache, tmp_path) -> None:
    cache().put(b"asked", ANSWER, NOW)
    data = (tmp_path / ANSWERS).read_bytes()
    assert b"SQLite" in data
    assert not any(word in data for word in (b"particular", b"prompt_tokens", b"stop"))
    assert mode(tmp_path / ANSWERS) == 0o600


def test_an_answer_of_another_key_or_another_question_is_none(cache, tmp_path) -> None:
    first = cache()
    first.put(b"asked", ANSWER, NOW)
    first.put(b"other", structs.replace(ANSWER, text="another"), NOW)
    with sqlite3.connect(tmp_path / ANSWERS) as rows:
        (sealed,) = rows.execute("SELECT sealed FROM answers WHERE asked = ?", (b"other",)).fetchone()
        rows.execute("UPDATE answers SET sealed = ? WHERE asked = ?", (sealed, b"asked"))
    assert first.get(b"asked", NOW) is None
    assert first.get(b"other", NOW).text == "another"
    assert cache(b"l" * 32).get(b"other", NOW) is None


def test_each_nonce_is_used_once(cache, tmp_path) -> None:
    kept = cache()
    for number in range(20):
        kept.put(b"%d" % number, ANSWER, NOW)
    with sqlite3.connect(tmp_path / ANSWERS) as rows:
        nonces = {sealed[:12] for (sealed,) in rows.execute("SELECT sealed FROM answers")}
    assert len(nonces) == 20


def test_what_was_not_used_for_longest_goes_first(cache) -> None:
    kept = cache(max_bytes=4096)
    long = structs.replace(ANSWER, text="x" * 1200)
    for number in range(3):
        kept.put(b"%d" % number, long, NOW + number)
    assert kept.get(b"0", NOW + 3) is not None
    kept.put(b"3", long, NOW + 4)
    assert [kept.get(b"%d" % number, NOW + 5) is not None for number in range(4)] == [True, False, True, True]
    kept.put(b"huge", structs.replace(ANSWER, text="x" * 5000), NOW + 6)
    assert kept.get(b"huge", NOW + 6) is None
    assert kept.get(b"3", NOW + 6) is not None


def test_what_has_ended_is_deleted_and_its_space_given_back(cache, tmp_path) -> None:
    kept = cache(ttl_s=10)
    for number in range(100):
        kept.put(b"%d" % number, structs.replace(ANSWER, text="x" * 2000), NOW)
    large = (tmp_path / ANSWERS).stat().st_size
    kept.put(b"new", ANSWER, NOW + 11)
    assert (tmp_path / ANSWERS).stat().st_size < large / 5


def test_a_damaged_cache_is_an_empty_one(cache, tmp_path) -> None:
    (tmp_path / ANSWERS).write_bytes(b"no database at all" * 100)
    kept = cache()
    kept.put(b"asked", ANSWER, NOW)
    assert kept.get(b"asked", NOW) == ANSWER


# ── the ledger ──────────────────────────────────────────────────────────────


@pytest.fixture
def ledger(tmp_path, running):
    def make() -> Ledger:
        made = Ledger(tmp_path)
        running.append(made)
        return made

    return make


def test_a_cap_counts_what_is_reserved_and_then_what_was_spent(ledger) -> None:
    book = ledger()
    first = book.reserve(DEPARTURE, 60, cap=100, now=NOW)
    assert book.reserve(DEPARTURE, 41, cap=100, now=NOW) is None
    book.settle(first, 10)
    assert book.spent("assistant", NOW) == 10
    assert book.reserve(DEPARTURE, 90, cap=100, now=NOW + 1) is not None
    assert book.reserve(structs.replace(DEPARTURE, model="other"), 90, cap=100, now=NOW + 1) is not None


def test_spending_outlives_a_restart_and_an_hour_ends(ledger) -> None:
    first = ledger()
    first.settle(first.reserve(DEPARTURE, 100, cap=100, now=NOW), 100)
    again = ledger()
    assert again.reserve(DEPARTURE, 1, cap=100, now=NOW + 3599) is None
    assert again.reserve(DEPARTURE, 1, cap=100, now=NOW + 3600) is not None


def test_a_clock_that_went_back_frees_nothing(ledger) -> None:
    book = ledger()
    book.settle(book.reserve(DEPARTURE, 100, cap=100, now=NOW + 10**8), 100)
    assert book.reserve(DEPARTURE, 1, cap=100, now=NOW) is None
    assert book.reserve(DEPARTURE, 1, cap=100, now=NOW + 3599) is None
    assert book.reserve(DEPARTURE, 1, cap=100, now=NOW + 3600) is not None


def test_requests_at_once_do_not_pass_the_cap(ledger) -> None:
    book = ledger()
    got: list[object] = []
    threads = [
        threading.Thread(target=lambda: got.append(book.reserve(DEPARTURE, 30, cap=100, now=NOW))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each is not None for each in got) == 3


def test_what_was_cut_off_is_still_known(ledger) -> None:
    first = ledger()
    settled = first.reserve(DEPARTURE, 1, cap=100, now=NOW)
    first.reserve(structs.replace(DEPARTURE, reason="unhealthy"), 2, cap=100, now=NOW)
    first.settle(settled, 1)
    ((reservation, departure),) = ledger().unsettled()
    assert (reservation.micros, departure) == (2, structs.replace(DEPARTURE, reason="unhealthy"))


def test_a_damaged_ledger_is_not_made_anew(tmp_path) -> None:
    (tmp_path / SPEND).write_bytes(b"no database at all" * 100)
    with pytest.raises(MachineError, match="the ledger of spending cannot be opened") as caught:
        Ledger(tmp_path)
    assert "rm " in str(caught.value)


# ── the audit file ──────────────────────────────────────────────────────────


def test_an_audit_line_is_appended_whole(tmp_path) -> None:
    audit = Audit(tmp_path)
    audit.write(LINE)
    audit.write(structs.replace(LINE, outcome="failed"))
    lines = [json.loads(line) for line in (tmp_path / AUDIT).read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["answered", "failed"]
    assert lines[0] == {
        "time": "2026-11-21T00:00:00Z",
        "model": "assistant",
        "endpoint": "cloud",
        "endpoint_model": "big",
        "reason": "queue_time",
        "prompt_hmac_sha256": "ab" * 32,
        "redactions": {"email": 1},
        "bytes": 300,
        "outcome": "answered",
        "prompt_tokens": 11,
        "completion_tokens": 3,
        "cost": 0.01,
        "exact": True,
    }
    assert mode(tmp_path / AUDIT) == 0o600


def test_an_audit_file_that_has_grown_is_set_aside(tmp_path) -> None:
    audit = Audit(tmp_path, most_bytes=1)
    for number in range(6):
        audit.write(structs.replace(LINE, bytes=number))
    names = ("audit.1.jsonl", "audit.2.jsonl", "audit.3.jsonl")
    assert [json.loads((tmp_path / name).read_text())["bytes"] for name in names] == [5, 4, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == list(names)
