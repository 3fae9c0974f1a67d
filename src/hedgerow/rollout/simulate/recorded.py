"""A recorded journal asked again under a policy of today: where would it have been decided otherwise? Pure.

What hosts did is taken as recorded, verdicts included: a journal has the figures of a window and not its samples, so
no host is judged anew. Waves and their order are the recorded plan's, too. What is asked anew is ``decide``: whether a
wave or a host might start, and when the rollout stops. After the first difference a rollout would have gone another
way; the later ones say what the policy holds against what was then done.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from hedgerow.errors import UsageError
from hedgerow.rollout import decide, events, report
from hedgerow.rollout.decide import Decision, Go, Stop, Wait
from hedgerow.rollout.events import Event, State
from hedgerow.rollout.policy import Policy, budgets

OfPlan = TypeVar("OfPlan", bound=Event)


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """``line`` of the journal (from 1), what it says was done, and what ``policy`` says instead."""

    line: int
    at: str
    recorded: str
    policy: str


def differences(journal: Sequence[Event], policy: Policy | None = None) -> list[Difference]:
    """Where ``policy`` (None: the recorded one, under today's rules) decides otherwise, in order.

    Raises:
        UsageError: The journal does not begin with an opening.
    """
    if not journal or not isinstance(journal[0], events.Opened):
        raise UsageError("the journal does not begin with a plan", where="line 1")
    recorded = journal[0].plan.policy
    stops = {event.at for event in journal if isinstance(event, events.Stopped)}
    state = events.begin(_with_policy(journal[0], policy))
    found: list[Difference] = []
    for line, event in enumerate(journal[1:], start=2):
        instead = _instead(state, event, recorded)
        if instead is not None:
            found.append(Difference(line=line, at=event.at, recorded=report.line(event), policy=instead))
        state.apply(_with_policy(event, policy))
        for each in decide.after(state, event):
            # What follows has the time of what it follows from; lines of other workers may stand between.
            if isinstance(each, events.Stopped) and each.at not in stops:
                text = _text(Stop(each.reason, each.undo))
                found.append(Difference(line=line, at=event.at, recorded="went on after this", policy=text))
            state.apply(each)
    return found


def _with_policy(event: OfPlan, policy: Policy | None) -> OfPlan:
    if policy is None or not isinstance(event, events.Opened | events.Resumed):
        return event
    return msgspec.structs.replace(event, plan=msgspec.structs.replace(event.plan, policy=policy))


def _instead(state: State, event: Event, recorded: Policy) -> str | None:
    """What the policy says to what ``event`` records, before it is folded in; None where it agrees."""
    match event:
        case events.WaveOpened():
            return _unless_go(decide.next_wave(state, event.number, datetime.fromisoformat(event.at)))
        case events.HostStarted() if state.hosts[event.host].started_at is None:
            return _unless_go(decide.host_may_start(state, event.host, datetime.fromisoformat(event.at)))
        case events.Stopped() if state.stopped is None:
            # A stop that no budget had asked for has another cause (a registry that is gone), and would come again.
            asked_for = budgets.spent(state.tally(), recorded.budgets) is not None
            return "go on: no budget is spent" if asked_for and decide.stopped(state) is None else None
    return None


def _unless_go(decision: Decision) -> str | None:
    return None if isinstance(decision, Go) else _text(decision)


def _text(decision: Decision) -> str:
    match decision:
        case Stop():
            return f"stop: {decision.reason}{' (and take back what was done)' if decision.undo else ''}"
        case Wait():
            return f"wait, {decision.code}: {decision.reason}"
    return "there is nothing left to start"
