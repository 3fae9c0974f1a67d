"""Hosts that do not have the release yet, asked the same questions in the same minutes.

What slows all of a fleet (a link, a gateway, an hour of the day) slows them, too, and is not the release's doing.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import msgspec

from hedgerow.rollout import kinds
from hedgerow.rollout.events import State
from hedgerow.rollout.gate.errand import Result
from hedgerow.rollout.gate.samples import Kind, Window
from hedgerow.rollout.gate.shift import Control
from hedgerow.rollout.gate.watcher import Watcher
from hedgerow.rollout.plan import Plan, Release

ONE_IN = 2
"""Questions to the host under test for one to an untouched host: these did not ask for the traffic. Before the
activation it is one for one, in the rest that the host has between two questions: each of these answers is wanted
later."""
LOOK_ONE_IN = 2
LOST_AT_MOST = 2
ANSWER_WITHIN_S = 5.0


class Run(Protocol):
    """How a request is made so that it can be left behind: ``errand.run``."""

    def __call__(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns."""


class Controls:
    """Untouched hosts by name, in turn. One that does not answer, or gets the release meanwhile, is left out from then.

    ``before`` is what ``measured`` gave before the activation of the host under test; {}: nobody was asked then.
    ``weigh``: their answers' perplexity is compared, too.
    """

    def __init__(
        self,
        watchers: Mapping[str, Watcher],
        release: Release,
        run: Run,
        before: Mapping[str, Window] | None = None,
        *,
        weigh: bool = False,
    ) -> None:
        self._weigh = weigh
        self._left = dict(watchers)
        self._lost = dict.fromkeys(watchers, 0)
        self._release = release
        self._run = run
        self._turn = 0
        self._looks = 0
        self._all = Window()
        self._before = {name: window for name, window in (before or {}).items() if name in watchers and window.asked}
        self._windows = {name: Window() for name in watchers}
        self._known = {name: itertools.cycle(window.questions) for name, window in self._before.items()}

    @property
    def window(self) -> Window | None:
        """What they have answered; None once none is left, unless there is enough to compare with."""
        return self._all if self._left or self._all.asked else None

    @property
    def pairs(self) -> list[Control]:
        """Those that were asked before the activation, too, with what they have said then and since."""
        return [Control(before, self._windows[name]) for name, before in self._before.items() if name in self._left]

    @property
    def measured(self) -> dict[str, Window]:
        """What each has said so far, of those that are left."""
        return {name: self._windows[name] for name in self._left}

    def look_at_all(self) -> None:
        """Look at each; before the activation, at the begin and at the end. One that is off is not waited for again."""
        for name in list(self._left):
            if not self._see(name):
                self._left.pop(name, None)

    def look(self) -> None:
        """Called once a look: look at one of them from time to time, whether it is still untouched."""
        self._looks += 1
        if self._left and self._looks % LOOK_ONE_IN == 1:
            name = self._next()
            if not self._see(name):
                self._note_lost(name)

    def ask(self, question: int) -> None:
        """The question that was put to the host under test, to one of these."""
        if self._left:
            self._put(self._next(), question)

    def ask_after(self, asked: int, question: int) -> None:
        """Called after question ``asked`` to the host under test: now and then that one, or one put before."""
        if not self._left or asked % ONE_IN != 1:
            return
        name = self._next()
        before = self._before.get(name)
        known = before is None or question in before.questions
        self._put(name, question if known else next(self._known[name]))

    def _see(self, name: str) -> bool:
        """Take a look at one; whether it was there to be looked at."""
        look = self._run(self._left[name].look)
        if kinds.has(look, self._release, name):
            del self._left[name]
        elif look.status is None:
            return False
        else:
            self._all.see(look)
            self._windows[name].see(look)
        return True

    def _put(self, name: str, question: int) -> None:
        watcher = self._left[name]
        answer = self._run(lambda: watcher.probe(self._release, question, timeout_s=ANSWER_WITHIN_S, weigh=self._weigh))
        if answer.kind in {Kind.RIGHT, Kind.WRONG}:
            # They serve another version: its answer may be another, and that is nobody's fault.
            answer = msgspec.structs.replace(answer, kind=Kind.RIGHT)
            self._all.hear(answer)
            self._windows[name].hear(answer)
        else:
            self._note_lost(name)

    def _next(self) -> str:
        self._turn += 1
        names = list(self._left)
        return names[self._turn % len(names)]

    def _note_lost(self, name: str) -> None:
        self._lost[name] += 1
        if self._lost[name] >= LOST_AT_MOST:
            del self._left[name]


def choose_controls(plan: Plan, state: State, host: str, number: int, asked: Collection[str] = ()) -> list[str]:
    """Names of ``number`` hosts to compare ``host`` with: untouched ones that are most like it. Pure.

    Held hosts and those outside ``--limit`` are as good as those of later waves, and stay untouched for longer; hosts
    of its own wave come last, for they are about to get the release. Of the same stratum come first; among equals the
    name decides, another order for each host, so that not one host answers for all. Before all come those that were
    ``asked`` already.
    """
    later = [name for name in plan.hosts if name != host and _untouched(state, name)]
    others = [*(held.host for held in plan.held), *plan.outside_limit]
    placed = plan.placements
    mine = placed[host].stratum if host in placed else None

    beside = next((set(wave) for wave in plan.waves if host in wave), set())

    def key(name: str) -> tuple[bool, bool, bool, str]:
        unlike = name not in placed or placed[name].stratum != mine
        return name not in asked, name in beside, unlike, hashlib.sha256(f"{host}\0{name}".encode()).hexdigest()

    return sorted([*later, *others], key=key)[:number]


def _untouched(state: State, name: str) -> bool:
    known = state.hosts.get(name)
    return known is not None and known.started_at is None and known.outcome is None
