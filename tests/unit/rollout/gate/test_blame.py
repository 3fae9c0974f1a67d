"""Whom a gate blames when everything becomes slower at the moment of an activation: by simulation, seeded.

Rates are counted over whole judgements, so that ratios, tests, shares of alpha and halves all have their part in them.
"""

from __future__ import annotations

import math
import random
from collections import Counter

import msgspec
import pytest

from hedgerow.rollout.gate import shift
from hedgerow.rollout.gate.judge import judge
from hedgerow.rollout.gate.rules import Rules
from hedgerow.rollout.gate.samples import Answer, Expectation, Kind, Look, Window
from hedgerow.rollout.gate.shift import Control, changes
from hedgerow.rollout.gate.verdicts import Judgement, Verdict
from hedgerow.rollout.policy import parse
from hedgerow.rollout.policy.gate import Metric

NEW, OLD = "assistant@1.1.0", "assistant@1.0.0"
EXPECTED = Expectation(version=NEW, sha256="5a" * 32)
TRIALS = 400
DEFAULT = Rules.of(parse(None, where="test"))
TAIL = {"name": "tail", "all_of": [{"metric": "p95_ms", "worse_by": 1.2}]}
SENSITIVE = Rules.of(parse({"gate": {"without": ["slower"], "criteria": [TAIL]}}, where="test"))
LENGTHS = [0.7 + 0.1 * (number % 7) for number in range(30)]
"""How long each question takes beside the others."""


class Fleet:
    """One host that gets a release, and some that do not.

    ``load``: how many times longer answers take from then on everywhere, give or take ``uneven`` (standard deviation of
    its logarithm); ``release``: on the host that got it.
    """

    def __init__(self, seed: int, *, release: float = 1.0, load: float = 1.0, uneven: float = 0.0) -> None:
        self.chance = random.Random(seed)
        self.release, self.load, self.uneven = release, load, uneven
        self.spread = self.chance.choice([0.1, 0.2])
        self.correlated = 0.0

    def hit(self) -> float:
        return self.load * math.exp(self.chance.gauss(0, self.uneven))

    def window(self, serving: str, questions: list[int], factor: float, cpu: float | None = None) -> Window:
        """Three looks, between which others had the share ``cpu`` of four cores, and an answer a question."""
        made, wave = Window(), self.chance.gauss(0, 1)
        for second in range(3):
            counts = {} if cpu is None else {"cpu_s": 100.0 + 4 * second, "cpu_others_s": 4 * second * cpu}
            made.see(Look(at=second, reached=True, status="ok", version=serving, sha256="5a" * 32, **counts))
        for question in questions:
            rest = math.sqrt(1 - self.correlated**2)
            wave = self.correlated * wave + rest * self.chance.gauss(0, 1)
            latency_ms = 100 * LENGTHS[question] * factor * math.exp(self.spread * wave)
            made.hear(Answer(at=0, question=question, kind=Kind.RIGHT, latency_ms=latency_ms))
        return made

    def control(self, number: int, answers: int) -> Control:
        speed, asked = self.chance.choice([0.8, 1.0, 1.3]), list(range(number, 30, 2))
        again = [asked[place % len(asked)] for place in range(answers)]
        return Control(self.window(OLD, asked, speed), self.window(OLD, again, speed * self.hit()))

    def judged(self, rules: Rules = DEFAULT, *, controls: int = 2, answers: int = 40) -> Judgement:
        before = self.window(OLD, list(range(30)), 1.0)
        after = self.window(NEW, [place % 30 for place in range(answers)], self.hit() * self.release)
        others = [self.control(number, answers // 4) for number in range(controls)]
        return judge(before, after, None, EXPECTED, rules, started=0, now=3, controls=others)


def blamed(rules: Rules = DEFAULT, *, controls: int = 2, correlated: float = 0.0, **fleet: float) -> float:
    """The share of hosts that failed."""
    verdicts: Counter[Verdict] = Counter()
    for seed in range(TRIALS):
        made = Fleet(seed, **fleet)
        made.correlated = correlated
        verdicts[made.judged(rules, controls=controls).verdict] += 1
    assert set(verdicts) <= {Verdict.PASS, Verdict.FAIL}
    return verdicts[Verdict.FAIL] / TRIALS


def test_where_nothing_changes_nobody_is_blamed() -> None:
    assert blamed() == 0
    assert blamed(SENSITIVE) <= 1 / TRIALS


@pytest.mark.parametrize("load", [1.5, 2.5, 4.0])
@pytest.mark.parametrize("rules", [DEFAULT, SENSITIVE], ids=["slower", "p95 by 1.2"])
def test_a_load_on_all_hosts_blames_at_most_one_in_a_hundred(load: float, rules: Rules) -> None:
    assert blamed(rules, load=load) <= 0.01


def test_hosts_need_not_be_hit_quite_alike() -> None:
    """A tenth more or less on each: beyond what the test supposes, and held by the ratio."""
    assert blamed(load=2.5, uneven=0.1) <= 0.02


def test_answers_that_come_in_waves_blame_a_few_more() -> None:
    """Each answer shares 0.7 of its deviation with the one before: the test supposes 0."""
    assert blamed(load=2.5, correlated=0.7) <= 0.03


def test_the_same_load_would_have_blamed_the_release_by_the_time_before_alone() -> None:
    assert blamed(load=2.5, controls=0) >= 0.95


def test_a_truly_slower_release_is_blamed() -> None:
    assert blamed(release=2.0) >= 0.98
    assert blamed(release=1.8) >= 0.95


def test_half_as_slow_again_in_the_tail_is_blamed_where_the_policy_wants_less() -> None:
    """The built-in criterion's own limit is 1.5, so that a release of 1.5 is on it: chance decides there."""
    assert blamed(SENSITIVE, release=1.5) >= 0.9


def test_a_slower_release_is_blamed_under_a_load_on_all_hosts_too() -> None:
    assert blamed(release=2.0, load=2.0) >= 0.95


def test_a_little_slower_under_a_large_load_is_not_worse_by_what_the_policy_asks() -> None:
    assert blamed(release=1.15, load=3.0) <= 0.01


def test_without_others_a_burst_blames_nobody_and_a_slower_release_is_blamed() -> None:
    def judged(*stretches: tuple[int, float]) -> Judgement:
        """``stretches``: so many answers, so many times slower."""
        made = Fleet(3)
        before, after = made.window(OLD, list(range(30)), 1.0), made.window(NEW, [], 1.0)
        for answers, factor in stretches:
            for question, latency_ms in enumerate(made.window(NEW, list(range(answers)), factor).latency_ms):
                after.hear(Answer(at=0, question=question, kind=Kind.RIGHT, latency_ms=latency_ms))
        return judge(before, after, None, EXPECTED, DEFAULT, started=0, now=3)

    assert judged((18, 4.0), (30, 1.0)).verdict is Verdict.PASS
    late = judged((28, 1.0), (30, 4.0), (6, 4.0))
    assert late.verdict is Verdict.PASS
    assert "not in both halves" in next(each.reason for each in late.criteria if each.name == "slower")
    assert judged((30, 2.0), (30, 2.0)).verdict is Verdict.FAIL
    assert blamed(release=2.0, controls=0) >= 0.98


def test_the_reason_says_what_the_others_did() -> None:
    excused = next(each for each in Fleet(1, load=2.5).judged().criteria if each.name == "slower")
    assert "untouched hosts became 2." in excused.reason
    assert excused.limit is not None
    assert excused.limit > 2 * (excused.baseline or 0)
    assert "untouched hosts 1." in Fleet(1, release=2.5).judged().reason
    assert "no untouched host to hold it to" in Fleet(1, release=2.5).judged(controls=0).reason


# -- load on one host ---------------------------------------------------------


def loaded(
    before: float | None, after: float | None, others: tuple[float | None, float | None]
) -> tuple[Window, Window, Control]:
    """A host that is 2.5 times slower; shares of the processor that other work had there and on untouched hosts."""
    made = Fleet(5)
    was, now = made.window(OLD, list(range(30)), 1.0, before), made.window(NEW, [*range(30)], 2.5, after)
    asked = list(range(0, 30, 2))
    control = Control(made.window(OLD, asked, 1.0, others[0]), made.window(OLD, asked, 1.0, others[1]))
    return was, now, control


def judged_with(was: Window, now: Window, controls: list[Control]) -> Judgement:
    return judge(was, now, None, EXPECTED, DEFAULT, started=0, now=3, controls=controls)


def test_other_work_on_the_board_is_the_environments() -> None:
    was, now, control = loaded(0.03, 0.8, (None, None))
    for controls in ([control], []):
        found = judged_with(was, now, controls)
        assert found.verdict is Verdict.ENVIRONMENT
        assert found.reason.startswith("other work on it (80% of its processor, 3% before) explains it: slower: p50_ms")


@pytest.mark.parametrize("before, after", [(0.5, 0.6), (None, 0.9), (0.0, None), (0.9, 0.9)])
def test_work_that_was_there_before_or_is_not_known_explains_nothing(before: float | None, after: float | None) -> None:
    was, now, control = loaded(before, after, (None, None))
    assert judged_with(was, now, [control]).verdict is Verdict.FAIL


def test_other_work_explains_no_wrong_answer_and_no_error() -> None:
    was, now, control = loaded(0.0, 0.9, (None, None))
    now.hear(Answer(at=0, question=0, kind=Kind.WRONG, latency_ms=9, note="it said 'Lyon'"))
    assert judged_with(was, now, [control]).verdict is Verdict.FAIL


def test_counts_that_began_anew_are_unknown() -> None:
    was, now, control = loaded(0.0, 0.9, (None, None))
    now.looks[-1] = msgspec.structs.replace(now.looks[-1], cpu_s=8.0, cpu_others_s=8.0)
    assert judged_with(was, now, [control]).verdict is Verdict.FAIL


def test_work_that_untouched_hosts_see_as_well_is_in_the_comparison_already() -> None:
    """Emulated hosts of one machine see each other's work: there it must not excuse what the others do not suffer."""
    was, now, control = loaded(0.05, 0.8, (0.05, 0.8))
    # A control was not touched: its counts go on from its last look before.
    for later, look in enumerate(control.after.looks):
        counts = {"cpu_s": 108.0 + 4 * later, "cpu_others_s": 8 * 0.05 + 4 * later * 0.8}
        control.after.looks[later] = msgspec.structs.replace(look, **counts)
    assert judged_with(was, now, [control]).verdict is Verdict.FAIL
    assert judged_with(was, now, []).verdict is Verdict.ENVIRONMENT


# -- parts --------------------------------------------------------------------


def answered(*latencies_ms: tuple[int, float], **more: float) -> Window:
    made = Window()
    for question, latency_ms in latencies_ms:
        made.hear(Answer(at=0, question=question, kind=Kind.RIGHT, latency_ms=latency_ms, **more))
    return made


def test_changes_are_of_questions_that_both_sides_know_in_their_order() -> None:
    before = answered((0, 10), (1, 100), (0, 20), (2, 7))
    after = answered((0, 20), (1, 300), (0, 80), (9, 5), (1, 300))
    assert changes(before, after, Metric.P50_MS) == pytest.approx([math.log(2), math.log(4), math.log(3)])


def test_the_longer_side_comes_in_as_many_parts_as_the_shorter_has_answers() -> None:
    before = answered((0, 10), (0, 10))
    after = answered(*[(0, 10)] * 4, *[(0, 30)] * 4)
    assert changes(before, after, Metric.P95_MS) == pytest.approx([0, math.log(3)])


def test_fewer_tokens_a_second_are_worse() -> None:
    before, after = answered((0, 10), tokens_per_s=20.0), answered((0, 10), tokens_per_s=10.0)
    assert changes(before, after, Metric.TOKENS_PER_S) == pytest.approx([math.log(2)])
    assert changes(before, after, Metric.TTFT_MS) == []


def test_that_others_became_faster_makes_nobody_slower() -> None:
    slow, fast = answered(*[(each, 100) for each in range(10)]), answered(*[(each, 50) for each in range(10)])
    found = shift.measured(slow, slow, [Control(slow, fast)], Metric.P50_MS)
    assert found is not None
    assert found.factor == 1
    assert shift.measured(slow, slow, [], Metric.P50_MS) is None


def test_a_reported_figure_is_held_to_what_became_of_the_others_as_well() -> None:
    criterion = {"name": "reported", "all_of": [{"metric": "reported_p50_ms", "worse_by": 1.5}]}
    rules = Rules.of(parse({"gate": {"without": ["slower"], "criteria": [criterion]}}, where="test"))

    def seen(value: float, version: str) -> Window:
        made = answered((0, 10))
        metrics = {Metric.REPORTED_P50_MS: value}
        for _ in range(3):
            made.see(Look(at=0, reached=True, status="ok", version=version, sha256="5a" * 32, metrics=metrics))
        return made

    def verdict(others: float) -> Verdict:
        control = Control(seen(100, OLD), seen(others, OLD))
        was, now = seen(50, OLD), seen(110, NEW)
        return judge(was, now, None, EXPECTED, rules, started=0, now=200, controls=[control]).verdict

    assert verdict(105) is Verdict.FAIL
    assert verdict(200) is Verdict.PASS
