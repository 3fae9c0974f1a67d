"""Whole sessions against hosts in memory, on a clock that only sleeping and answering move."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hedgerow.registry.manifest import GoldenText, Message
from hedgerow.rollout.events import HostJudged
from hedgerow.rollout.gate import baseline
from hedgerow.rollout.gate.prometheus import Answers
from hedgerow.rollout.gate.samples import Answer, Expectation, Kind, Look, Window
from hedgerow.rollout.gate.session import GateSession
from hedgerow.rollout.gate.verdicts import Standing, Verdict
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.plan import Release
from hedgerow.rollout.policy import parse

NEW, OLD = "assistant@1.1.0", "assistant@1.0.0"
EXPECTED = Expectation(version=NEW, sha256="5a" * 32)


class Host:
    """A server whose answers take ``answer_s`` of the clock's time; ``lives`` are what each question comes to."""

    def __init__(self, ticking, answer_s: float = 0.02, version: str = NEW) -> None:
        self.ticking = ticking
        self.answer_s = answer_s
        self.version = version
        self.reached = True
        self.kind = Kind.RIGHT
        self.questions: list[int] = []
        self.asked_at: list[float] = []
        self.looked_at: list[float] = []
        self.throttled = False
        self.reasons: frozenset[str] = frozenset()
        self.perplexity: float | None = None

    def look(self) -> Look:
        self.looked_at.append(self.ticking.now)
        if not self.reached:
            return Look(at=self.ticking.now, reached=False, note="no route to host")
        return Look(
            at=self.ticking.now,
            reached=True,
            status="degraded" if self.reasons else "ok",
            reasons=self.reasons,
            version=self.version,
            sha256="5a" * 32,
            restarts=0,
            throttled=self.throttled,
        )

    def probe(self, release: Release, number: int, *, timeout_s: float = 30, weigh: bool = False) -> Answer:
        at = self.ticking.now
        self.questions.append(number)
        self.asked_at.append(at)
        self.ticking.sleep(self.answer_s)
        note = {Kind.WRONG: "it said 'Lyon'", Kind.LOST: "timed out"}.get(self.kind, "")
        answer = Answer(at=at, question=number, kind=self.kind, latency_ms=self.answer_s * 1000, note=note)
        return msgspec.structs.replace(answer, perplexity=self.perplexity) if weigh else answer


@pytest.fixture
def host(ticking) -> Host:
    return Host(ticking)


def with_questions(release: Release, number: int) -> Release:
    probes = [GoldenText(messages=(Message("user", f"Question {each}?"),), expect="x") for each in range(number)]
    return msgspec.structs.replace(release, probes=probes)


@pytest.fixture
def session(release: Release, ticking, host: Host) -> Callable[..., GateSession]:
    def make(policy: dict[str, object] | None = None, **more) -> GateSession:
        soak = {"soak": {"passes": 3, "interval_s": 1, "deadline_s": 20}}
        clock = Clock(ticking.monotonic, ticking.sleep)
        given = {"watcher": host, "release": release, "expected": EXPECTED} | more
        return GateSession(**given, policy=parse(soak | (policy or {}), where="test"), clock=clock)

    return make


def measured(session: Callable[..., GateSession], host: Host, answer_s: float = 0.02, **more) -> Window:
    """The host's baseline with the version before."""
    now, host.answer_s, host.version = host.answer_s, answer_s, OLD
    window = session(**more).baseline()
    host.answer_s, host.version = now, NEW
    host.questions.clear()
    host.asked_at.clear()
    host.looked_at.clear()
    return window


def test_an_idle_host_is_judged_by_the_gates_own_questions(session, host: Host, ticking) -> None:
    before = measured(session, host)
    assert (before.asked, before.looked) == (30, 2)
    begun = ticking.now
    gate = session(before=before)
    found = gate.run()
    assert found.verdict is Verdict.PASS
    assert [at - begun for at in host.looked_at] == pytest.approx([0, 1, 2], abs=0.05)
    assert 25 <= len(host.questions) <= 35
    evidence = gate.evidence()
    assert (evidence.looks, evidence.seconds) == (3, pytest.approx(ticking.now - begun, abs=0.001))
    assert (evidence.before["p50_ms"], evidence.after["p50_ms"]) == (20, 20)
    assert {each.name for each in evidence.criteria} >= {"slower", "wrong_answers", "errors"}


def test_evidence_goes_into_the_journal_and_out_again(session, host: Host) -> None:
    gate = session(before=measured(session, host))
    found = gate.run()
    seen = msgspec.structs.asdict(gate.evidence())
    event = HostJudged(at="t", host="a", verdict=found.verdict, reason=found.reason, **seen)
    assert msgspec.json.decode(msgspec.json.encode(event), type=HostJudged) == event


def test_a_slower_release_stops_by_comparison(session, host: Host) -> None:
    before = measured(session, host)
    host.answer_s = 0.05
    found = session(before=before).run()
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith("slower: p50_ms is 50, 2.50 times worse than 20 before")
    assert len(host.looked_at) == 3


LESS_SURE = {"name": "less_sure", "all_of": [{"metric": "perplexity", "worse_by": 1.2}]}


@pytest.mark.parametrize("after, verdict", [(3.0, Verdict.PASS), (9.0, Verdict.FAIL)])
def test_a_model_that_is_less_sure_of_its_answers_stops_by_comparison(
    session, host: Host, after: float, verdict: Verdict
) -> None:
    policy = {"gate": {"criteria": [LESS_SURE]}}
    host.perplexity = 3.0
    before = measured(session, host, policy=policy)
    assert len(before.perplexity) == before.asked
    host.perplexity = after
    gate = session(policy, before=before)
    assert gate.run().verdict is verdict
    assert (gate.evidence().before["perplexity"], gate.evidence().after["perplexity"]) == (3, after)


@pytest.mark.parametrize("unknown, verdict", [("no_data", Verdict.NO_DATA), ("skip", Verdict.PASS)])
def test_a_model_that_cannot_tell_how_sure_it_is(session, host: Host, unknown: str, verdict: Verdict) -> None:
    sure = {"name": "sure", "all_of": [{"metric": "perplexity", "above": 20}], "unknown": unknown}
    gate = session({"gate": {"criteria": [LESS_SURE, sure]}}, before=measured(session, host))
    assert gate.run().verdict is verdict
    assert {each.name: each.verdict for each in gate.evidence().criteria}["less_sure"] is Standing.SKIPPED
    assert "perplexity" not in gate.evidence().after


def test_nobody_is_weighed_without_a_criterion(session, host: Host) -> None:
    host.perplexity = 3.0
    assert measured(session, host).perplexity == []


def test_a_throttled_host_is_set_aside(session, host: Host) -> None:
    before = measured(session, host)
    host.answer_s, host.throttled = 0.05, True
    assert session(before=before).run().verdict is Verdict.ENVIRONMENT


def test_a_wrong_answer_ends_it_at_the_next_look(session, host: Host) -> None:
    host.kind = Kind.WRONG
    found = session().run()
    assert (found.verdict, len(host.looked_at)) == (Verdict.FAIL, 2)
    assert "it said 'Lyon'" in found.reason


def test_a_question_without_an_answer_is_an_error_where_the_host_is_there(session, host: Host) -> None:
    host.kind = Kind.LOST
    gate = session()
    found = gate.run()
    assert (found.verdict, gate.after.errors) == (Verdict.FAIL, 1)
    assert "1 of 1 requests failed" in found.reason
    assert "timed out" in found.reason


def test_an_unreachable_host_is_not_asked_and_not_blamed(session, host: Host, ticking) -> None:
    host.reached = False
    begun = ticking.now
    found = session().run()
    assert (found.verdict, host.questions) == (Verdict.UNREACHABLE, [])
    assert ticking.now - begun == pytest.approx(20)


def test_a_host_under_pressure_is_not_asked_and_not_blamed(session, host: Host) -> None:
    host.reasons = frozenset({"throttled", "hot", "smaller_model"})
    found = session().run()
    assert (found.verdict, host.questions) == (Verdict.ENVIRONMENT, [])


def test_a_slow_model_gets_few_questions(session, host: Host) -> None:
    host.answer_s = 2
    assert session({"soak": {"minimum_s": 15, "deadline_s": 20}}).run().verdict is Verdict.PASS
    gaps = [later - earlier for earlier, later in zip(host.asked_at, host.asked_at[1:], strict=False)]
    assert min(gaps) >= 4  # half of the time is the users'


def test_a_long_soak_goes_on_asking(session, host: Host) -> None:
    long = {
        "soak": {"passes": 3, "interval_s": 10, "minimum_s": 600, "deadline_s": 1200},
        "confirm_within_s": 1800,
    }
    assert session(long).run().verdict is Verdict.PASS
    gaps = [later - earlier for earlier, later in zip(host.asked_at, host.asked_at[1:], strict=False)]
    assert max(gaps) <= 5.1
    assert len(host.questions) > 100


def test_without_probes_one_question_is_put_all_the_same(session, host: Host) -> None:
    assert session({"gate": {"probes": {"count": 0}}}).run().verdict is Verdict.PASS
    assert host.questions == [0]


def test_the_time_before_is_bounded_and_what_it_asked_is_asked_again(
    session, host: Host, release: Release, ticking
) -> None:
    many = with_questions(release, 40)
    before = measured(session, host, 1.0, release=many, policy={"gate": {"probes": {"baseline_s": 10}}})
    assert before.questions == [0, 1, 2, 3, 4]
    assert ticking.now <= 12
    session(before=before, release=many).run()
    assert host.questions[:6] == [0, 5, 1, 6, 2, 7]


def test_what_the_version_before_says_is_not_judged(session, host: Host) -> None:
    host.kind = Kind.WRONG
    before = measured(session, host)
    assert (before.wrong, len(before.latency_ms)) == ([], 30)


def test_a_host_that_serves_nothing_has_no_baseline(session, host: Host) -> None:
    host.version = None
    before = session().baseline()
    assert (before.asked, before.looked) == (0, 1)


def test_start_time_of_the_activation_counts(session) -> None:
    assert "start_s is 12, above 10" in session(start_s=12.0).run().reason


class Queries:
    def ask(self) -> Answers:
        return Answers(values={"load": 9.0})


def test_queries_are_part_of_a_look(session, host: Host) -> None:
    gate = {
        "prometheus": {"url": "http://p:9090", "queries": {"load": "x"}},
        "criteria": [{"name": "load", "all_of": [{"query": "load", "above": 4}]}],
    }
    made = session({"gate": gate}, queries=Queries())
    assert "load: query load is 9, above 4" in made.run().reason
    assert made.evidence().after["query_load"] == 9


AGAINST = {
    "without": ["slower"],
    "criteria": [{"name": "others", "all_of": [{"metric": "p50_ms", "worse_by": 1.5, "against": "untouched"}]}],
}


@pytest.mark.parametrize("others_s, verdict", [(0.05, Verdict.PASS), (0.02, Verdict.FAIL)])
def test_untouched_hosts_are_asked_the_same_less_often(
    session, host: Host, ticking, others_s: float, verdict: Verdict
) -> None:
    host.answer_s = 0.05
    others = {"b": Host(ticking, others_s, OLD), "c": Host(ticking, others_s, OLD)}
    found = session({"gate": AGAINST}, controls=others).run()
    assert found.verdict is verdict
    asked = [len(each.questions) for each in others.values()]
    assert sum(asked) >= 8
    assert sum(asked) <= len(host.questions) / 2 + 1
    assert abs(asked[0] - asked[1]) <= 1


def test_a_control_that_is_lost_or_gets_the_release_is_left_out(session, host: Host, ticking) -> None:
    gone, updated, good = Host(ticking, 0.02, OLD), Host(ticking, 0.02, NEW), Host(ticking, 0.02, OLD)
    gone.kind, gone.reached = Kind.LOST, False
    soak = {"soak": {"passes": 12, "deadline_s": 20}}
    assert (
        session(soak | {"gate": AGAINST}, controls={"b": gone, "c": updated, "d": good}).run().verdict is Verdict.PASS
    )
    assert len(gone.questions) <= 2
    assert len(updated.questions) < len(good.questions)


@pytest.mark.parametrize("others_s, verdict", [(0.05, Verdict.PASS), (0.02, Verdict.FAIL)])
def test_what_became_slower_for_untouched_hosts_too_is_not_the_releases(
    session, host: Host, ticking, others_s: float, verdict: Verdict
) -> None:
    others = {"b": Host(ticking, 0.02, OLD), "c": Host(ticking, 0.02, OLD)}
    first = session(controls=others)
    host.version = OLD
    before = first.baseline()
    kept = first.controls_measured
    assert (before.asked, {name: window.asked for name, window in kept.items()}) == (30, {"b": 15, "c": 15})
    assert {window.looked for window in kept.values()} == {2}
    host.version, host.answer_s = NEW, 0.05
    for other in others.values():
        other.answer_s = others_s
    # Another process: only what was kept of the time before is there.
    kept = msgspec.json.decode(msgspec.json.encode(kept), type=dict[str, Window])
    found = session(before=before, controls=others, controls_before=kept).run()
    assert found.verdict is verdict
    assert "untouched hosts" in next(each.reason for each in found.criteria if each.name == "slower")


def test_untouched_hosts_cost_the_time_before_nothing_but_their_looks(session, host: Host, ticking) -> None:
    host.version = OLD
    begun = ticking.now
    session().baseline()
    alone_s, begun = ticking.now - begun, ticking.now
    session(controls={"b": Host(ticking, 0.02, OLD)}).baseline()
    assert ticking.now - begun == pytest.approx(alone_s, abs=0.05)


def test_a_control_that_is_off_before_is_not_waited_for(session, host: Host, ticking) -> None:
    gone, good = Host(ticking, 0.02, OLD), Host(ticking, 0.02, OLD)
    gone.reached = False
    host.version = OLD
    gate = session(controls={"b": gone, "c": good})
    gate.baseline()
    assert (gone.questions, len(gone.looked_at), list(gate.controls_measured)) == ([], 1, ["c"])


def test_a_control_is_asked_what_it_was_asked_before(session, host: Host, release: Release, ticking) -> None:
    """Where the time before was too short for all questions, others than those tell nothing of its change."""
    many = with_questions(release, 40)
    other = Host(ticking, 0.02, OLD)
    host.version, host.answer_s = OLD, 1.0
    first = session({"gate": {"probes": {"baseline_s": 10}}}, release=many, controls={"b": other})
    before = first.baseline()
    known = set(first.controls_measured["b"].questions)
    host.version, host.answer_s = NEW, 0.02
    other.questions.clear()
    session(release=many, before=before, controls={"b": other}, controls_before=first.controls_measured).run()
    assert len(other.questions) > 5
    assert set(other.questions) <= known


def test_only_hosts_with_the_release_are_asked_for_its_adapter(session, host: Host, release: Release, ticking) -> None:
    plain = with_questions(release, 4)
    probes = [msgspec.structs.replace(each, adapter="tone") if at % 2 else each for at, each in enumerate(plain.probes)]
    adapted = msgspec.structs.replace(plain, probes=probes)
    assert adapted.comparable == [0, 2]
    other = Host(ticking, 0.02, OLD)
    host.version = OLD
    first = session(release=adapted, controls={"b": other})
    before = first.baseline()
    assert set(host.questions) == {0, 2}
    host.version = NEW
    host.questions.clear()
    kept = first.controls_measured
    session(release=adapted, before=before, controls={"b": other}, controls_before=kept).run()
    assert set(host.questions) == {0, 1, 2, 3}
    session(release=adapted, controls={"b": other}).run()
    assert set(other.questions) == {0, 2}


def test_without_an_untouched_host_the_comparison_is_listed_as_skipped(session) -> None:
    gate = session({"gate": AGAINST})
    assert gate.run().verdict is Verdict.PASS
    assert {each.name: each.verdict for each in gate.evidence().criteria}["others"] is Standing.SKIPPED


def test_a_stop_ends_the_watch(session, host: Host, ticking) -> None:
    begun = ticking.now
    found = session(stop=lambda: "emergency stop by ada" if ticking.now - begun > 1.2 else None).run()
    assert (found.verdict, found.final) == (Verdict.STOPPED, True)
    assert found.reason == "the rollout has stopped: emergency stop by ada"
    assert ticking.now - begun < 2.2


@pytest.mark.parametrize("hangs", ["look", "probe"])
def test_an_emergency_stop_does_not_wait_for_a_host_that_hangs(
    release: Release, host: Host, monkeypatch: pytest.MonkeyPatch, hangs: str
) -> None:
    """Real time: the host keeps silent until the test is over."""
    over = threading.Event()
    monkeypatch.setattr(host, hangs, lambda *_, **__: over.wait(30))
    begun = time.monotonic()
    gate = GateSession(
        host,
        release,
        EXPECTED,
        parse(None, where="test"),
        clock=Clock(),
        stop=lambda: "abort" if time.monotonic() - begun > 0.3 else None,
    )
    found = gate.run()
    seconds = time.monotonic() - begun
    over.set()
    assert found.verdict is Verdict.STOPPED
    assert seconds < 10


def test_a_stop_ends_the_baseline_too(session, host: Host) -> None:
    before = session(stop=lambda: "abort").baseline()
    assert before.asked == 0


def test_what_breaks_in_a_watcher_breaks_the_session(session, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "look", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session().run()


def test_a_baseline_outlives_its_process(session, host: Host, tmp_path: Path) -> None:
    before = measured(session, host)
    assert baseline.load(tmp_path, "pi-1") is None
    assert baseline.load_controls(tmp_path, "pi-1") == {}
    baseline.save_controls(tmp_path, "pi-1", {"pi-2": before})
    assert baseline.load_controls(tmp_path, "pi-1") == {"pi-2": before}
    baseline.save(tmp_path, "pi-1", before)
    assert baseline.load(tmp_path, "pi-1") == before
    (tmp_path / "baselines" / "pi-1.json").write_text("{")
    assert baseline.load(tmp_path, "pi-1") is None
