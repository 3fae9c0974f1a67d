"""Which step a server takes: driven by curves (``curves/*.csv``, the last column is what is to follow)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow import configfile
from hedgerow.server.degradation import ALL, Band, Level, Policy, Readings, State, TemperatureBands, decide

CURVES = Path(__file__).parent / "curves"
POLICY = Policy()
HOT = Readings(temperature_c=81.0)


def rows(path: Path) -> Iterator[tuple[float, Readings, str]]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    for row in csv.DictReader(lines):
        numbers = [float(row[name]) if row[name] else None for name in ("temperature_c", "memory_available_mb")]
        stalled = float(row["memory_stalled_percent"]) if row["memory_stalled_percent"] else None
        told = [None if row[name] == "" else row[name] == "1" for name in ("undervoltage", "throttled")]
        yield float(row["s"]), Readings(*numbers, stalled, *told), row["level"]


@pytest.mark.parametrize("path", sorted(CURVES.glob("*.csv")), ids=lambda path: path.stem)
def test_a_curve(path: Path) -> None:
    state = State()
    for at, readings, expected in rows(path):
        state = decide(state, readings, POLICY, at)
        assert (at, state.level.name.lower()) == (at, expected)
        assert bool(state.reason) == (state.level > Level.FULL)


def test_the_reason_names_what_was_read_and_is_kept_while_only_the_stay_holds() -> None:
    state = decide(State(), Readings(82.4, 250.0, undervoltage=True), POLICY, 0)
    assert state.reason == "the processor has 82.4 °C, the supply voltage is too low"
    state = decide(state, Readings(60.0), POLICY, 30)
    assert (state.level, state.since_s) == (Level.SHORTEN, 0)
    assert state.reason == "the processor has 82.4 °C, the supply voltage is too low"
    assert decide(state, Readings(60.0), POLICY, 60).level == Level.SMALLER


def test_a_step_that_cannot_be_taken_is_passed_over() -> None:
    steps = {Level.SHORTEN, Level.SHED}
    state = decide(State(), HOT, POLICY, 0, steps)
    assert state.level == Level.FULL
    state = decide(state, Readings(82.0), POLICY, 5, steps)
    assert state.level == Level.SHORTEN
    assert decide(state, Readings(76.0), POLICY, 65, steps).level == Level.FULL


def test_a_step_that_is_lost_ends_at_once() -> None:
    state = decide(State(), HOT, POLICY, 0)
    assert state.level == Level.SMALLER
    assert decide(state, HOT, POLICY, 5, {Level.SHORTEN, Level.SHED}).level == Level.FULL


def test_memory_counts_as_if_the_parked_model_were_loaded() -> None:
    state = decide(State(), Readings(memory_available_mb=200), POLICY, 0)
    for at, parked, level in ((100, 400, Level.SMALLER), (200, 300, Level.FULL)):
        state = decide(state, Readings(memory_available_mb=700, parked_mb=parked), POLICY, at)
        assert state.level == level
    # It keeps the smaller model in its place, and asks for no more than that.
    assert decide(state, Readings(memory_available_mb=500, parked_mb=600), POLICY, 300).level == Level.SMALLER


def test_a_bundles_word_on_heat_only_makes_steps_begin_earlier() -> None:
    assert POLICY.for_model(None) is POLICY
    assert POLICY.for_model(90.0) is POLICY
    assert POLICY.for_model(70.0).temperature_c == TemperatureBands(Band(70, 65), Band(72, 67), Band(90, 85))


@pytest.mark.parametrize(
    "text, says",
    [
        ("hot: 1", "unknown field `hot`"),
        ("temperature_c: {shed: {enter: 79, leave: 84}}", r"shed is left at 84; that must be less.*temperature_c"),
        ("temperature_c: {smaller: {enter: 90, leave: 84}}", r"shorten is entered or left before the step"),
        ("memory_available_mb: {shed: {enter: 64, leave: 64}}", r"shed is left at 64; that must be more"),
        ("smaller_model: tiny", "smaller_model: 'tiny' is not NAME@VERSION"),
        ("max_tokens: 0", "max_tokens"),
        ("undervoltage: off", "undervoltage"),
    ],
)
def test_a_policy_that_cannot_be_meant(text: str, says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        configfile.decode(text.encode(), Policy)


def test_a_policy_keeps_what_it_does_not_mention() -> None:
    policy = configfile.decode(b"temperature_c: {smaller: null}\nthrottled: null", Policy)
    assert policy.temperature_c == TemperatureBands(smaller=None)
    assert (policy.throttled, policy.undervoltage) == (None, "shorten")


numbers = st.one_of(st.none(), st.floats(0, 120))
readings = st.builds(
    Readings, numbers, st.one_of(st.none(), st.floats(0, 4000)), numbers, st.booleans(), st.booleans(), st.just(0.0)
)


@given(st.lists(st.tuples(st.floats(0.5, 90), readings), max_size=40), st.sets(st.sampled_from(sorted(ALL))))
def test_no_curve_makes_it_flutter(curve: list[tuple[float, Readings]], steps: set[Level]) -> None:
    state, now = State(), 0.0
    for passed, seen in curve:
        now += passed
        after = decide(state, seen, POLICY, now, steps)
        assert after.level == Level.FULL or after.level in steps
        if after.level < state.level:
            assert now - state.since_s >= POLICY.minimum_stay_s
            assert not [each for each in steps if after.level < each < state.level]
        assert after.since_s == (state.since_s if after.level == state.level else now)
        state = after


def test_the_example_of_the_docs_is_one() -> None:
    text = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    example = next(part.partition("```")[0] for part in text.split("```yaml\n") if part.startswith("degradation:"))
    policy = configfile.convert(msgspec.yaml.decode(example)["degradation"], Policy)
    assert policy.temperature_c == TemperatureBands(shed=None)
    assert (policy.memory_available_mb, policy.throttled) == (POLICY.memory_available_mb, POLICY.throttled)
