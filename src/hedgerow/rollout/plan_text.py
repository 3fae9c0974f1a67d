"""A plan in lines for people. Counts always stand beside percentages, and a large fleet's plan stays short. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from hedgerow.rollout.plan import Held, Plan
from hedgerow.rollout.policy import waves as entries
from hedgerow.rollout.policy.waves import Labelled

NAMED = 20
"""Hosts that a wave names; a larger one says how many it has."""
FEW = 5
"""Names that stand for a longer list."""
LISTED = 30
"""Waves that have a line of their own."""


def describe(plan: Plan) -> list[str]:
    """Everything that an operator should know before saying yes."""
    return [headline(plan), *(f"  {line}" for line in [*wave_lines(plan), *remarks(plan)])]


def headline(plan: Plan) -> str:
    """What is released to how many, and how many are left out."""
    counts = plan.counts()
    left_out = [f"{counts['held']} held", f"{counts['outside_limit']} outside --limit"]
    left_out += [f"{counts[key]} {key}" for key in ("quarantined", "incompatible") if counts[key]]
    where = f"{counts['hosts']} host(s) in {counts['waves']} wave(s)"
    return f"{plan.release.bundle}: {where}, {', '.join(left_out)}; {plan.release.size_bytes / 1e6:.1f} MB a host"


def wave_lines(plan: Plan) -> list[str]:
    """A line a wave; of very many, the first ones and the last."""
    lines = list(_waves(plan))
    if len(lines) <= LISTED:
        return lines
    hidden = plan.waves[LISTED - 1 : -1]
    between = f"waves {LISTED} to {len(lines) - 1}: {sum(map(len, hidden))} host(s)"
    return [*lines[: LISTED - 1], between, lines[-1]]


def remarks(plan: Plan) -> list[str]:
    """Everything but the waves: what does not go as the policy has it, who is left out, and the rules."""
    lines = [*_kind(plan), *_idle(plan), *_variants(plan), *_memory(plan), *_sites(plan)]
    for title, held in (
        ("held", plan.held),
        ("quarantined", plan.quarantined),
        ("incompatible", plan.incompatible),
        ("went wrong before, in the last wave", plan.carried),
    ):
        lines += _held(title, held)
    for title, names in (
        ("outside --limit", plan.outside_limit),
        ("late, in the last wave", plan.late),
        ("left the inventory", plan.gone),
    ):
        if names:
            lines.append(f"{title}: {_names(names)}")
    return [*lines, *_approvals(plan), *_rules(plan)]


def reached(plan: Plan) -> Iterator[str]:
    """How many have had their turn after each wave."""
    done, total = 0, len(plan.hosts)
    for wave in plan.waves:
        done += len(wave)
        yield f"{done} of {total} ({100 * done / total:.3g} %)" if total else "0"


def strata_of(plan: Plan, hosts: Iterable[str]) -> Counter[int]:
    """How many of ``hosts`` are of each stratum."""
    return Counter(plan.placements[host].stratum for host in hosts if host in plan.placements)


def sites_of(plan: Plan, hosts: Iterable[str]) -> Counter[str]:
    """How many of ``hosts`` are at each site."""
    sites = (plan.placements[host].site for host in hosts if host in plan.placements)
    return Counter(site for site in sites if site is not None)


def batches_of(plan: Plan, number: int) -> str:
    """The sizes of what has its turn at one time in wave ``number`` (from 1)."""
    sizes = plan.batches[number - 1] if plan.batches else [len(plan.waves[number - 1])]
    if len(sizes) <= FEW:
        return " + ".join(map(str, sizes))
    return f"{len(sizes)} of at most {max(sizes)}"


def _waves(plan: Plan) -> Iterator[str]:
    sites = len(sites_of(plan, plan.hosts))
    for number, (wave, then) in enumerate(zip(plan.waves, reached(plan), strict=True), start=1):
        rule = f" [{plan.entries[number - 1]}]" if plan.entries else ""
        said = [f"wave {number}{rule}: {len(wave)} host(s), then {then} have it"]
        if len(plan.strata) > 1:
            said.append(f"{len(strata_of(plan, wave))} of {len(plan.strata)} strata")
        if sites > 1:
            said.append(f"{len(sites_of(plan, wave))} of {sites} sites")
        if plan.batches and len(plan.batches[number - 1]) > 1:
            said.append(f"batches: {batches_of(plan, number)}")
        named = f": {', '.join(wave)}" if 0 < len(wave) <= NAMED else ""
        yield ", ".join(said) + named


def _kind(plan: Plan) -> Iterator[str]:
    """What a release that is no model does to a host, and what it is judged by."""
    if plan.release.kind == "application":
        yield (
            "an application: each host starts it in place of its version before and serves all the while; it is judged "
            f"by how that runs, and by the questions of {plan.release.serves}"
        )
    elif plan.release.kind != "model":
        yield (
            f"a {plan.release.kind}: each host is drained, restarted with it, and judged by the questions of "
            f"{plan.release.serves}, which it serves before and after"
        )


def _idle(plan: Plan) -> Iterator[str]:
    """Entries of the policy that made no wave although others after them did: a label that nobody has, for one."""
    made = list(plan.entries)
    for entry in plan.policy.waves:
        if not made:
            return
        word = entries.text(entry)
        if made[0] == word:
            del made[0]
        elif isinstance(entry, Labelled):
            yield f"no wave [{word}]: no planned host has this label, or all that do are in an earlier wave"
        else:
            reach = entries.reach(entry, len(plan.hosts)) if isinstance(entry, str) else entry
            yield f"no wave [{word}]: that is {reach} host(s), and as many have had their turn by then"


def _variants(plan: Plan) -> Iterator[str]:
    counts = Counter(place.variant for place in plan.placements.values())
    if len(plan.release.variants) > 1:
        for name, number in sorted(counts.items()):
            yield f"variant {name}: {number} host(s)"


def _memory(plan: Plan) -> Iterator[str]:
    outages = plan.outages
    if outages:
        yield (
            f"declared outage of up to about {max(outages.values())} s on {len(outages)} host(s), whose memory does "
            f"not hold both versions: {_names(list(outages))}"
        )
    unknown = Counter(place.memory_unknown for place in plan.placements.values())
    for what, number in unknown.items():
        if what is not None and plan.release.variants:
            yield f"memory for both versions: unknown on {number} host(s), for nobody said {what}"


def _sites(plan: Plan) -> Iterator[str]:
    planned = sites_of(plan, plan.hosts)
    sites = {site: budget for site, budget in plan.sites.items() if planned[site]}
    if not sites:
        return
    asked = sorted({budget.min_available for budget in sites.values()})
    counts = f"{asked[0]}" if len(asked) == 1 else f"{asked[0]} to {asked[-1]}"
    wanted = plan.policy.sites.min_available
    rule = f" ({wanted})" if isinstance(wanted, str) else ""
    yield f"sites: {len(sites)}; each keeps {counts} host(s){rule} that are not in their turn"
    short: dict[tuple[int, int], list[str]] = {}
    for site, budget in sites.items():
        if budget.short:
            short.setdefault((budget.hosts, budget.kept), []).append(site)
    for (hosts, kept), names in short.items():
        alone = f"too small for that: {len(names)} site(s) of {hosts} host(s), one after the other"
        yield f"{alone}, which leaves {kept} available: {_names(names)}"


def _held(title: str, held: Sequence[Held]) -> Iterator[str]:
    """Few of them one by one; of many, how many there are for each reason."""
    if len(held) <= NAMED:
        for each in held:
            until = f", until {each.until}" if each.until else ""
            origin = f", by rollout {each.origin}" if each.origin else ""
            yield f"{title}: {each.host} ({each.reason}{until}{origin})"
        return
    reasons: dict[str, list[str]] = {}
    for each in held:
        reasons.setdefault(each.reason, []).append(each.host)
    ranked = sorted(reasons.items(), key=lambda item: -len(item[1]))
    for reason, hosts in ranked[:FEW]:
        yield f"{title}: {len(hosts)} host(s) ({reason}): {_names(hosts)}"
    if len(ranked) > FEW:
        yield f"{title}: {sum(len(hosts) for _, hosts in ranked[FEW:])} more, for {len(ranked) - FEW} other reasons"


def _approvals(plan: Plan) -> Iterator[str]:
    for each in plan.policy.approvals:
        names = f"{each.count} approval(s) of: {', '.join(each.by)}"
        if each.before_wave <= len(plan.waves):
            yield f"wave {each.before_wave} waits for {names}"
        else:
            yield f"nobody is asked for {names}: it is for wave {each.before_wave}, and there are {len(plan.waves)}"


def _rules(plan: Plan) -> Iterator[str]:
    soak, budgets = plan.policy.soak, plan.policy.budgets
    unreachable = "no limit" if budgets.unreachable is None else f"more than {budgets.unreachable} stop it, too"
    yield (
        f"each host: {soak.passes} passes {soak.interval_s:g} s apart within {soak.deadline_s:g} s; "
        f"it goes back by itself after {plan.policy.confirm_within_s} s unconfirmed"
    )
    yield f"more than {budgets.failures} failed host(s) stop it; unreachable ones: {unreachable}"
    windows = plan.policy.windows
    if windows.activate or windows.download or plan.policy.freeze:
        yield f"local times by the time zone database {plan.tzdata or 'of an edition that it does not name'}"


def _names(names: Sequence[str]) -> str:
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:FEW])} and {len(names) - FEW} more"
