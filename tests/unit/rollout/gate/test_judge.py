from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.registry.manifest import Slo
from hedgerow.rollout.gate.judge import judge, judge_look
from hedgerow.rollout.gate.rules import Rules
from hedgerow.rollout.gate.samples import Answer, Expectation, Kind, Look, Window
from hedgerow.rollout.gate.verdicts import Judgement, Standing, Verdict
from hedgerow.rollout.policy import Policy, Soak, parse
from hedgerow.rollout.policy.gate import Metric

NEW = "assistant@1.1.0"
EXPECTED = Expectation(version=NEW, sha256="new", builds=frozenset({"its variant"}), baseline=frozenset({"fan_slow"}))
RULES = Soak(passes=3, interval_s=1, deadline_s=10)


def look(at: float = 0, status: str | None = "ok", version: str | None = NEW, **more) -> Look:
    return Look(**{"at": at, "reached": True, "status": status, "version": version, "sha256": "new"} | more)


GONE = Look(at=0, reached=False, note="connection refused")
WORSE = look(status="degraded", reasons=frozenset({"fan_slow", "slow_answers"}))
SAGGING = look(status="degraded", reasons=frozenset({"undervoltage", "hot"}), throttled=True)


@pytest.mark.parametrize(
    "seen, verdict, final",
    [
        (look(), Verdict.PASS, False),
        (look(status="degraded", reasons=frozenset({"fan_slow"})), Verdict.PASS, False),
        (WORSE, Verdict.FAIL, False),
        (look(status="degraded"), Verdict.FAIL, False),
        (look(status="degraded", reasons=frozenset({"hot"})), Verdict.FAIL, False),
        (SAGGING, Verdict.ENVIRONMENT, False),
        (look(status="degraded", reasons=frozenset({"throttled"})), Verdict.ENVIRONMENT, False),
        (look(status="degraded", reasons=frozenset({"throttled", "requests_fail"})), Verdict.FAIL, False),
        (look(status="degraded", reasons=frozenset({"throttled", "hot", "load_shed"})), Verdict.ENVIRONMENT, False),
        (look(status="degraded", reasons=frozenset({"hot", "answers_shortened"})), Verdict.FAIL, False),
        (look(status="failing", reasons=frozenset({"fan_slow"})), Verdict.FAIL, True),
        (look(version="assistant@1.0.0"), Verdict.FAIL, True),
        (look(sha256="another"), Verdict.FAIL, True),
        (look(sha256="its variant"), Verdict.PASS, False),
        (look(status=None), Verdict.NO_DATA, False),
        (look(version=None), Verdict.NO_DATA, False),
        (GONE, Verdict.UNREACHABLE, False),
    ],
)
def test_one_look(*, seen: Look, verdict: Verdict, final: bool) -> None:
    found = judge_look(seen, EXPECTED)
    assert (found.verdict, found.final) == (verdict, final)
    assert found.reason


# -- looks alone --------------------------------------------------------------

BARE = Rules(soak=RULES, alpha=0.001, by_look=(), since=())


def window(*looks: Look) -> Window:
    made = Window()
    for each in looks:
        made.see(each)
    return made


def soak(*looks: Look, now: float = 5) -> Judgement:
    return judge(None, window(*looks), None, EXPECTED, BARE, started=0, now=now)


def test_passes_must_be_in_a_row() -> None:
    assert not soak(look(), look()).final
    assert soak(look(), look(), look()).verdict is Verdict.PASS
    assert not soak(look(), look(), WORSE, look(), look()).final
    assert soak(look(), GONE, look(), look(), look()).final


def test_what_waiting_cannot_mend_ends_the_soak_at_once() -> None:
    for fatal in (look(version="assistant@1.0.0"), look(status="failing")):
        found = soak(look(), fatal)
        assert (found.verdict, found.final) == (Verdict.FAIL, True)


@pytest.mark.parametrize(
    "last, verdict",
    [
        (GONE, Verdict.UNREACHABLE),
        (look(status=None), Verdict.NO_DATA),
        (WORSE, Verdict.FAIL),
        (SAGGING, Verdict.ENVIRONMENT),
        (look(), Verdict.FAIL),  # a row that began too late does not stretch the deadline
    ],
)
def test_the_deadline_decides_with_the_last_look(last: Look, verdict: Verdict) -> None:
    assert not soak(look(), last, now=9.9).final
    found = soak(look(), last, now=10)
    assert (found.verdict, found.final) == (verdict, True)


def test_nothing_seen_is_no_data() -> None:
    assert soak(now=10).verdict is Verdict.NO_DATA
    assert soak(now=10).final


@given(
    st.lists(st.sampled_from([look(), GONE, WORSE, SAGGING, look(status=None), look(status="failing")]), max_size=12),
    st.floats(0, 20),
)
def test_a_pass_always_rests_on_enough_passing_looks(looks: list[Look], now: float) -> None:
    found = soak(*looks, now=now)
    last = [judge_look(each, EXPECTED).verdict for each in looks[-RULES.passes :]]
    if found.verdict is Verdict.PASS:
        assert found.final
        assert last == [Verdict.PASS] * RULES.passes
    if now >= RULES.deadline_s:
        assert found.final


@given(st.lists(st.sampled_from([look(), GONE, WORSE]), max_size=12))
def test_looks_judged_one_by_one_come_to_the_same_as_all_at_once(looks: list[Look]) -> None:
    whole, seen = window(*looks), Window()
    at_once = judge(None, whole, None, EXPECTED, BARE, started=0, now=5)
    one_by_one = judge(None, seen, None, EXPECTED, BARE, started=0, now=5)
    for each in looks:
        seen.see(each)
        one_by_one = judge(None, seen, None, EXPECTED, BARE, started=0, now=5)
    assert (one_by_one, seen.row) == (at_once, whole.row)


def test_a_host_is_watched_for_as_long_as_the_policy_says() -> None:
    rules = Rules(soak=Soak(passes=2, minimum_s=6, deadline_s=10), alpha=0.001, by_look=(), since=())
    seen = window(look(), look(), look())
    early = judge(None, seen, None, EXPECTED, rules, started=0, now=5.9)
    assert (early.final, early.reason) == (False, "3 of 2 passes in a row; 6 of 6 s")
    assert judge(None, seen, None, EXPECTED, rules, started=0, now=6).verdict is Verdict.PASS


# -- criteria -----------------------------------------------------------------


class Bench:
    """A host that passes every look, judged by a whole policy; then something is made worse."""

    def __init__(self, published: Slo | None = None, **gate: object) -> None:
        self.chance = random.Random(4)
        policy = {"soak": {"passes": 3, "deadline_s": 10}, "gate": gate}
        self.rules = Rules.of(parse(policy, where="test"), published)
        self.before: Window | None = self.window(12, 100)
        self.untouched: Window | None = None
        self.after = Window()

    def answer(self, mean_ms: float, kind: Kind = Kind.RIGHT, **more: object) -> Answer:
        latency_ms = self.chance.gauss(mean_ms, mean_ms / 10)
        return Answer(**{"at": 0, "question": 0, "kind": kind, "latency_ms": latency_ms} | more)

    def window(self, answers: int, mean_ms: float, **more: object) -> Window:
        made = window(look(**{"requests": 0, "errors": 0, "window_s": 300, "restarts": 0} | more))
        for _ in range(answers):
            made.hear(self.answer(mean_ms))
        return made

    def see(self, times: int = 3, **more: object) -> None:
        for _ in range(times):
            self.after.see(look(**{"restarts": 0, "window_s": 300} | more))

    def hear(self, times: int, mean_ms: float = 100, kind: Kind = Kind.RIGHT, **more: object) -> None:
        for _ in range(times):
            self.after.hear(self.answer(mean_ms, kind, **more))

    def judged(self, now: float = 3) -> Judgement:
        return judge(self.before, self.after, self.untouched, EXPECTED, self.rules, started=0, now=now)


def standing(judgement: Judgement) -> dict[str, Standing]:
    return {each.name: each.verdict for each in judgement.criteria}


def test_a_host_as_before_passes_and_every_criterion_is_listed() -> None:
    bench = Bench()
    bench.see(metrics={Metric.MEMORY_USED_RATIO: 0.4})
    bench.hear(20)
    found = bench.judged()
    assert (found.verdict, found.reason) == (Verdict.PASS, "3 passes in a row: healthy; 20 answers right")
    assert standing(found) == {
        "memory": Standing.PASS,
        "wrong_answers": Standing.PASS,
        "errors": Standing.PASS,
        "restarts": Standing.PASS,
        "start": Standing.SKIPPED,
        "slower": Standing.PASS,
    }
    slower = next(each for each in found.criteria if each.name == "slower")
    assert (slower.n, slower.n_baseline, slower.metric) == (20, 12, "p50_ms")
    assert slower.p is not None
    assert slower.baseline == pytest.approx(100, rel=0.1)
    assert slower.limit == pytest.approx(slower.baseline * 1.5, rel=1e-5)


def test_one_wrong_answer_is_the_end_whatever_the_board_suffers() -> None:
    bench = Bench()
    bench.see(1, throttled=True)
    bench.hear(5)
    bench.hear(1, kind=Kind.WRONG, note="it said 'Lyon'")
    found = bench.judged(now=0.1)
    assert (found.verdict, found.final) == (Verdict.FAIL, True)
    assert found.reason == "wrong_answers: 1 of 6 answers wrong: it said 'Lyon'"


def test_a_host_that_answered_nothing_never_passes() -> None:
    bench = Bench()
    bench.see(9)
    assert not bench.judged(now=9.9).final
    found = bench.judged(now=10)
    assert (found.verdict, found.reason) == (
        Verdict.NO_DATA,
        "it has answered no question of the release's own within 10 s",
    )


def test_an_error_in_a_hundred_is_one_too_many() -> None:
    bench = Bench()
    bench.see(1)
    bench.hear(98)
    bench.hear(1, kind=Kind.ERROR, note="HTTP 500")
    assert "1 of 99 requests failed, more than 1.0%, last: HTTP 500" in bench.judged().reason
    more = Bench()
    more.see()
    more.hear(99)
    more.hear(1, kind=Kind.ERROR)
    assert more.judged().verdict is Verdict.PASS


def test_errors_of_users_count_from_the_activation_on() -> None:
    bench = Bench()
    bench.before = bench.window(12, 100, requests=1000, errors=9)
    bench.see(requests=1030, errors=9)
    bench.hear(20)
    assert bench.judged().verdict is Verdict.PASS
    bench.see(1, requests=1060, errors=14)
    found = bench.judged()
    assert (found.verdict, found.reason) == (Verdict.FAIL, "errors: 5 of 60 requests failed, more than 1.0%")


def test_how_the_version_before_answers_the_releases_questions_excuses_nothing() -> None:
    bench = Bench()
    for _ in range(12):
        bench.before.hear(bench.answer(100, Kind.ERROR, note="HTTP 400: no such input"))
    bench.see(1)
    bench.hear(20)
    bench.hear(1, kind=Kind.ERROR, note="HTTP 500")
    assert bench.judged().reason.startswith("errors: 1 of 21 requests failed")


def test_a_high_percentile_is_left_to_the_end_unless_half_of_the_answers_are_over() -> None:
    def judged(*latencies_ms: float, looks: int) -> Judgement:
        bench = Bench(Slo(p95_ms=100), without=["slower"])
        bench.see(looks)
        for latency_ms in latencies_ms:
            bench.after.hear(Answer(at=0, question=0, kind=Kind.RIGHT, latency_ms=latency_ms))
        return bench.judged(now=1)

    two_outliers = [50.0] * 18 + [300.0] * 2
    assert not judged(*two_outliers, looks=1).final
    assert judged(*two_outliers, looks=3).verdict is Verdict.FAIL
    assert judged(*two_outliers, *[50.0] * 60, looks=3).verdict is Verdict.PASS
    assert judged(*[50.0] * 9, *[300.0] * 11, looks=1).verdict is Verdict.FAIL


def test_a_full_window_does_not_make_few_requests_of_many() -> None:
    """A server at ten requests a second has 3000 in its window before and after: one error of 600 is not one of one."""
    bench = Bench()
    bench.before = bench.window(12, 100, requests=3000, errors=0)
    bench.see(requests=3000, errors=1)
    bench.hear(20)
    assert not bench.judged(now=60).reason.startswith("errors")


def test_as_many_errors_as_before_are_not_the_releases_but_more_are() -> None:
    bench = Bench()
    bench.before = bench.window(12, 100, requests=1000, errors=50)
    bench.see(requests=1100, errors=56)
    bench.hear(20)
    found = bench.judged()
    assert found.verdict is Verdict.PASS
    errors = next(each for each in found.criteria if each.name == "errors")
    assert (errors.value, errors.baseline) == (0.06, 0.05)
    assert errors.p is not None
    assert errors.p > 0.1
    bench.see(1, requests=1100, errors=90)
    assert "40 of 100 requests failed, more than 1.0%; 50 of 1000 before" in bench.judged().reason


def test_restarts_count_from_before_the_release() -> None:
    bench = Bench()
    bench.before = bench.window(12, 100, restarts=3)
    bench.hear(20)
    bench.see(restarts=3)
    assert bench.judged().verdict is Verdict.PASS
    bench.see(1, restarts=4)
    assert bench.judged().reason == "restarts: restarts is 1, above 0"
    rebooted = Bench()
    rebooted.before = rebooted.window(12, 100, restarts=3)
    rebooted.hear(20)
    rebooted.see(restarts=0)
    assert rebooted.judged().verdict is Verdict.PASS


def test_memory_must_fit_and_what_was_full_before_is_not_the_releases() -> None:
    bench = Bench()
    bench.hear(20)
    bench.see(metrics={Metric.MEMORY_USED_RATIO: 0.93})
    assert not bench.judged(now=9).final
    found = bench.judged(now=10)
    assert (found.verdict, found.reason) == (
        Verdict.FAIL,
        "memory: memory_used_ratio is 0.93, above 0.9 (for 10 s)",
    )
    full = Bench()
    full.before = full.window(12, 100, metrics={Metric.MEMORY_USED_RATIO: 0.95})
    full.hear(20)
    full.see(metrics={Metric.MEMORY_USED_RATIO: 0.93})
    assert full.judged().verdict is Verdict.PASS


def test_a_slow_start_fails() -> None:
    bench = Bench()
    bench.see()
    bench.hear(20)
    bench.after.start_s = 12
    assert bench.judged().reason == "start: start_s is 12, above 10"


def test_twice_as_slow_fails_long_before_a_long_soak_is_over() -> None:
    bench = Bench()
    bench.rules = msgspec.structs.replace(bench.rules, soak=Soak(passes=3, minimum_s=3600, deadline_s=7200))
    bench.see(2)
    bench.hear(8, 200)
    assert not bench.judged(now=2).final  # it may still be warming up
    bench.see(1)
    found = bench.judged(now=3)
    assert (found.verdict, found.final) == (Verdict.FAIL, True)
    assert found.reason.startswith("slower: p50_ms is 2")
    assert "samples)" in found.reason


def test_a_difference_that_harms_nobody_passes_however_certain() -> None:
    bench = Bench()
    bench.before = bench.window(500, 100)
    bench.see()
    bench.hear(500, 120)
    found = bench.judged()
    assert found.verdict is Verdict.PASS
    slower = next(each for each in found.criteria if each.name == "slower")
    assert slower.p is not None
    assert slower.p < 1e-6


def test_a_few_milliseconds_harm_nobody_however_many_times_it_is() -> None:
    bench = Bench()
    bench.before = bench.window(12, 2)
    bench.see()
    bench.hear(30, 20)
    assert bench.judged().verdict is Verdict.PASS
    bench.hear(200, 30)
    assert bench.judged().verdict is Verdict.FAIL


def test_a_breach_under_throttling_is_the_environments() -> None:
    bench = Bench()
    bench.see(3, throttled=True)
    bench.hear(8, 200)
    found = bench.judged(now=0.5)
    assert (found.verdict, found.final, standing(found)["slower"]) == (
        Verdict.ENVIRONMENT,
        True,
        Standing.ENVIRONMENT,
    )
    assert "its supply or its heat explains it" in found.reason


def test_throttling_of_two_looks_ago_explains_nothing() -> None:
    bench = Bench()
    bench.see(1, throttled=True)
    bench.see(3)
    bench.hear(8, 200)
    assert bench.judged(now=0.5).verdict is Verdict.FAIL


def test_throttling_does_not_explain_errors_and_restarts() -> None:
    bench = Bench()
    bench.see(1, throttled=True, restarts=1)
    bench.hear(8, 200)
    bench.hear(1, kind=Kind.ERROR, note="HTTP 500")
    found = bench.judged(now=0.5)
    assert found.verdict is Verdict.FAIL
    assert "restarts is 1" in found.reason
    assert "requests failed" in found.reason
    assert "slower" not in found.reason


def test_a_first_installation_has_nothing_to_be_compared_with() -> None:
    bench = Bench()
    bench.before = None
    bench.see()
    bench.hear(20, 900)
    found = bench.judged()
    assert (found.verdict, standing(found)["slower"]) == (Verdict.PASS, Standing.SKIPPED)


def test_samples_are_waited_for_but_not_for_ever() -> None:
    bench = Bench()
    bench.see()
    bench.hear(3)
    waiting = bench.judged(now=4.9)
    assert (waiting.final, waiting.reason) == (False, "3 of 3 passes in a row; p50_ms: 3 of 8 answers")
    found = bench.judged(now=5)
    assert (found.verdict, standing(found)["slower"]) == (Verdict.PASS, Standing.SKIPPED)


def test_what_an_operator_asks_for_is_no_data_where_it_cannot_be_had() -> None:
    bench = Bench(criteria=[{"name": "tokens", "all_of": [{"metric": "tokens_per_s", "below": 5}]}])
    bench.see()
    bench.hear(20)
    assert not bench.judged(now=9).final
    found = bench.judged(now=10)
    assert found.verdict is Verdict.NO_DATA
    assert found.reason == "tokens_per_s: answers of this model do not show it within 10 s"
    skipped = Bench(
        criteria=[{"name": "tokens", "all_of": [{"metric": "tokens_per_s", "below": 5}], "unknown": "skip"}]
    )
    skipped.see()
    skipped.hear(20)
    assert skipped.judged().verdict is Verdict.PASS


def test_fewer_tokens_are_worse() -> None:
    condition = {"metric": "tokens_per_s", "worse_by": 2}
    bench = Bench(criteria=[{"name": "tokens", "all_of": [condition]}])
    for _ in range(12):
        bench.before.hear(bench.answer(100, tokens_per_s=bench.chance.gauss(20, 1)))
    bench.see()
    for _ in range(8):
        bench.hear(1, tokens_per_s=bench.chance.gauss(9, 1))
    assert bench.judged(now=0.5).reason.startswith("tokens: tokens_per_s is ")


BOTH = [{"metric": "p95_ms", "above": 150, "minimum_samples": 5}, {"metric": "restarts", "above": 0}]


def test_a_combination_needs_all_its_conditions() -> None:
    bench = Bench(without=["restarts", "slower"], criteria=[{"name": "slow and restarting", "all_of": BOTH}])
    bench.see()
    bench.hear(20, 300)
    assert bench.judged().verdict is Verdict.PASS
    bench.see(1, restarts=1)
    assert "slow and restarting: restarts is 1" in bench.judged().reason


def test_a_combination_with_throttling_in_it_can_be_explained_only_as_a_whole() -> None:
    bench = Bench(without=["restarts", "slower"], criteria=[{"name": "both", "all_of": BOTH}])
    bench.see(1, restarts=1, throttled=True)
    bench.hear(20, 300)
    assert bench.judged().verdict is Verdict.FAIL


def test_the_publishers_slo_is_a_limit_unless_the_host_broke_it_before() -> None:
    bench = Bench(Slo(p95_ms=140))
    bench.see()
    bench.hear(25, 145)
    found = bench.judged()
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith("slo p95_ms: p95_ms is 1")
    far_away = Bench(Slo(p95_ms=140))
    far_away.before = far_away.window(25, 300)
    far_away.see()
    far_away.hear(25, 300)
    assert far_away.judged().verdict is Verdict.PASS
    off = Bench(Slo(p95_ms=140), slo=False)
    off.see()
    off.hear(25, 145)
    assert off.judged().verdict is Verdict.PASS


UNTOUCHED = [{"name": "others", "all_of": [{"metric": "p50_ms", "worse_by": 1.5, "against": "untouched"}]}]


def test_what_slows_untouched_hosts_too_is_not_the_releases() -> None:
    for others_ms, verdict in ((200, Verdict.PASS), (100, Verdict.FAIL)):
        bench = Bench(without=["slower"], criteria=UNTOUCHED)
        bench.untouched = bench.window(12, others_ms)
        bench.see()
        bench.hear(20, 200)
        assert bench.judged().verdict is verdict
    alone = Bench(without=["slower"], criteria=UNTOUCHED)
    alone.see()
    alone.hear(20)
    found = alone.judged()
    assert (found.verdict, standing(found)["others"]) == (Verdict.PASS, Standing.SKIPPED)
    silent = Bench(without=["slower"], criteria=UNTOUCHED)
    silent.untouched = Window()
    silent.see()
    silent.hear(20)
    assert silent.judged(now=10).verdict is Verdict.NO_DATA


def test_only_questions_of_both_sides_are_compared() -> None:
    bench = Bench()
    bench.see()
    bench.hear(10, 100)
    bench.hear(30, 900, question=1)  # a long one, which was not put before
    assert bench.judged().verdict is Verdict.PASS


QUERY = {
    "prometheus": {"url": "http://prometheus:9090", "queries": {"load": "load{instance=$host}"}},
    "criteria": [{"name": "load", "all_of": [{"query": "load", "above": 4}]}],
}


def test_a_query_is_held_to_its_limit_and_an_outage_is_no_data() -> None:
    bench = Bench(**QUERY)
    bench.hear(20)
    bench.see(queries={"load": 5.0})
    assert "load: query load is 5, above 4" in bench.judged(now=10).reason
    away = Bench(**QUERY)
    away.hear(20)
    away.see(outage="Prometheus is away")
    assert not away.judged(now=9).final
    found = away.judged(now=10)
    assert (found.verdict, found.reason) == (Verdict.NO_DATA, "load: query load: Prometheus is away (for 10 s)")
    away.see(3, queries={"load": 1.0})
    assert away.judged(now=9).verdict is Verdict.PASS


def test_an_outage_may_be_ignored_a_wrong_query_not() -> None:
    rules = QUERY | {"prometheus": QUERY["prometheus"] | {"on_outage": "ignore"}}
    for seen, verdict in (({"outage": "away"}, Verdict.PASS), ({"unanswered": {"load": "refused"}}, Verdict.NO_DATA)):
        bench = Bench(**rules)
        bench.hear(20)
        bench.see(**seen)
        assert bench.judged(now=10).verdict is verdict


def test_a_mixed_criterion_is_tested_in_stages_and_at_the_end() -> None:
    mixed = [{"metric": "p50_ms", "worse_by": 1.5}, {"metric": "temperature_c", "above": 70}]
    bench = Bench(without=["slower"], criteria=[{"name": "hot and slow", "all_of": mixed}])
    bench.hear(20, 200)
    bench.see(metrics={Metric.TEMPERATURE_C: 75.0})
    found = bench.judged()
    assert (found.verdict, found.final) == (Verdict.NO_DATA, False)  # its first stage broke the row
    bench.see(metrics={Metric.TEMPERATURE_C: 75.0})
    found = bench.judged()
    assert (found.verdict, found.final) == (Verdict.FAIL, True)
    assert "hot and slow" in found.reason


@pytest.mark.parametrize("spread", [0.1, 0.5])
def test_looking_often_makes_no_false_alarms(spread: float) -> None:
    """Hosts on which nothing changed, judged after every answer: fewer than alpha of them fail, ratio or not."""
    policy = {
        "soak": {"passes": 1, "minimum_s": 9, "deadline_s": 10},
        "gate": {
            "alpha": 0.1,
            "without": ["slower"],
            "criteria": [{"name": "any", "all_of": [{"metric": "p50_ms", "worse_by": 1}]}],
        },
    }
    rules, chance = Rules.of(parse(policy, where="test")), random.Random(2)
    alarms, hosts = 0, 400
    for _ in range(hosts):
        before, after = Window(), window(look())
        for each in (before, after):
            for number in range(24):
                latency_ms = chance.lognormvariate(4, spread)
                each.hear(Answer(at=number, question=0, kind=Kind.RIGHT, latency_ms=latency_ms))
                if each is after:
                    found = judge(before, after, None, EXPECTED, rules, started=0, now=number * 9.5 / 23)
                    if found.final:
                        break
        alarms += found.verdict is Verdict.FAIL
    # Two conditions share alpha (errors may be tested, too), so that this one has half.
    assert rules.alpha == pytest.approx(0.05)
    assert 0 < alarms <= 0.05 * hosts + 4 * (0.05 * 0.95 * hosts) ** 0.5


def test_the_defaults_of_a_policy_are_rules() -> None:
    rules = Rules.of(Policy(), Slo(p95_ms=1, ttft_p95_ms=1, tokens_per_s=1))
    names = {each.name for each in (*rules.by_look, *rules.since)}
    assert names == {
        "wrong_answers",
        "errors",
        "restarts",
        "memory",
        "start",
        "slower",
        "slo p95_ms",
        "slo ttft_ms",
        "slo tokens_per_s",
    }
