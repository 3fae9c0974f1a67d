"""What hosts serve as far as earlier rollouts know, and how much memory that needs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeGuard

from hedgerow.rollout.events import HostState, Outcome, State

_NOTHING_DONE = frozenset({Outcome.REFUSED, Outcome.UNREACHABLE, Outcome.SKIPPED})
_RELEASE = frozenset({Outcome.CONFIRMED, Outcome.ALREADY, Outcome.KEPT})
_BEFORE = frozenset({Outcome.REVERTED, Outcome.UNDONE, Outcome.ENVIRONMENT, Outcome.UNJUDGED})


def memory_mb(
    hosts: Iterable[str], states: Iterable[State], needs: Callable[[str], int | None]
) -> dict[str, int | None]:
    """Host → MB that what it serves needs: 0 for nothing, None where nobody knows.

    ``states`` are the newest first, and are read only as long as a host is open. ``needs``: ``name@version`` → MB.
    """
    open_hosts = set(hosts)
    found: dict[str, int | None] = dict.fromkeys(open_hosts)
    for state in states:
        if state.plan.release.kind != "model":
            continue
        reached = {host for host in open_hosts if touched(state.hosts.get(host))}
        for host in reached:
            known, bundle = left(state, state.hosts[host])
            found[host] = None if not known else needs(bundle) if bundle is not None else 0
        open_hosts -= reached
        if not open_hosts:
            break
    return found


def bundles(hosts: Iterable[str], states: Iterable[State]) -> dict[str, str | None]:
    """Host → ``name@version`` of the model that rollouts left it with, None for nothing; unknown ones are left out.

    ``states`` as for ``memory_mb``.
    """
    open_hosts = set(hosts)
    found: dict[str, str | None] = {}
    for state in states:
        if not open_hosts:
            break
        if state.plan.release.kind == "model":
            for host in [name for name in open_hosts if touched(state.hosts.get(name))]:
                known, bundle = left(state, state.hosts[host])
                found |= {host: bundle} if known else {}
                open_hosts.discard(host)
    return found


def touched(host: HostState | None) -> TypeGuard[HostState]:
    """Whether a rollout can have changed what the host serves; None: it did not know the host."""
    if host is None or host.outcome in _NOTHING_DONE:
        return False
    return host.outcome is not None or host.started_at is not None


def left(state: State, host: HostState) -> tuple[bool, str | None]:
    """Whether it is known what the rollout left the host with, and what: ``name@version``, None for nothing."""
    if host.outcome in _RELEASE:
        return True, state.plan.release.bundle
    if host.outcome in _BEFORE:
        return True, host.before
    return False, None
