"""How a server gives less when its board is under pressure: the policy, and the decision. Pure: no IO, no clock.

The steps, each with those before it:

1. **smaller**: a declared smaller model answers in place of the one in service;
2. **shorten**: answers get fewer tokens;
3. **shed**: a declared text answers, else nobody does (503).

Invariants:

- Up at once, to the step that the worst reading asks for. Down one step at a time, each after its minimum stay: a board
  that cools because nobody asks it anything must not be asked everything again at once.
- Each reading has its own memory: a step is left where the reading that entered it is past ``leave``, not where another
  one between its two thresholds happens to be.
- A reading that is unknown asks for nothing.
- A step that cannot be taken here is passed over; the next one keeps its own threshold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta, Struct, structs

from hedgerow.errors import UsageError
from hedgerow.registry.reference import Reference

StepName = Literal["smaller", "shorten", "shed"]


class Level(IntEnum):
    """How far the server has stepped down; a level includes those before it."""

    FULL = 0
    SMALLER = 1
    SHORTEN = 2
    SHED = 3


_STEPS: Final[dict[StepName, Level]] = {"smaller": Level.SMALLER, "shorten": Level.SHORTEN, "shed": Level.SHED}


class Band(Struct, frozen=True, forbid_unknown_fields=True):
    """A step is taken from ``enter`` on, and kept until the reading is past ``leave``."""

    enter: float
    leave: float


class Bands(Struct, frozen=True, forbid_unknown_fields=True):
    """A band for each step; null: this reading never asks for it. ``worse``: 1 where more is, -1 where less is."""

    smaller: Band | None = None
    shorten: Band | None = None
    shed: Band | None = None

    worse: ClassVar[int] = 1

    def __post_init__(self) -> None:
        before: Band | None = None
        for level, band in self.given():
            name = level.name.lower()
            if (band.enter - band.leave) * self.worse <= 0:
                side = "less" if self.worse > 0 else "more"
                raise ValueError(f"{name} is left at {band.leave:g}; that must be {side} than where it is entered")
            if before is not None:
                later = min((band.enter - before.enter) * self.worse, (band.leave - before.leave) * self.worse)
                if later < 0:
                    raise ValueError(f"{name} is entered or left before the step that is milder")
            before = band

    def given(self) -> Iterator[tuple[Level, Band]]:
        """The bands that there are, the mildest step's first."""
        for level, band in ((Level.SMALLER, self.smaller), (Level.SHORTEN, self.shorten), (Level.SHED, self.shed)):
            if band is not None:
                yield level, band

    def level(self, value: float, held: Level) -> Level:
        """What ``value`` asks for, where this reading asked for ``held`` before."""
        wanted = Level.FULL
        for level, band in self.given():
            bound = band.leave if level <= held else band.enter
            beyond = (value - bound) * self.worse
            if beyond > 0 or (beyond == 0 and level > held):
                wanted = level
        return wanted


class TemperatureBands(Bands, frozen=True, forbid_unknown_fields=True):
    """°C of the processor.

    The firmware slows it down progressively from 80 to 85 °C and hard at 85, which it holds as the maximum; its own fan
    control has 5 °C of hysteresis (Raspberry Pi documentation, frequency-management; overlays/README, cooling_fan). A
    board that is 5 °C past what the firmware holds is not held by it any more: that is where nobody is answered.
    """

    smaller: Band | None = Band(80.0, 75.0)
    shorten: Band | None = Band(82.0, 77.0)
    shed: Band | None = Band(90.0, 85.0)


class AvailableBands(Bands, frozen=True, forbid_unknown_fields=True):
    """MB of memory that are available. ``shorten`` begins where the health report says ``memory_low``."""

    smaller: Band | None = Band(256.0, 384.0)
    shorten: Band | None = Band(128.0, 256.0)
    shed: Band | None = Band(64.0, 128.0)

    worse: ClassVar[int] = -1


class StalledBands(Bands, frozen=True, forbid_unknown_fields=True):
    """Percent of the last 10 s in which all that wanted to run waited for memory (``full avg10``).

    systemd-oomd kills at 60 (oomd.conf(5), DefaultMemoryPressureLimit=); well before that is better.
    """

    smaller: Band | None = Band(10.0, 5.0)
    shorten: Band | None = Band(20.0, 10.0)
    shed: Band | None = Band(40.0, 20.0)


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``degradation`` of ``server.yml``.

    ``smaller_model`` (``NAME@VERSION``, on the device) and ``canned_answer`` are steps that need a declaration, off
    without. ``max_tokens`` is what ``shorten`` leaves of an answer. ``undervoltage`` and ``throttled`` (the firmware's
    own words, now) name the step that each asks for; null: none. Seconds: ``every_s`` the board is read,
    ``minimum_stay_s`` on a step.
    """

    smaller_model: str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] = 128
    canned_answer: Annotated[str, Meta(min_length=1)] | None = None
    every_s: Annotated[float, Meta(ge=1, le=60)] = 5.0
    minimum_stay_s: Annotated[float, Meta(ge=0, le=86400)] = 60.0
    temperature_c: TemperatureBands = TemperatureBands()
    memory_available_mb: AvailableBands = AvailableBands()
    memory_stalled_percent: StalledBands = StalledBands()
    # Each lowers the clock, so that answers take longer; a supply that sags may also end in a reset.
    undervoltage: StepName | None = "shorten"
    throttled: StepName | None = "shorten"

    def __post_init__(self) -> None:
        if self.smaller_model is not None:
            try:
                Reference.parse(self.smaller_model)
            except UsageError as error:
                raise ValueError(f"smaller_model: {error.what}") from error

    @property
    def smaller(self) -> Reference | None:
        """The declared smaller model."""
        return None if self.smaller_model is None else Reference.parse(self.smaller_model)

    def for_model(self, degrade_above_c: float | None) -> Policy:
        """With what a bundle says of heat (``thermal.degrade_above_c``), which can only make steps begin earlier.

        Both milder steps move down together; where nobody is answered any more is the operator's alone.
        """
        own = self.temperature_c
        first = next((band.enter for level, band in own.given() if level < Level.SHED), None)
        if degrade_above_c is None or first is None or degrade_above_c >= first:
            return self
        by = first - degrade_above_c
        bands = structs.replace(own, smaller=_lower(own.smaller, by), shorten=_lower(own.shorten, by))
        return structs.replace(self, temperature_c=bands)


def _lower(band: Band | None, by: float) -> Band | None:
    return None if band is None else Band(band.enter - by, band.leave - by)


@dataclass(frozen=True)
class Readings:
    """What the board measures; None is not known.

    ``parked_mb``: what the model in service will take when it is loaded again, while a smaller one has its place.
    """

    temperature_c: float | None = None
    memory_available_mb: float | None = None
    memory_stalled_percent: float | None = None
    undervoltage: bool | None = None
    throttled: bool | None = None
    parked_mb: float = 0.0


Cause = Literal["temperature_c", "memory_available_mb", "memory_stalled_percent", "undervoltage", "throttled"]
MEMORY: Final[tuple[Cause, ...]] = ("memory_available_mb", "memory_stalled_percent")


@dataclass(frozen=True)
class State:
    """``level`` since ``since_s`` (the caller's clock), for ``reason``; ``held``: what each reading asks for."""

    level: Level = Level.FULL
    since_s: float = 0.0
    reason: str = ""
    held: Mapping[Cause, Level] = field(default_factory=dict)

    def short_of_memory(self) -> bool:
        """Whether memory is among what asks for a step."""
        return any(self.held.get(cause, Level.FULL) for cause in MEMORY)


ALL: Final = frozenset({Level.SMALLER, Level.SHORTEN, Level.SHED})


def decide(state: State, readings: Readings, policy: Policy, now_s: float, steps: Collection[Level] = ALL) -> State:
    """What follows from ``state`` and ``readings`` at ``now_s``. ``steps``: those that can be taken here."""
    asked = _asked(state, readings, policy)
    held = {cause: level for cause, (level, _) in asked.items()}
    wanted = _at_most(max(held.values(), default=Level.FULL), steps)
    possible = state.level == Level.FULL or state.level in steps
    if wanted == state.level and possible:
        reason = _reason(asked, wanted) or state.reason
        return State(state.level, state.since_s, reason, held)
    if wanted > state.level or not possible:
        return State(wanted, now_s, _reason(asked, wanted), held)
    if now_s - state.since_s < policy.minimum_stay_s:
        return State(state.level, state.since_s, state.reason, held)
    lower = _at_most(Level(state.level - 1), steps)
    return State(lower, now_s, "" if lower == Level.FULL else _reason(asked, lower) or state.reason, held)


def _at_most(level: Level, steps: Collection[Level]) -> Level:
    return max((each for each in steps if each <= level), default=Level.FULL)


def _asked(state: State, readings: Readings, policy: Policy) -> dict[Cause, tuple[Level, str]]:
    """Each reading's level and its words."""
    found: dict[Cause, tuple[Level, str]] = {}
    measured: tuple[tuple[Cause, float | None, Bands, str], ...] = (
        ("temperature_c", readings.temperature_c, policy.temperature_c, "the processor has {:.1f} °C"),
        ("memory_available_mb", readings.memory_available_mb, policy.memory_available_mb, "{:.0f} MB are available"),
        (
            "memory_stalled_percent",
            readings.memory_stalled_percent,
            policy.memory_stalled_percent,
            "memory is waited for {:.0f} % of the time",
        ),
    )
    for cause, value, bands, words in measured:
        if value is not None:
            before = state.held.get(cause, Level.FULL)
            level = bands.level(value, before)
            if cause == "memory_available_mb" and readings.parked_mb:
                # Or the model would be loaded again, not fit, and give its place up again, for ever.
                level = max(level, min(Level.SMALLER, bands.level(value - readings.parked_mb, before)))
            found[cause] = level, words.format(value)
    told: tuple[tuple[Cause, bool | None, StepName | None, str], ...] = (
        ("undervoltage", readings.undervoltage, policy.undervoltage, "the supply voltage is too low"),
        ("throttled", readings.throttled, policy.throttled, "the firmware slows the processor down"),
    )
    for cause, is_so, step, words in told:
        if is_so and step is not None:
            found[cause] = _STEPS[step], words
    return {cause: each for cause, each in found.items() if each[0] > Level.FULL}


def _reason(asked: Mapping[Cause, tuple[Level, str]], level: Level) -> str:
    """The words of all readings that ask for ``level`` or more; "" where none does."""
    return ", ".join(words for wanted, words in asked.values() if wanted >= level) if level else ""
