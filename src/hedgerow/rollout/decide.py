"""What may happen next: a pure function of the journal's state, the requests in it, and the time.

The playbook, the waits between waves, each host's turn and the simulator ask
here and nowhere else.

- A rollout that has stopped starts nobody, whatever else it waits for.
- Who is in the middle of a turn is never held up: ``host_may_start`` is asked
  before a host is touched and not again.
- A pause acts on hosts that have not been touched; an approval, a freeze, and a
  window likewise.
- Who has the release and who was left half-way is known from the journal
  alone, so a stop in any process undoes the same hosts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

import msgspec

from hedgerow.rollout import schedule
from hedgerow.rollout.events import (
    Event,
    HostFell,
    HostFinished,
    HostResolved,
    OperatorAsked,
    Outcome,
    Request,
    RequestKind,
    RolledBack,
    State,
    Stopped,
)
from hedgerow.rollout.policy import budgets


class WaitCode(StrEnum):
    """What a rollout waits for."""

    PAUSED = "paused"
    APPROVAL = "approval"
    FREEZE = "freeze"
    WINDOW = "window"
    NO_DATA = "no_data"
    COOLDOWN = "cooldown"
    SITE_BUDGET = "site_budget"


class Go(msgspec.Struct, frozen=True):
    """The wave, or the host in it, may start."""

    wave: int


class Wait(msgspec.Struct, frozen=True):
    """Nobody starts for now. ``until`` None: for a person, or for something without a time."""

    code: WaitCode
    reason: str
    until: datetime | None = None


class Stop(msgspec.Struct, frozen=True):
    """Nobody starts any more. ``undo``: the hosts of ``to_undo`` are more than those left half-way."""

    reason: str
    undo: bool


class Finish(msgspec.Struct, frozen=True):
    """There is nothing left to start."""


Decision = Go | Wait | Stop | Finish


def next_wave(state: State, wave: int, now: datetime) -> Decision:
    """Whether wave ``wave`` (from 1) may start at ``now``."""
    stop = stopped(state)
    if stop is not None and (stop.undo or not state.turns):
        return stop
    if wave > len(state.plan.waves):
        return Finish()
    if state.turns:
        # A run was cut off with hosts in their turn: their waves come first, the untouched wait at ``host_may_start``.
        return Go(wave)
    held = _held_back(state, now) or _to_fetch(state, state.plan.waves[wave - 1], now)
    return held or _to_approve(state, wave) or Go(wave)


def host_may_start(state: State, host: str, now: datetime) -> Decision:
    """Whether an untouched ``host`` may have its turn at ``now``.

    Finish: it had it. A host that was started is never held up, but by a stop that takes it back.
    """
    known = state.hosts[host]
    if known.outcome is not None:
        return Finish()
    stop = stopped(state)
    if stop is not None and (stop.undo or known.started_at is None):
        return stop
    if known.started_at is not None:
        return Go(state.wave)
    return _held_back(state, now) or _to_fetch(state, [host], now) or Go(state.wave)


def may_fetch(state: State, now: datetime) -> Wait | None:
    """Why no device may fetch at ``now``; None: it may."""
    calendar = schedule.may_download(state.plan.policy, now)
    if isinstance(calendar, schedule.Closed):
        return Wait(WaitCode(calendar.code), calendar.because, calendar.until)
    return None


def may_stage_ahead(state: State, hosts: Iterable[str], now: datetime) -> Decision:
    """Whether ``hosts`` may be staged ahead of their turns at ``now``. Finish: all of them are."""
    stop = stopped(state)
    if stop is not None:
        return stop
    if all(state.hosts[host].staged_s is not None or _had_begun(state, host) for host in hosts):
        return Finish()
    return _paused(state) or may_fetch(state, now) or Go(state.wave)


def stopped(state: State) -> Stop | None:
    """Why nobody may start any more; None while the rollout goes on."""
    if state.stopped is not None:
        return Stop(state.stopped, state.undo)
    return _breach(state)


def to_undo(state: State) -> list[str]:
    """Who must be brought back now, in the order in which they were touched.

    While the rollout goes on: confirmed hosts that got worse. Once it has stopped: those left half-way, too, and
    where the stop takes back what was done, every host that has the release from it.
    """
    stop = stopped(state)
    if stop is None:
        return list(state.fallen)
    return list(dict.fromkeys([*(state.holding if stop.undo else state.fallen), *state.fallen, *state.turns]))


def unsettled(state: State) -> list[str]:
    """Hosts of which the journal does not know what they serve: half-way, or lost."""
    return [*state.turns, *state.lost]


def after(state: State, event: Event) -> list[Event]:
    """Events that follow of themselves from ``event``, which ``state`` has in it already."""
    match event:
        case HostFinished() | HostFell() | HostResolved() if state.stopped is None:
            stop = _breach(state)
            return [] if stop is None else [Stopped(at=event.at, reason=stop.reason, undo=stop.undo)]
        case OperatorAsked(refused=None):
            return _after_request(state, event.request, event.at)
    return []


def refusal(state: State, request: Request) -> str | None:
    """Why ``request`` does not count, naming a rule; None: it does. Signatures are ``requests.verified``'s."""
    kind = request.kind
    if state.rolled_back is not None and kind in {RequestKind.ROLLBACK, RequestKind.ABORT}:
        return (
            f"rule no-rollback-of-a-rollback: this rollout was rolled back already ({state.rolled_back}); "
            f"to get {state.plan.release.bundle} again, start a rollout of it"
        )
    if state.superseded_by is not None:
        return f"rule superseded: {state.superseded_by} has taken over from this rollout"
    if kind is RequestKind.ROLLBACK:
        return None
    if state.stopped is not None:
        return f"rule stopped: the rollout has stopped already ({state.stopped})"
    if kind is RequestKind.APPROVE:
        return _refused_approval(state, request)
    return None


def visits(state: State) -> tuple[list[str], list[int]]:
    """Hosts that have a turn, or the end of one, to come, in order; and how many of them at one time.

    A rollout that is gone on with does not visit who is through. Lost hosts are visited: they may be back.
    """
    hosts = iter(state.plan.hosts)
    lots = [[next(hosts) for _ in range(size)] for size in state.plan.serial]
    left = [[host for host in lot if state.hosts[host].outcome in {None, Outcome.LOST}] for lot in lots]
    return [host for lot in left for host in lot], [len(lot) for lot in left if lot]


def drains(kind: str) -> bool:
    """Whether a release of this kind takes a host out of service while it changes; what starts the server anew does."""
    return kind in {"runtime", "configuration"}


def approvers(state: State, wave: int) -> list[str]:
    """Who may approve ``wave``; nobody where it waits for no approval."""
    return sorted({name for each in state.plan.policy.approvals if each.before_wave == wave for name in each.by})


def needs_signature(state: State, wave: int, name: str) -> bool:
    """Whether ``name``'s approval of ``wave`` counts with a signature only."""
    asked = [each for each in state.plan.policy.approvals if each.before_wave == wave and name in each.by]
    return any(not each.unsigned for each in asked)


def approved_wave(state: State, request: Request) -> int:
    """The wave that an approval means: the one it names, else the next."""
    return request.wave if request.wave is not None else state.wave + 1


def wave_of(state: State, hosts: Iterable[str]) -> int:
    """The wave (from 1) that these hosts are in; the first of them, where a batch is part of a wave.

    Raises:
        ValueError: None of them is in the plan.
    """
    wanted = set(hosts)
    for number, wave in enumerate(state.plan.waves, start=1):
        if not wanted.isdisjoint(wave):
            return number
    raise ValueError(f"no wave has {', '.join(sorted(wanted))}")


def _breach(state: State) -> Stop | None:
    reason = budgets.spent(state.tally(), state.plan.policy.budgets)
    if reason is None:
        return None
    # A release that harmed nobody is not taken back: hosts that were refused or off are no word against it.
    return Stop(reason, undo=state.harmed > 0 and state.plan.policy.rollback.on_stop == "all")


def _had_begun(state: State, host: str) -> bool:
    return state.hosts[host].outcome is not None or state.hosts[host].started_at is not None


def _paused(state: State) -> Wait | None:
    if state.paused is not None:
        return Wait(WaitCode.PAUSED, f"paused {state.paused}; next: hedgerow rollout resume")
    if state.no_data is not None:
        reason = f"no verdict on {state.no_data}; look at it, then: hedgerow rollout resume"
        return Wait(WaitCode.NO_DATA, reason)
    return None


def _held_back(state: State, now: datetime) -> Wait | None:
    paused = _paused(state)
    if paused is not None:
        return paused
    policy = state.plan.policy
    calendar = schedule.may_activate(policy, now, needs_s=schedule.longest_turn_s(policy))
    if isinstance(calendar, schedule.Closed):
        return Wait(WaitCode(calendar.code), calendar.because, calendar.until)
    return None


def _to_fetch(state: State, hosts: Iterable[str], now: datetime) -> Wait | None:
    """Wait for the download window, where one of ``hosts`` has the release still to fetch."""
    missing = any(state.hosts[host].staged_s is None and state.hosts[host].outcome is None for host in hosts)
    return may_fetch(state, now) if missing and state.plan.policy.windows.download else None


def _to_approve(state: State, wave: int) -> Wait | None:
    given = state.approvals.get(wave, [])
    for each in state.plan.policy.approvals:
        if each.before_wave != wave:
            continue
        have = [name for name in given if name in each.by]
        if len(have) < each.count:
            missing = sorted(set(each.by) - set(have))
            reason = (
                f"wave {wave} needs {each.count} approval(s) and has {len(have)}; of: {', '.join(missing)}; "
                f"next: hedgerow rollout approve --wave {wave}"
            )
            return Wait(WaitCode.APPROVAL, reason)
    return None


def _refused_approval(state: State, request: Request) -> str | None:
    wave = approved_wave(state, request)
    may = approvers(state, wave)
    if not may:
        return f"rule approvals: wave {wave} waits for no approval"
    if request.by not in may:
        return f"rule approvals: wave {wave} is approved by {', '.join(may)}, not by {request.by}"
    return None


def _after_request(state: State, request: Request, at: str) -> list[Event]:
    """What a request brought about, in the journal's own words; the state has it from the request itself."""
    match request.kind:
        case RequestKind.ABORT | RequestKind.SUPERSEDE | RequestKind.ROLLBACK if state.stopped is not None:
            stop: list[Event] = [Stopped(at=at, reason=state.stopped, undo=state.undo)]
            if request.kind is RequestKind.ROLLBACK and state.rolled_back is not None:
                stop.append(RolledBack(at=at, reason=state.rolled_back))
            return stop
    return []
