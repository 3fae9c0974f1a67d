from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from hedgerow.errors import RefusedError
from hedgerow.rollout import cooldown, report
from hedgerow.rollout.events import (
    Event,
    HostFell,
    HostFinished,
    HostJudged,
    HostStarted,
    HostUndone,
    Opened,
    Outcome,
    State,
    Stopped,
    replay,
)
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
AT = "2026-11-21T12:00:00.000Z"
HOUR = timedelta(hours=1)


def had(host: str, verdict: str, outcome: Outcome) -> list[Event]:
    return [
        HostStarted(at=AT, host=host, before="assistant@1.0.0"),
        HostJudged(at=AT, host=host, verdict=verdict, reason="so", looks=3, seconds=2),
        HostFinished(at=AT, host=host, outcome=outcome, reason="so"),
    ]


def undone(host: str, outcome: Outcome = Outcome.UNDONE) -> Event:
    return HostUndone(at=AT, host=host, outcome=outcome, reason="back")


STOP = Stopped(at=AT, reason="1 host(s) failed and the rollout may cost 0", undo=True)
CONFIRMED = had("a", "pass", Outcome.CONFIRMED)
FAILED = had("b", "fail", Outcome.REVERTED)


@pytest.fixture
def state(release: Release):
    def make(*events: Event) -> State:
        plan = Plan(release=release, policy=Policy(), waves=[["a"], ["b", "c"]])
        made = replay([Opened(at=AT, plan=plan, by="ada"), *events])
        assert made is not None
        return made

    return make


@pytest.mark.parametrize(
    "events, cools",
    [
        ([*CONFIRMED], False),
        # The canary failed, and it alone had the release: mend it and run it again.
        ([*FAILED, STOP], False),
        ([*CONFIRMED, *FAILED, STOP], False),
        ([*CONFIRMED, *FAILED, STOP, undone("a")], True),
        ([*CONFIRMED, HostFell(at=AT, host="a", reason="failing"), undone("a", Outcome.REVERTED)], True),
        # In its turn when the rollout was stopped: it had not been confirmed.
        ([HostStarted(at=AT, host="a", before=None), STOP, undone("a")], False),
        # Its confirmation did not reach it.
        ([*had("a", "pass", Outcome.REVERTED), STOP], False),
    ],
)
def test_what_counts_is_that_confirmed_hosts_went_back(state, release: Release, events, *, cools: bool) -> None:
    found = cooldown.cooling([("r", state(*events))], release.sha256, 3600, NOON)
    assert (found is not None) is cools


def test_it_ends_an_hour_after_the_last_host_was_back(state, release: Release) -> None:
    past = [("r", state(*CONFIRMED, *FAILED, STOP, undone("a")))]
    found = cooldown.cooling(past, release.sha256, 3600, NOON + HOUR - timedelta(seconds=1))
    assert found is not None
    assert (found.until, found.hosts) == (NOON + HOUR, 1)
    assert cooldown.cooling(past, release.sha256, 3600, NOON + HOUR) is None
    assert cooldown.cooling(past, release.sha256, 0, NOON) is None
    assert cooldown.cooling(past, "00" * 32, 3600, NOON) is None


def test_what_a_stopped_rollout_says_to_type_next_does_not_run_into_the_cooldown(state) -> None:
    at_once = report.summary(state(*FAILED, STOP))[-1]
    assert at_once == "  next: mend what is named above, then run the same command again"
    later = report.summary(state(*CONFIRMED, *FAILED, STOP, undone("a")))[-1]
    assert later == f"{at_once} (rule cooldown: from 2026-11-21 13:00 UTC on, or with cooldown_s: 0)"


def test_the_newest_rollout_of_a_bundle_decides(state, release: Release) -> None:
    taken_back = ("1", state(*CONFIRMED, *FAILED, STOP, undone("a")))
    well = ("2", state(*CONFIRMED, *had("b", "pass", Outcome.CONFIRMED)))
    assert cooldown.cooling([taken_back, well], release.sha256, 3600, NOON) is None
    assert cooldown.cooling([well, taken_back], release.sha256, 3600, NOON) is not None


def test_the_refusal_names_its_rule_its_end_and_the_way_round_it(state, release: Release) -> None:
    past = [("r", state(*CONFIRMED, *FAILED, STOP, undone("a")))]
    with pytest.raises(RefusedError) as caught:
        cooldown.refuse(past, release, 3600, NOON)
    error = caught.value
    assert error.what.startswith("rule cooldown: assistant@1.1.0 was taken back from 1 host(s) at 2026-11-21 12:00:00")
    assert "from 2026-11-21 13:00:00 UTC on" in error.what
    assert "cooldown_s: 0" in str(error.next_step)
    cooldown.refuse(past, msgspec.structs.replace(release, sha256="00" * 32), 3600, NOON)
