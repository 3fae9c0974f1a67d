"""Waves cut into batches, so that every site keeps enough hosts that are not in their turn. Pure.

The hosts of a batch have their turn at the same time, batches one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from hedgerow.rollout.policy.sites import Sites


class SiteBudget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One site. ``hosts``: those that are counted on."""

    hosts: int
    min_available: int
    """How many are not to be in their turn, as the policy has it."""
    at_once: int
    """How many may be."""

    @property
    def kept(self) -> int:
        """How many are in fact not in their turn."""
        return self.hosts - self.at_once

    @property
    def short(self) -> bool:
        """Whether the site is too small for what the policy asks for."""
        return self.kept < self.min_available


def budgets(sites: Iterable[str], policy: Sites) -> dict[str, SiteBudget]:
    """The budget of every site; ``sites`` has one item a host that is counted on."""
    return {
        site: SiteBudget(
            hosts=number, min_available=policy.needed(number), at_once=max(1, number - policy.needed(number))
        )
        for site, number in sorted(Counter(sites).items())
    }


def cut(
    wave: Sequence[str],
    site_of: Mapping[str, str | None],
    budgets: Mapping[str, SiteBudget],
    *,
    most: int | None = None,
) -> tuple[list[str], list[int]]:
    """The wave's hosts in the order of its batches, and the sizes of these: as few batches as the sites allow.

    A host without a site is in the first. ``most``: hosts of a batch at the most.
    """
    before: Counter[str] = Counter()
    batches: list[list[str]] = []
    for host in wave:
        site = site_of.get(host)
        number = 0
        if site is not None and site in budgets:
            number = before[site] // budgets[site].at_once
            before[site] += 1
        # Sites fill batches from the first on, so that none is skipped but by one host at the most.
        while len(batches) <= number:
            batches.append([])
        batches[number].append(host)
    pieces = [piece for batch in batches for piece in _pieces(batch, most)]
    return [host for piece in pieces for host in piece], [len(piece) for piece in pieces]


def _pieces(batch: list[str], most: int | None) -> list[list[str]]:
    step = most or max(1, len(batch))
    return [batch[start : start + step] for start in range(0, len(batch), step)]
