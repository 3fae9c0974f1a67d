"""The wait before each wave: asks what may happen next, takes requests, and watches who has the release already.

- Nothing is decided here: ``decide.next_wave`` says go, wait, stop or finish,
  and is asked once a second.
- Hosts that were confirmed are looked at all the while, also during an approval
  or a pause. One that fails in several looks in a row fell: it counts as failed,
  and a spent budget ends the wait.
- A host that does not answer meanwhile is no word against the release: it may be
  rebooting. A host that serves something else was changed by somebody; that is
  told, and not held against the release.
- What is waited for is said, and journaled, when it changes; not every second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from hedgerow.rollout import decide, events
from hedgerow.rollout.decide import Decision, Finish, Go, Stop, Wait
from hedgerow.rollout.events import HostState, State
from hedgerow.rollout.gate import judge
from hedgerow.rollout.gate.judge import Expectation, Look, Verdict
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.journal import Journal, timestamp
from hedgerow.rollout.plan import Release

INTERVAL_S = 1.0
"""Between two questions to the journal: an emergency stop waits this long at most."""

LOOKS_PER_S = 20
"""Over all hosts together: what a controller spends on TLS, and what a site's link carries, stays bounded."""

LOOKERS = LOOKS_PER_S
"""Threads: a second's looks begin together, and hosts that do not answer (5 s each) do not hold up all others."""


class Patrol:
    """Looks at confirmed hosts in turn. ``look`` makes a look at a host; that runs in a thread and never raises."""

    def __init__(self, release: Release, look: Callable[[str], Callable[[], Look]], *, falls_after: int) -> None:
        self._release = release
        self._look = look
        self._falls_after = falls_after
        self._queue: deque[str] = deque()
        self._under_way: dict[str, Future[Look]] = {}
        self._failing: dict[str, int] = {}
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def on(self) -> Iterator[Patrol]:
        """While it is entered, looks are made; threads that still wait for an answer are left to their time limit."""
        self._pool = ThreadPoolExecutor(LOOKERS, thread_name_prefix="patrol")
        try:
            yield self
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
            self._under_way.clear()

    def fallen(self, hosts: dict[str, HostState]) -> list[tuple[str, str]]:
        """Hosts that have failed often enough since they were first asked, with why. Begins the next looks.

        ``hosts`` are those to watch. Called once a second.
        """
        found = [each for name in list(self._under_way) if (each := self._read(name, hosts)) is not None]
        self._ask_next(hosts)
        return found

    def _read(self, name: str, hosts: dict[str, HostState]) -> tuple[str, str] | None:
        future = self._under_way[name]
        if not future.done():
            return None
        del self._under_way[name]
        if name not in hosts:
            return None
        baseline = frozenset(hosts[name].baseline)
        expected = Expectation(version=self._release.bundle, sha256=self._release.sha256, baseline=baseline)
        look = future.result()
        verdict = judge.judge_look(look, expected)
        # A final failure with another version in service is somebody's doing, not the release's.
        failing = verdict.verdict is Verdict.FAIL and look.version == expected.version
        self._failing[name] = self._failing.get(name, 0) + 1 if failing else 0
        return (name, verdict.reason) if self._failing[name] >= self._falls_after else None

    def _ask_next(self, hosts: dict[str, HostState]) -> None:
        if self._pool is None:
            raise ValueError("a patrol looks only while it is on")
        if not self._queue:
            self._queue.extend(name for name in hosts if name not in self._under_way)
        for _ in range(min(LOOKS_PER_S, len(self._queue))):
            if len(self._under_way) >= LOOKERS:
                break
            name = self._queue.popleft()
            if name in hosts:
                self._under_way[name] = self._pool.submit(self._look(name))


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What a wait came to. ``over``: no further wave starts.

    ``undo``: hosts that got worse meanwhile, which the budget bears. They go back now; then the wait goes on.
    """

    over: bool
    wave: int
    msg: str
    undo: list[str] = []


def await_wave(  # noqa: PLR0917 - one argument for each thing a wait needs from outside
    journal: Journal,
    hosts: Sequence[str],
    patrol: Patrol,
    attend: Callable[[], object],
    say: Callable[[str], None],
    clock: Clock | None = None,
) -> Turn:
    """Return when the wave that ``hosts`` are in may start, or when no wave may start any more.

    ``attend`` is called once a second; ``say`` with a line when what it waits for has changed, which is journaled then.
    """
    clock = clock or Clock()
    wave = decide.wave_of(journal.read(), hosts)
    ask = Asking(
        lambda state: decide.next_wave(state, wave, clock.now()),
        lambda state, decision: _settled(journal, state, decision, hosts, wave=wave, clock=clock),
    )
    return _await(journal, ask, wave, patrol, attend, say, clock)


def await_staging(  # noqa: PLR0917 - as await_wave
    journal: Journal,
    hosts: Sequence[str],
    patrol: Patrol,
    attend: Callable[[], object],
    say: Callable[[str], None],
    clock: Clock | None = None,
) -> Turn:
    """Return when ``hosts`` may fetch the release ahead of their turns, or nobody may any more. As ``await_wave``."""
    clock = clock or Clock()
    wave = journal.read().wave

    def settled(_: State, decision: Decision) -> Turn | None:
        match decision:
            case Go():
                return Turn(over=False, wave=wave, msg=f"{len(hosts)} host(s) fetch")
            case Finish():
                return Turn(over=False, wave=wave, msg="they have it already")
            case Stop():
                return Turn(over=True, wave=wave, msg=f"stopped: {decision.reason}")
        return None

    ask = Asking(lambda state: decide.may_stage_ahead(state, hosts, clock.now()), settled)
    return _await(journal, ask, wave, patrol, attend, say, clock)


class Asking(NamedTuple):
    """What a wait is for: ``decide`` says what may happen, ``settle`` what its end is; None: it goes on."""

    decide: Callable[[State], Decision]
    settle: Callable[[State, Decision], Turn | None]


def _await(  # noqa: PLR0917 - as await_wave
    journal: Journal,
    ask: Asking,
    wave: int,
    patrol: Patrol,
    attend: Callable[[], object],
    say: Callable[[str], None],
    clock: Clock,
) -> Turn:
    with patrol.on():
        while True:
            attend()
            state = note_stop(journal, clock)
            decision = ask.decide(state)
            turn = ask.settle(state, decision)
            if turn is not None:
                return turn
            if isinstance(decision, Wait):
                _tell(journal, state, decision, say, clock)
            _note_fallen(journal, patrol.fallen(watched(state)), clock)
            state = note_stop(journal, clock)
            if state.fallen and state.stopped is None:
                worse = list(state.fallen)
                return Turn(over=False, wave=wave, msg=f"got worse, to go back: {', '.join(worse)}", undo=worse)
            clock.sleep(INTERVAL_S)


def watched(state: State) -> dict[str, HostState]:
    """Hosts that have the release from this rollout and are to keep it."""
    return {name: state.hosts[name] for name in state.holding if name not in state.fallen}


def _settled(
    journal: Journal, state: State, decision: Decision, hosts: Sequence[str], *, wave: int, clock: Clock
) -> Turn | None:
    match decision:
        case Go():
            todo = _unfinished(state, hosts)
            if todo:
                journal.record(events.WaveOpened(at=timestamp(clock.now()), number=wave, hosts=todo))
            return Turn(over=False, wave=wave, msg=f"wave {wave} of {len(state.plan.waves)}: {len(todo)} host(s)")
        case Stop():
            return Turn(over=True, wave=wave, msg=f"stopped: {decision.reason}")
        case Finish():
            return Turn(over=True, wave=wave, msg="every wave had its turn")
    return None


def _unfinished(state: State, hosts: Iterable[str]) -> list[str]:
    """Who of a wave has its turn now: everybody without an outcome, or after a stop those left in their turn."""
    if decide.stopped(state) is not None:
        return [name for name in hosts if name in state.turns]
    return [name for name in hosts if state.hosts[name].outcome is None]


def note_stop(journal: Journal, clock: Clock) -> State:
    """The state, with its stop in the journal: a run may have been cut off between a last failure and that line."""
    state = journal.read()
    stop = decide.stopped(state)
    if stop is not None and state.stopped is None:
        return journal.record(events.Stopped(at=timestamp(clock.now()), reason=stop.reason, undo=stop.undo))
    return state


def _tell(journal: Journal, state: State, wait: Wait, say: Callable[[str], None], clock: Clock) -> None:
    if state.waiting == (wait.code, wait.reason):
        return
    journal.record(events.Waiting(at=timestamp(clock.now()), code=wait.code, reason=wait.reason))
    until = f" (until {wait.until:%Y-%m-%d %H:%M %Z})" if wait.until is not None else ""
    say(f"waiting, {wait.code.replace('_', ' ')}: {wait.reason}{until}")


def _note_fallen(journal: Journal, fallen: Iterable[tuple[str, str]], clock: Clock) -> None:
    for host, reason in fallen:
        journal.record(events.HostFell(at=timestamp(clock.now()), host=host, reason=reason))
