"""A plan as tables: its waves, and over what they are spread. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hedgerow.rollout.plan import Plan
from hedgerow.rollout.plan_text import FEW, NAMED, batches_of, reached, sites_of, strata_of

Row = Sequence[object]

WAVE_COLUMNS = ("wave", "rule", "hosts", "have it then", "at one time", "strata", "sites", "who")
MOST_WAVES = 60
MOST_STRATA = 40
MOST_CELLS = 8
"""Waves that have a column of their own in the table of strata."""


def wave_rows(plan: Plan) -> list[Row]:
    """One row a wave; of very many the first and, after a row that counts the others, the last."""
    total = sites_of(plan, plan.hosts)
    rows: list[Row] = []
    for number, (wave, then) in enumerate(zip(plan.waves, reached(plan), strict=True), start=1):
        rule = plan.entries[number - 1] if plan.entries else None
        kinds = f"{len(strata_of(plan, wave))} of {len(plan.strata)}" if plan.strata else None
        sites = _sites(sites_of(plan, wave), total)
        rows.append((number, rule, len(wave), then, batches_of(plan, number), kinds, sites, _who(wave)))
    if len(rows) <= MOST_WAVES:
        return rows
    hidden = sum(map(len, plan.waves[MOST_WAVES - 1 : -1]))
    between = (f"{MOST_WAVES} to {len(rows) - 1}", None, hidden, *(None,) * 5)
    return [*rows[: MOST_WAVES - 1], between, rows[-1]]


def strata_columns(plan: Plan) -> list[str]:
    """For ``strata_rows``."""
    shown = [f"wave {number}" for number in range(1, len(plan.waves) + 1)]
    return ["stratum", "hosts", *(shown if len(shown) <= MOST_CELLS else [*shown[: MOST_CELLS - 1], "later"])]


def strata_rows(plan: Plan) -> list[Row]:
    """One row a stratum, most hosts first: what it is, its hosts, and how many of them are in each wave."""
    cells = [strata_of(plan, wave) for wave in plan.waves]
    if len(cells) > MOST_CELLS:
        cells = [*cells[: MOST_CELLS - 1], _sum(cells[MOST_CELLS - 1 :])]
    total = _sum(cells)
    ranked = sorted(total, key=lambda number: (-total[number], plan.strata[number]))
    names = _names(plan)
    rows: list[Row] = [
        (names[number], total[number], *(cell[number] for cell in cells)) for number in ranked[:MOST_STRATA]
    ]
    rest = ranked[MOST_STRATA:]
    if rest:
        others = (sum(cell[number] for number in rest) for cell in cells)
        rows.append((f"{len(rest)} more", sum(total[number] for number in rest), *others))
    return rows


def _names(plan: Plan) -> list[str]:
    """Of every stratum, what it is, without what all strata of the plan share."""
    keys = plan.policy.stratify
    differs = [len({stratum[index] for stratum in plan.strata}) > 1 for index in range(len(keys))]
    return [
        ", ".join(f"{key} {value}" for key, value, shown in zip(keys, stratum, differs, strict=True) if shown)
        or "all alike"
        for stratum in plan.strata
    ]


def _sum(counters: Sequence[Counter[int]]) -> Counter[int]:
    total: Counter[int] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _sites(here: Counter[str], total: Counter[str]) -> str | None:
    if not total:
        return None
    if len(total) <= FEW:
        return ", ".join(f"{site} {number}" for site, number in sorted(here.items()))
    return f"{len(here)} of {len(total)}"


def _who(wave: Sequence[str]) -> str:
    if len(wave) <= NAMED:
        return ", ".join(wave)
    return f"{', '.join(wave[:FEW])} and {len(wave) - FEW} more"
