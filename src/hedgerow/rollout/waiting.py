"""The wait before each wave: asks what may happen next, takes requests, and watches who has the release already.

- Nothing is decided here: ``decide.next_wave`` says go, wait, stop or finish,
  and is asked once a second.
- Hosts that were confirmed are looked at all the while, also during an approval
  or a pause. One that fails in several looks in a row fell: it counts as failed,
  and a spent budget ends the wait.
- Before a wave goes, confirmed hosts (of many, the next ones in turn) are looked
  at once, and those that fail as often as a fall needs; waves that follow each
  other without a wait see a slow leak, too.
- What is waited for is said, and journaled, when it changes; not every second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from hedgerow.rollout import decide, events, spare
from hedgerow.rollout.decide import Decision, Finish, Go, Stop, Wait
from hedgerow.rollout.events import HostState, Outcome, State
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.journal import Journal, timestamp
from hedgerow.rollout.patrol import LOOKS_PER_S, Patrol, Round, sample

INTERVAL_S = 1.0
"""Between two questions to the journal: an emergency stop waits this long at most."""

RECHECKS_PER_S = 10
"""How often looks before a wave are read: a few hosts that are well cost a fraction of a second."""


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
        lambda state: [] if state.turns else _unfinished(state, hosts),
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
    batch: Callable[[State], Sequence[str]] = lambda _: ()
    """Who is about to start; where anybody is, hosts are looked at before."""


def _await(  # noqa: PLR0917 - as await_wave
    journal: Journal,
    ask: Asking,
    wave: int,
    patrol: Patrol,
    attend: Callable[[], object],
    say: Callable[[str], None],
    clock: Clock,
) -> Turn:
    looked = False
    with patrol.on():
        while True:
            attend()
            state = note_stop(journal, clock)
            if state.fallen and state.stopped is None:
                worse = list(state.fallen)
                return Turn(over=False, wave=wave, msg=f"got worse, to go back: {', '.join(worse)}", undo=worse)
            decision = ask.decide(state)
            if isinstance(decision, Go) and not looked and (batch := ask.batch(state)):
                looked = True
                _recheck(journal, batch, patrol, attend, clock)
                continue
            turn = ask.settle(state, decision)
            if turn is not None:
                return turn
            if isinstance(decision, Wait):
                _tell(journal, state, decision, say, clock)
            if not _note_fallen(journal, patrol.fallen(watched(state)), clock):
                clock.sleep(INTERVAL_S)


def _recheck(
    journal: Journal, batch: Sequence[str], patrol: Patrol, attend: Callable[[], object], clock: Clock
) -> None:
    """Look at confirmed hosts as the policy says, and at those that a batch's sites may lack; journal who fell.

    Ends at once when the rollout stops.
    """
    state = journal.read()
    rule, confirmed = state.plan.policy.recheck, watched(state)
    lacking = spare.doubtful(state, batch)[: rule.hosts]
    chosen = sample(list(confirmed), after=state.rechecked, most=rule.hosts - len(lacking))
    names = list(dict.fromkeys([*lacking, *chosen]))
    if not names:
        return
    began = clock.monotonic()
    looks = Round(patrol, {name: state.hosts[name] for name in names})
    while True:
        looks.go_on(clock.monotonic(), looks=LOOKS_PER_S // RECHECKS_PER_S)
        if looks.over or clock.monotonic() - began >= rule.within_s or decide.stopped(journal.read()) is not None:
            break
        clock.sleep(1 / RECHECKS_PER_S)
        attend()
    if looks.seen:
        last = max((name for name in looks.seen if name in confirmed), key=names.index, default=None)
        back = [name for name in looks.seen if name in state.away and name not in looks.away]
        at = timestamp(clock.now())
        journal.record(events.Rechecked(at=at, hosts=len(looks.seen), last=last, away=looks.away, back=back))
    _note_fallen(journal, [(name, why) for name, why in looks.fallen if name in confirmed], clock)


def watched(state: State) -> dict[str, HostState]:
    """Hosts that have the release from this rollout and are to keep it."""
    return {name: state.hosts[name] for name in state.holding if name not in state.fallen}


def _settled(
    journal: Journal, state: State, decision: Decision, hosts: Sequence[str], *, wave: int, clock: Clock
) -> Turn | None:
    match decision:
        case Go():
            batch = _unfinished(state, hosts)
            passed = spare.passed_over(state, batch)
            halt = spare.nobody_first(state, batch, passed)
            if halt is not None:
                journal.record(events.Stopped(at=timestamp(clock.now()), reason=halt))
                return Turn(over=True, wave=wave, msg=f"stopped: {halt}")
            todo = _pass_over(journal, batch, passed, clock)
            if todo:
                journal.record(events.WaveOpened(at=timestamp(clock.now()), number=wave, hosts=todo))
            return Turn(over=False, wave=wave, msg=f"wave {wave} of {len(state.plan.waves)}: {len(todo)} host(s)")
        case Stop():
            return Turn(over=True, wave=wave, msg=f"stopped: {decision.reason}")
        case Finish():
            return Turn(over=True, wave=wave, msg="every wave had its turn")
    return None


def _pass_over(journal: Journal, batch: Sequence[str], passed: Mapping[str, str], clock: Clock) -> list[str]:
    """Who of a batch has its turn; that the others were passed over is journaled."""
    for host, reason in passed.items():
        at = timestamp(clock.now())
        journal.record(events.HostFinished(at=at, host=host, outcome=Outcome.SKIPPED, reason=reason))
    return [host for host in batch if host not in passed]


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


def _note_fallen(journal: Journal, fallen: Sequence[tuple[str, str]], clock: Clock) -> bool:
    """Journal who fell; whether anybody did."""
    for host, reason in fallen:
        journal.record(events.HostFell(at=timestamp(clock.now()), host=host, reason=reason))
    return bool(fallen)
