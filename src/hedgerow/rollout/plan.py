"""Who gets a release, in which order, wave and variant. Pure.

- Every host of the target group is in exactly one place: a wave, held,
  quarantined, incompatible, or outside ``--limit``; all are listed and counted.
- The order depends on names and the seed alone: adding a host moves as few
  others as it can, and a rerun meets the hosts in the same order.
- ``--limit`` narrows waves, never budgets.
- A plan that is gone on with keeps its waves: ``rollout.late``.
- Hosts that went wrong in a stuck rollout which this one supersedes are in the last wave: ``rollout.carried``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from hedgerow.errors import UsageError
from hedgerow.rollout import batches, strata, variants
from hedgerow.rollout.batches import SiteBudget
from hedgerow.rollout.plan_types import HOLD_LABEL, Held, Kind, Placement, Plan, Release, Target
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.strata import Stratum
from hedgerow.rollout.variants import Misfit, Traits, Variant

__all__ = ["HOLD_LABEL", "Held", "Kind", "Placement", "Plan", "Release", "Target", "make"]


def make(targets: Iterable[Target], policy: Policy, release: Release) -> Plan:
    """Decide.

    Raises:
        UsageError: There is no host at all, or two with one name.
    """
    everyone = list(targets)
    _refuse_doubles([target.name for target in everyone])
    seed = policy.seed if policy.seed is not None else release.bundle
    counted = [target for target in everyone if target.hold is None and target.quarantine is None]
    budgets = batches.budgets((target.site for target in counted if target.site is not None), policy.sites)
    held = [Held(each.name, each.hold, each.hold_until) for each in everyone if each.hold is not None]
    free: dict[str, Target] = {}
    outside_limit = []
    for target in counted:
        if target.limited:
            outside_limit.append(target.name)
        elif policy.sites.small == "leave_out" and target.site is not None and budgets[target.site].short:
            held.append(Held(target.name, _too_small(target.site, budgets[target.site])))
        else:
            free[target.name] = target
    chosen, incompatible = _variants(free.values(), release.variants)
    for each in incompatible:
        del free[each.host]
    of = {name: target.stratum(policy.stratify) for name, target in free.items()}
    carried = [each for each in free.values() if each.went_wrong is not None]
    if len(carried) == len(free):
        carried = []  # Somebody has to be the first.
    waves = _waves(of, free, [each.name for each in carried], policy, seed)
    known = {stratum: number for number, stratum in enumerate(sorted(set(of.values())))}
    placements = {name: _placement(free[name], chosen.get(name), known[of[name]], release.kind) for name in of}
    last = policy.waves[-1]
    most = last if carried and isinstance(last, int) else None
    parts = [
        batches.cut(
            wave, {name: free[name].site for name in wave}, budgets, most=most if number == len(waves) else None
        )
        for number, (_, wave) in enumerate(waves, start=1)
    ]
    return Plan(
        release=release,
        policy=policy,
        waves=[wave for wave, _ in parts],
        entries=[entry for entry, _ in waves],
        batches=[sizes for _, sizes in parts],
        strata=list(known),
        placements=placements,
        sites=budgets,
        held=held,
        quarantined=[
            Held(each.name, each.quarantine, each.quarantined_until, each.quarantined_by)
            for each in everyone
            if each.quarantine is not None and each.hold is None
        ],
        incompatible=incompatible,
        outside_limit=outside_limit,
        carried=[Held(each.name, each.went_wrong or "", origin=each.went_wrong_in) for each in carried],
    )


def _waves(
    of: dict[str, Stratum], free: dict[str, Target], carried: Sequence[str], policy: Policy, seed: str
) -> list[tuple[str, list[str]]]:
    """Waves as the policy has them, of everybody but ``carried``, who join the last."""
    apart = frozenset(carried)
    well = {name: stratum for name, stratum in of.items() if name not in apart}
    waves = strata.cut(well, {name: free[name].labels for name in well}, policy.waves, seed)
    if carried:
        entry, wave = waves[-1]
        waves[-1] = entry, [*wave, *carried]
    return waves


def _refuse_doubles(names: Sequence[str]) -> None:
    if not names:
        raise UsageError("the group 'pis' has no host", next_step="look at it: ansible-inventory --graph pis")
    if len(set(names)) != len(names):
        raise UsageError("a host stands twice in the plan's targets", where=", ".join(sorted(names)))


def _too_small(site: str, budget: SiteBudget) -> str:
    needed = f"{budget.min_available} are to be available (sites.small: leave_out)"
    return f"site {site} has {budget.hosts} host(s), and {needed}"


def _variants(targets: Iterable[Target], of: Sequence[Variant]) -> tuple[dict[str, Variant], list[Held]]:
    """Host → its variant, and the hosts that none fits. A release that tells no variant fits everybody."""
    if not of:
        return {}, []

    @cache
    def best(host: Traits) -> Variant | Misfit:
        return variants.choose(of, host)

    chosen: dict[str, Variant] = {}
    misfits: list[Held] = []
    for target in targets:
        found = best(target.traits)
        if isinstance(found, Misfit):
            misfits.append(Held(target.name, found.reason))
        else:
            chosen[target.name] = found
    return chosen, misfits


def _placement(target: Target, variant: Variant | None, stratum: int, kind: Kind) -> Placement:
    if kind != "model":
        return Placement(stratum=stratum, site=target.site)
    if variant is None:
        return Placement(stratum=stratum, site=target.site, memory_unknown="what the release needs")
    memory = variants.memory(variant, board_mb=target.memory_mb, old_mb=target.serves_mb, storage=target.storage)
    return Placement(
        variant=variant.name,
        stratum=stratum,
        site=target.site,
        outage_s=memory.outage_s,
        memory_unknown=memory.unknown,
    )
