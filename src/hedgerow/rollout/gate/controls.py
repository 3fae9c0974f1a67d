"""Hosts that do not have the release yet, asked the same questions in the same minutes.

What slows all of a fleet (a link, a gateway, an hour of the day) slows them, too, and is not the release's doing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

from hedgerow.rollout.events import State
from hedgerow.rollout.gate.errand import Result
from hedgerow.rollout.gate.samples import Kind, Window
from hedgerow.rollout.gate.watcher import Watcher
from hedgerow.rollout.plan import Plan, Release

ONE_IN = 3
"""Questions to the host under test for one to an untouched host: these did not ask for the traffic."""
LOOK_ONE_IN = 5
LOST_AT_MOST = 2
ANSWER_WITHIN_S = 5.0


class Run(Protocol):
    """How a request is made so that it can be left behind: ``errand.run``."""

    def __call__(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns."""


class Controls:
    """Untouched hosts, in turn. One that does not answer, or gets the release meanwhile, is left out from then on."""

    def __init__(self, watchers: Sequence[Watcher], release: Release, run: Run) -> None:
        self._left = list(watchers)
        self._lost = dict.fromkeys(map(id, watchers), 0)
        self._release = release
        self._run = run
        self._turn = 0
        self._looks = 0
        self._window = Window()

    @property
    def window(self) -> Window | None:
        """What they have answered; None once none is left, unless there is enough to compare with."""
        return self._window if self._left or self._window.asked else None

    def look(self) -> None:
        """Called once a look: look at one of them from time to time, whether it is still untouched."""
        self._looks += 1
        if self._left and self._looks % LOOK_ONE_IN == 1:
            watcher = self._next()
            look = self._run(watcher.look)
            if look.version == self._release.bundle:
                self._left.remove(watcher)
            elif look.status is not None:
                self._window.see(look)
            else:
                self._note_lost(watcher)

    def ask_after(self, asked: int, question: int) -> None:
        """Called after question number ``asked`` to the host under test: now and then the same to one of these."""
        if not self._left or asked % ONE_IN != 1:
            return
        watcher = self._next()
        answer = self._run(lambda: watcher.probe(self._release, question, timeout_s=ANSWER_WITHIN_S))
        if answer.kind in {Kind.RIGHT, Kind.WRONG}:
            # They serve another version: its answer may be another, and that is nobody's fault.
            self._window.hear(answer)
        else:
            self._note_lost(watcher)

    def _next(self) -> Watcher:
        self._turn += 1
        return self._left[self._turn % len(self._left)]

    def _note_lost(self, watcher: Watcher) -> None:
        self._lost[id(watcher)] += 1
        if self._lost[id(watcher)] >= LOST_AT_MOST:
            self._left.remove(watcher)


def choose_controls(plan: Plan, state: State, host: str, number: int) -> list[str]:
    """Names of ``number`` hosts to compare ``host`` with: untouched ones that are most like it. Pure.

    Held hosts and those outside ``--limit`` are as good as those of later waves, and stay untouched for longer. Of the
    same stratum come first; among equals the name decides, another order for each host, so that not one host answers
    for all.
    """
    later = [name for name in plan.hosts if name != host and _untouched(state, name)]
    others = [*(held.host for held in plan.held), *plan.outside_limit]
    placed = plan.placements
    mine = placed[host].stratum if host in placed else None

    def key(name: str) -> tuple[bool, str]:
        unlike = name not in placed or placed[name].stratum != mine
        return unlike, hashlib.sha256(f"{host}\0{name}".encode()).hexdigest()

    return sorted([*later, *others], key=key)[:number]


def _untouched(state: State, name: str) -> bool:
    known = state.hosts.get(name)
    return known is not None and known.started_at is None and known.outcome is None
