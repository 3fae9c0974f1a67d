"""Who is staged ahead of all turns, in which order, and how many at one time. Pure."""

from __future__ import annotations

from hedgerow.rollout import batches
from hedgerow.rollout.batches import SiteBudget
from hedgerow.rollout.events import State


def visits(state: State) -> tuple[list[str], list[int]]:
    """Hosts that have the release still to fetch, in the order of their turns, and how many of them at one time.

    Of a site, ``sites.downloads`` hosts at the most: its uplink is one.
    """
    hosts = [name for name in state.plan.hosts if _lacks(state, name)]
    site_of = {name: place.site for name, place in state.plan.placements.items()}
    at_once = state.plan.policy.sites.downloads
    sites = {site for name in hosts if (site := site_of.get(name)) is not None}
    budgets = {site: SiteBudget(hosts=at_once, min_available=0, at_once=at_once) for site in sites}
    return batches.cut(hosts, site_of, budgets) if hosts else ([], [])


def _lacks(state: State, name: str) -> bool:
    host = state.hosts[name]
    return host.outcome is None and host.started_at is None and host.staged_s is None


def staged(state: State) -> int:
    """How many planned hosts have it, and had no turn yet."""
    hosts = (state.hosts[name] for name in state.plan.hosts)
    return sum(each.staged_s is not None and each.outcome is None and each.started_at is None for each in hosts)
