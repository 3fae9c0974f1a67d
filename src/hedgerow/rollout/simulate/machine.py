"""Time, forks and the journal's meaning of a simulated rollout. No IO and no clock but its own.

What happens is folded into ``events.State`` as a journal's lines would be, with what ``decide.after`` says follows.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from hedgerow.rollout import decide, events
from hedgerow.rollout.events import Event, Outcome, State
from hedgerow.rollout.gate import errand
from hedgerow.rollout.gate.samples import Window
from hedgerow.rollout.plan import Plan
from hedgerow.rollout.simulate.flaw import Flaw
from hedgerow.rollout.simulate.fleet import Device, Model
from hedgerow.rollout.simulate.gate import Gate
from hedgerow.rollout.simulate.links import Link
from hedgerow.rollout.simulate.outcome import Served

START = datetime(2026, 1, 5, 9, tzinfo=UTC)
"""A Monday morning; what windows and freezes are measured from."""
FORKS = 10
"""As in ``ansible.cfg``."""

Done = Callable[[], None]
Step = Callable[[str, Done], None]


class Machine:
    """What a simulated rollout knows, and how its time passes. ``keep``: hold every event and figure, for reports."""

    def __init__(
        self,
        plan: Plan,
        devices: Iterable[Device],
        flaw: Flaw,
        *,
        model: Model | None = None,
        seed: str = "0",
        forks: int = FORKS,
        start: datetime = START,
        keep: bool = False,
    ) -> None:
        self.events: list[Event] = []
        self._devices = {device.name: device for device in devices}
        self._flaw = flaw
        self._model = model or Model()
        self._seed = seed
        self._forks = forks
        self._start = start
        self._keep = keep
        self._plan = plan
        self._restart_s = self._model.restart_s if decide.drains(plan.release.kind) else 0.0
        self._gate = Gate(plan.release, plan.policy, flaw, self._model, seed, keep=keep)
        self._draw = random.Random(f"{seed}/times")  # noqa: S311 - a simulation is to give the same twice
        self._now = 0.0
        self._queue: list[tuple[float, int, Done]] = []
        self._count = itertools.count()
        self.links: dict[str, Link] = {}
        self._fetching: dict[str, Done] = {}
        self._baselines: dict[str, Window] = {}
        self._switched: dict[str, float] = {}
        self._gates: dict[str, Done] = {}
        self._failed: dict[str, str] = {}
        self._again: list[str] = []
        self._gone: dict[str, float] = {}
        self._confirmed_bad: dict[str, float] = {}
        self.served: dict[str, Served] = {}
        self.waited_s: dict[str, float] = {}
        self.stopped_at: float | None = None
        self.stopped_in: int | None = None
        self.stopped_by: str | None = None
        """The host whose end brought the stop, and what became of it."""
        opened = events.Opened(at=self._at(), plan=plan, by="simulation")
        self.state: State = events.begin(opened)
        if keep:
            self.events.append(opened)

    # -- time -------------------------------------------------------------

    def _moment(self) -> datetime:
        return self._start + timedelta(seconds=self._now)

    def _at(self) -> str:
        return self._moment().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _later(self, seconds: float, what: Done) -> None:
        heapq.heappush(self._queue, (self._now + seconds, next(self._count), what))

    def _drain(self) -> None:
        while self._queue:
            self._now, _, what = heapq.heappop(self._queue)
            what()

    def _do(self, hosts: Sequence[str], step: Step) -> None:
        """One task of the play: ``step`` on every host, ``forks`` at a time; returns when all are done."""
        waiting = iter(hosts)

        def next_one() -> None:
            host = next(waiting, None)
            if host is not None:
                self._later(self._model.step_s, lambda: step(host, next_one))

        for _ in range(min(self._forks, len(hosts))):
            next_one()
        self._drain()

    def _record(self, event: Event) -> None:
        """As ``Journal.record``: the event, and what follows of itself."""
        self.state.apply(event)
        follows = decide.after(self.state, event)
        for each in follows:
            self.state.apply(each)
        if self._keep:
            self.events += [event, *follows]
        if self.state.stopped is not None and self.stopped_at is None:
            self.stopped_at, self.stopped_in = self._now, self.state.wave
            if isinstance(event, events.HostFinished | events.HostFell):
                self.stopped_by = f"{event.host}: {event.reason}"
        if follows and self.state.undo:
            for interrupt in list(self._gates.values()):
                self._later(errand.ASK_EVERY_S, interrupt)

    def _note_stop(self) -> None:
        stop = decide.stopped(self.state)
        if stop is not None and self.state.stopped is None:
            self._record(events.Stopped(at=self._at(), reason=stop.reason, undo=stop.undo))

    def _finish(self, host: str, outcome: Outcome, reason: str) -> None:
        self._record(events.HostFinished(at=self._at(), host=host, outcome=outcome, reason=reason))
