"""Another board under the same name: is that what happened, and what did the old one serve? Pure.

Nothing is guessed from the network. The old serial is what the CA issued certificates to under this name; the new one
is what the inventory says now; the operator types both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity.issued import Issued
from hedgerow.identity.profiles import DEVICE_PROFILES
from hedgerow.inventory import Host
from hedgerow.rollout import serving
from hedgerow.rollout.events import State

NONE = "none"


@dataclass(frozen=True, slots=True)
class Served:
    """What the old board served, as far as this controller knows; ``bundle`` None: nothing, or nobody knows."""

    bundle: str | None
    why: str


def judge(host: Host, *, fleet: str, old: str, new: str, issued: Iterable[Issued]) -> None:
    """Hold what was typed to what is known.

    Raises:
        UsageError: the inventory or a typed serial is not as it must be before this starts.
        RefusedError: the old serial never was this host.
    """
    again = f"-e old_serial=SERIAL -e new_serial={host.serial}"
    if not old or not new:
        raise UsageError(
            "both serials must be typed: the board that left, and the one that took its place",
            where="-e old_serial=… -e new_serial=…",
            next_step=again,
        )
    if old == new:
        raise UsageError(
            "old and new serial are the same, so no board was exchanged",
            where="-e old_serial=… -e new_serial=…",
            next_step=f"to converge the same board: ansible-playbook playbooks/site.yml --limit {host.name}",
        )
    if host.serial != new:
        raise UsageError(
            f"the inventory says that {host.name} is {host.serial}, not {new}",
            where=f"pi_serial of {host.name}",
            next_step=f"write the new board's serial there first; which file: hedgerow host explain {host.name}",
        )
    name = f"{host.name}.{host.site}.{fleet}"
    known = _boards(issued, name)
    if old not in known:
        others = [serial for serial in known if serial != new]
        raise RefusedError(
            f"{old} never was {host.name}",
            where=f"certificates issued for {name}: {', '.join(others) or 'to no other board'}",
            next_step=again.replace("SERIAL", others[-1])
            if others
            else f"a host that never was enrolled is simply converged: playbooks/site.yml --limit {host.name}",
        )


def _boards(issued: Iterable[Issued], name: str) -> list[str]:
    """Serials that ever had a certificate in ``name``, the latest last."""
    profiles = {profile.value for profile in DEVICE_PROFILES}
    found: dict[str, None] = {}
    for entry in issued:
        if entry.profile in profiles and name in entry.dns:
            found.pop(entry.name, None)
            found[entry.name] = None
    return list(found)


def served(states: Sequence[tuple[str, State]], host: str) -> Served:
    """What ``host`` served at the end of the last rollout that touched it. ``states``: rollouts, oldest first."""
    for rollout, state in reversed(states):
        seen = state.hosts.get(host)
        if not serving.touched(seen) or state.plan.release.kind != "model":
            continue  # an earlier rollout decides
        known, bundle = serving.left(state, seen)
        if not known:
            return Served(None, f"nobody knows how rollout {rollout} ended on it")
        how = f"rollout {rollout} left it with that" if bundle else f"it served nothing when rollout {rollout} ended"
        return Served(bundle, how)
    return Served(None, "no rollout ever reached it")


def to_restore(asked: str | None, known: Served, *, is_gateway: bool) -> Served:
    """What to activate on the new board: the operator's word (``name@version`` or ``none``), else what is known."""
    if is_gateway:
        return Served(None, "a gateway serves no model; the registry is published to it again")
    if asked == NONE:
        return Served(None, "the operator asked for none")
    if asked:
        return Served(asked, "the operator asked for it")
    return known
