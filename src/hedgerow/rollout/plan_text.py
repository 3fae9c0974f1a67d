"""A plan in lines for people. Counts always stand beside percentages. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from hedgerow.rollout.plan import Held, Plan

NAMED = 12
"""Hosts that a line names; of more it names the first."""


def describe(plan: Plan) -> list[str]:
    """Everything that an operator should know before saying yes."""
    counts = plan.counts()
    left_out = [f"{counts['held']} held", f"{counts['outside_limit']} outside --limit"]
    left_out += [f"{counts[key]} {key}" for key in ("quarantined", "incompatible") if counts[key]]
    where = f"{counts['hosts']} host(s) in {counts['waves']} wave(s)"
    lines = [f"{plan.release.bundle}: {where}, {', '.join(left_out)}; {plan.release.size_bytes / 1e6:.1f} MB a host"]
    lines += _waves(plan)
    lines += _variants(plan)
    lines += _memory(plan)
    lines += _sites(plan)
    for title, held in (("held", plan.held), ("quarantined", plan.quarantined), ("incompatible", plan.incompatible)):
        lines += _held(title, held)
    for title, names in (
        ("outside --limit", plan.outside_limit),
        ("late", plan.late),
        ("left the inventory", plan.gone),
    ):
        if names:
            lines.append(f"  {title}: {_names(names)}")
    return [*lines, *_rules(plan)]


def wave_rows(plan: Plan) -> list[tuple[object, ...]]:
    """One row a wave, for a table: number, rule, hosts, hosts up to then with their share, batches, strata, sites."""
    rows: list[tuple[object, ...]] = []
    done, total = 0, len(plan.hosts)
    for number, wave in enumerate(plan.waves, start=1):
        done += len(wave)
        entry = plan.entries[number - 1] if plan.entries else ""
        batches = plan.batches[number - 1] if plan.batches else [len(wave)]
        share = f"{done} of {total} ({100 * done / total:.0f} %)" if total else "0"
        kinds = {place.stratum for place in map(plan.placements.get, wave) if place is not None}
        sites = {place.site for place in map(plan.placements.get, wave) if place is not None and place.site is not None}
        rows.append((number, entry, len(wave), share, len(batches), f"{len(kinds)} of {len(plan.strata)}", len(sites)))
    return rows


COLUMNS = ("wave", "rule", "hosts", "have it then", "batches", "strata", "sites")


def strata_rows(plan: Plan) -> list[tuple[object, ...]]:
    """One row a stratum, most hosts first: what it is, its hosts, and how many of them are in each wave."""
    cells = [Counter(_strata(plan, wave)) for wave in plan.waves]
    total: Counter[int] = sum(cells, Counter())
    return [
        (_stratum(plan, number), hosts, *(cell[number] for cell in cells))
        for number, hosts in sorted(total.items(), key=lambda item: (-item[1], item[0]))
    ]


def _stratum(plan: Plan, number: int) -> str:
    """What its hosts have in common, without what all hosts of the plan share."""
    values = plan.strata[number]
    keys = plan.policy.stratify
    differs = [len({stratum[index] for stratum in plan.strata}) > 1 for index in range(len(keys))]
    said = [f"{key} {value}" for key, value, shown in zip(keys, values, differs, strict=True) if shown]
    return ", ".join(said) or "all alike"


def _strata(plan: Plan, hosts: Iterable[str]) -> Iterator[int]:
    return (plan.placements[host].stratum for host in hosts if host in plan.placements)


def _waves(plan: Plan) -> Iterator[str]:
    for wave, row in zip(plan.waves, wave_rows(plan), strict=True):
        number, entry, size, share, batches, kinds, _ = row
        rule = f" [{entry}]" if entry else ""
        parts = f", in {batches} batches" if isinstance(batches, int) and batches > 1 else ""
        of = f", {kinds} strata" if len(plan.strata) > 1 else ""
        yield f"  wave {number}{rule}: {size} host(s), then {share} have it{of}{parts}: {_names(wave)}"


def _variants(plan: Plan) -> Iterator[str]:
    counts = Counter(place.variant for place in plan.placements.values())
    if len(plan.release.variants) > 1:
        for name, number in sorted(counts.items()):
            yield f"  variant {name}: {number} host(s)"


def _memory(plan: Plan) -> Iterator[str]:
    outages = plan.outages
    if outages:
        yield (
            f"  declared outage of up to about {max(outages.values())} s on {len(outages)} host(s), whose memory does "
            f"not hold both versions: {_names(list(outages))}"
        )
    unknown: dict[str, list[str]] = {}
    for host, place in plan.placements.items():
        if place.memory_unknown is not None and plan.release.variants:
            unknown.setdefault(place.memory_unknown, []).append(host)
    for what, hosts in unknown.items():
        yield f"  memory for both versions: unknown on {len(hosts)} host(s), for nobody said {what}"


def _sites(plan: Plan) -> Iterator[str]:
    planned = Counter(place.site for place in plan.placements.values())
    sites = {site: budget for site, budget in plan.sites.items() if planned[site]}
    wanted = plan.policy.sites.min_available
    if not sites:
        return
    yield f"  sites: {len(sites)}; each keeps {wanted} host(s) that are not in their turn"
    short: dict[tuple[int, int], list[str]] = {}
    for site, budget in sites.items():
        if budget.short:
            short.setdefault((budget.hosts, budget.kept), []).append(site)
    for (hosts, kept), names in short.items():
        yield f"  site(s) of {hosts} host(s), one after the other, which leaves {kept} available: {_names(names)}"


def _held(title: str, held: Sequence[Held]) -> Iterator[str]:
    for each in held[:NAMED]:
        until = f", until {each.until}" if each.until else ""
        origin = f", by rollout {each.origin}" if each.origin else ""
        yield f"  {title}: {each.host} ({each.reason}{until}{origin})"
    if len(held) > NAMED:
        yield f"  {title}: and {len(held) - NAMED} more (--json names all)"


def _rules(plan: Plan) -> Iterator[str]:
    soak, budgets = plan.policy.soak, plan.policy.budgets
    unreachable = "no limit" if budgets.unreachable is None else f"more than {budgets.unreachable} stop it, too"
    yield (
        f"  each host: {soak.passes} passes {soak.interval_s:g} s apart within {soak.deadline_s:g} s; "
        f"it goes back by itself after {plan.policy.confirm_within_s} s unconfirmed"
    )
    yield f"  more than {budgets.failures} failed host(s) stop it; unreachable ones: {unreachable}"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
