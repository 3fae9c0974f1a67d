"""Everything that a journal says, with every count that a decision needs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from hedgerow.rollout.events import folding
from hedgerow.rollout.events.host import HostState
from hedgerow.rollout.plan import Plan
from hedgerow.rollout.policy.budgets import Tally
from hedgerow.rollout.records import FAILED, GOOD, Event, Opened, Outcome


class State(msgspec.Struct, kw_only=True):
    """Everything a journal says. Change it by ``apply`` alone: the tallies follow."""

    plan: Plan
    opened_at: str
    by: str
    hosts: dict[str, HostState]
    stopped: str | None = None
    undo: bool = False
    """The stop takes back what the rollout has done."""
    closed_at: str | None = None
    surveyed: bool = False
    wave: int = 0
    """The last wave that was opened; 0 before the first."""
    waiting: tuple[str, str] | None = None
    """Code and reason of the wait that was last begun; None once a wave opened after it."""
    waited_at: str | None = None
    paused: str | None = None
    no_data: str | None = None
    """Which host could not be judged, until somebody resumes."""
    rechecked: str | None = None
    """The last host that was looked at before a wave."""
    away: dict[str, str] = {}
    """Hosts that may serve nobody, and why: lost, unreachable, left with a release that failed, or seen so."""
    approvals: dict[int, list[str]] = {}
    """Wave → who approved it, each once, signed unless the policy asks for no signature."""
    asked: int = 0
    """How many lines of ``requests.jsonl`` were taken."""
    rolled_back: str | None = None
    superseding: str | None = None
    """Bundle that is to come instead; the halfway hosts come first."""
    superseded_by: str | None = None
    turns: dict[str, None] = {}
    """Hosts in their turn: started, no outcome yet."""
    holding: dict[str, None] = {}
    """Hosts that got the release in this rollout and are to keep it."""
    fallen: dict[str, None] = {}
    """Of these, who got worse since and was not brought back yet."""
    lost: dict[str, None] = {}
    harmed: int = 0
    """Hosts that failed with the release on them."""
    outcomes: dict[Outcome, int] = {}
    unplanned: list[str] = []
    """Hosts of an earlier plan that the present one leaves out."""
    host_count: int = 0

    def apply(self, event: Event) -> None:
        """Fold one more event in; O(1), but for ``Resumed``, which brings a plan."""
        folding.CHANGES[type(event)](self, event)

    def tally(self) -> Tally:
        """Hosts lost so far, for the budgets."""
        return Tally(
            failed=sum(self.outcomes.get(outcome, 0) for outcome in FAILED) + len(self.fallen),
            unreachable=self.outcomes.get(Outcome.UNREACHABLE, 0),
            environment=self.outcomes.get(Outcome.ENVIRONMENT, 0),
        )

    def count(self) -> dict[str, int]:
        """Planned hosts by outcome; ``not_started`` and ``unfinished`` for those without one."""
        counts = Counter({str(outcome): number for outcome, number in self.outcomes.items()})
        counts["unfinished"] = len(self.turns)
        counts["not_started"] = self.host_count - sum(counts.values())
        counts.subtract(self.hosts[name].standing for name in self.unplanned)
        return {key: number for key, number in counts.items() if number > 0}

    @property
    def complete(self) -> bool:
        """Every planned host serves the release, and is well."""
        missing_good = self.host_count - sum(self.outcomes.get(outcome, 0) for outcome in GOOD)
        return not self.fallen and missing_good == sum(self.hosts[name].outcome not in GOOD for name in self.unplanned)

    @property
    def phase(self) -> str:
        """``complete``, ``rolled_back``, ``superseded``, ``stopped``, ``partial`` (ended, hosts missing) or ``open``.

        Open is a rollout that runs, or was cut off.
        """
        if self.rolled_back is not None:
            return "rolled_back"
        if self.superseded_by is not None:
            return "superseded"
        if self.complete:
            return "complete"
        if self.stopped is not None:
            return "stopped"
        return "open" if self.closed_at is None else "partial"

    def admit(self, plan: Plan) -> None:
        """Take ``plan`` as the present one; hosts of an earlier plan stay known."""
        self.plan = plan
        planned = plan.hosts
        for name in planned:
            self.hosts.setdefault(name, HostState())
        self.host_count = len(self.hosts)
        self.unplanned = sorted(set(self.hosts).difference(planned))


def begin(event: Opened) -> State:
    """The state that an opening makes."""
    state = State(plan=event.plan, opened_at=event.at, by=event.by, hosts={})
    state.admit(event.plan)
    return state


def replay(events: Iterable[Event], state: State | None = None) -> State | None:
    """Fold events into ``state``; None for a journal that says nothing yet."""
    for event in events:
        if isinstance(event, Opened):
            state = begin(event)
        elif state is None:
            raise ValueError(f"the journal begins with {type(event).__name__}, not with Opened")
        else:
            state.apply(event)
    return state
