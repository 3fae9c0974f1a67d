"""What simulated rollouts came to: one, and many with different seeds. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from hedgerow.rollout import decide
from hedgerow.rollout.gate.statistics import percentile

if TYPE_CHECKING:
    from hedgerow.rollout.simulate.run import Run


class Served(NamedTuple):
    """From when to when (seconds of the rollout; ``end`` infinite: it still does) a host served the release.

    ``hurts_at``: when its users begin to feel what is wrong with it; None: never.
    """

    begin: float
    end: float
    hurts_at: float | None

    def until(self, now: float) -> Served:
        """The same, ended at ``now`` at the latest."""
        return self._replace(end=min(self.end, now))

    def hurt_s(self, now: float) -> float:
        """Seconds for which its users felt it, up to ``now``."""
        return 0.0 if self.hurts_at is None else max(0.0, min(self.end, now) - max(self.begin, self.hurts_at))


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated rollout; ``_s`` seconds, ``bytes`` by site."""

    phase: str
    duration_s: float
    hosts: int
    counts: dict[str, int]
    stopped: str | None
    stopped_at_s: float | None
    stopped_in_wave: int | None
    stopped_by: str | None
    """The host whose end brought the stop, and what became of it."""
    waves: int
    """Planned."""
    waves_opened: int
    touched: int
    """Hosts that served the release at any time."""
    hurt: int
    """Of these, whose users felt what is wrong with it."""
    hurt_device_s: float
    """Over all of them together."""
    hurt_longest_s: float
    still_hurt: int
    """Hosts that serve it at the end, to their users' harm: nothing in the rollout saw it."""
    forgotten: list[str]
    """Hosts whose turn began and did not end; there must be none."""
    waited_s: dict[str, float]
    bytes: dict[str, int]

    @classmethod
    def of(cls, run: Run, ended: float) -> Self:
        """Sum up a run that came to its end at ``ended``."""
        state = run.state
        hurt = [each for served in run.served.values() if (each := served.hurt_s(ended)) > 0]
        still = [each for each in run.served.values() if each.end == math.inf and each.hurt_s(ended) > 0]
        return cls(
            phase=state.phase,
            duration_s=round(ended, 3),
            hosts=len(state.plan.hosts),
            counts=state.count(),
            stopped=state.stopped,
            stopped_at_s=None if run.stopped_at is None else round(run.stopped_at, 3),
            stopped_in_wave=run.stopped_in,
            stopped_by=run.stopped_by,
            waves=len(state.plan.waves),
            waves_opened=state.wave,
            touched=len(run.served),
            hurt=len(hurt),
            hurt_device_s=round(sum(hurt), 3),
            hurt_longest_s=round(max(hurt, default=0.0), 3),
            still_hurt=len(still),
            forgotten=decide.unsettled(state),
            waited_s={code: round(seconds, 3) for code, seconds in run.waited_s.items()},
            bytes={site: round(link.carried) for site, link in sorted(run.links.items())},
        )

    @property
    def fetched(self) -> int:
        """Bytes over all sites."""
        return sum(self.bytes.values())


_FIGURES = ("duration_s", "stopped_at_s", "stopped_in_wave", "touched", "hurt", "hurt_device_s", "hurt_longest_s")


def spread(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Figure → median, 95th percentile and most over ``results``; a figure that none has is left out."""
    found: dict[str, dict[str, float]] = {}
    for name in (*_FIGURES, "still_hurt", "fetched"):
        values = [float(value) for each in results if (value := getattr(each, name)) is not None]
        if values:
            middle, high = percentile(values, 0.5), percentile(values, 0.95)
            found[name] = {"median": middle or 0.0, "p95": high or 0.0, "most": max(values)}
    return found


def phases(results: Sequence[Result]) -> dict[str, int]:
    """How many ended how."""
    found: dict[str, int] = {}
    for each in results:
        found[each.phase] = found.get(each.phase, 0) + 1
    return found


def document(results: Sequence[Result]) -> dict[str, Any]:
    """Everything for ``--json``."""
    return {"runs": msgspec.to_builtins(list(results)), "spread": spread(results), "phases": phases(results)}
