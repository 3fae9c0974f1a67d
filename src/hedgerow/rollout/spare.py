"""Whom of a batch a site can spare at the moment, by what the journal knows of the site's other hosts. Pure.

A plan cuts batches as if all hosts of a site were well. One that was lost, that
keeps a release it failed with, that did not answer or was failing when it was
last looked at, or that fell and is not back, may serve nobody: it counts against
``sites.min_available`` as a host in its turn does. Who cannot be spared is passed
over, and has its turn when the rollout is gone on with; other sites do not wait
for that. While nobody has the release yet, a batch that would be passed over whole
stops the rollout: no later wave takes the canary's place. Who was refused, or went
back, serves the version before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hedgerow.rollout.decide import WaitCode
from hedgerow.rollout.events import GOOD, Outcome, State

NAMED = 5
"""Hosts that a reason names."""


def passed_over(state: State, batch: Sequence[str]) -> dict[str, str]:
    """Host of ``batch`` → why its site cannot spare it now. Hosts in their turn, or through it, are never meant."""
    sites: dict[str, list[str]] = {}
    for name in batch:
        host, site = state.hosts[name], _site(state, name)
        if site in state.plan.sites and host.outcome is None and host.started_at is None:
            sites.setdefault(site, []).append(name)
    found: dict[str, str] = {}
    missing = _missing(state, frozenset(batch)) if sites else {}
    for site, names in sites.items():
        budget, gone = state.plan.sites[site], missing.get(site, {})
        may = max(0, budget.hosts - budget.min_available - len(gone))
        if gone and len(names) > may:
            reason = (
                f"{WaitCode.SITE_BUDGET}: of {budget.hosts} host(s) of {site} {budget.min_available} are to be "
                f"available, and {len(gone)} may not be: {_listed(gone)}"
            )
            found |= dict.fromkeys(names[may:], reason)
    return found


def nobody_first(state: State, batch: Sequence[str], passed: Mapping[str, str]) -> str | None:
    """Why the rollout stops rather than begin with a later wave: nobody has the release, and nobody here may get it."""
    if not passed or len(passed) < len(batch) or any(state.outcomes.get(each) for each in GOOD):
        return None
    return f"no host may be the first: {next(iter(passed.values()))}"


def doubtful(state: State, batch: Sequence[str]) -> list[str]:
    """Hosts beside ``batch`` at its sites of which it is to be seen, before it starts, whether they serve anybody."""
    sites = {_site(state, name) for name in batch} & state.plan.sites.keys()
    but = frozenset(batch)
    return [
        name
        for name in (state.plan.hosts if sites else ())
        if name not in but
        and (name in state.away or state.hosts[name].outcome is Outcome.REFUSED)
        and _site(state, name) in sites
    ]


def _missing(state: State, but: frozenset[str]) -> dict[str, dict[str, str]]:
    """Site → its hosts that may serve nobody → why; without those of the batch itself."""
    found: dict[str, dict[str, str]] = {}
    for name, why in _unavailable(state):
        site = _site(state, name)
        if site is not None and name not in but:
            found.setdefault(site, {}).setdefault(name, why)
    return found


def _unavailable(state: State) -> Iterator[tuple[str, str]]:
    yield from state.away.items()
    yield from ((name, "got worse") for name in state.fallen)
    yield from ((name, "in its turn") for name in state.turns)


def _site(state: State, name: str) -> str | None:
    place = state.plan.placements.get(name)
    return None if place is None else place.site


def _listed(gone: dict[str, str]) -> str:
    named = ", ".join(f"{name} ({why})" for name, why in list(gone.items())[:NAMED])
    return f"{named} and {len(gone) - NAMED} more" if len(gone) > NAMED else named
