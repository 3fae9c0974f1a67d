"""A plan that is gone on with, over the hosts that there are now. Pure.

- A host stays in the wave that it was planned for, and waves keep their
  numbers, which approvals name.
- Who had been outside ``--limit`` and is inside now comes in waves of its own
  after those, as a fresh plan cuts them: a limit that is widened is no reason
  to skip a canary.
- Who is new (or was held, in quarantine, or fitted by no variant) is in the last
  wave.
- Who has left the plan is taken out of its wave, which may leave it empty; who
  has left the inventory altogether is listed as ``gone``.
"""

from __future__ import annotations

from itertools import zip_longest

import msgspec

from hedgerow.rollout import batches
from hedgerow.rollout.plan import Plan


def extend(old: Plan, fresh: Plan) -> Plan:
    """The waves of ``old``; everything else of ``fresh``, which was made of the hosts that there are now."""
    planned = frozenset(fresh.hosts)
    before = frozenset(old.hosts)
    limited = frozenset(old.outside_limit)
    waves = [[host for host in wave if host in planned] for wave in old.waves]
    entries = [entry for entry, _ in zip_longest(old.entries, waves, fillvalue="")][: len(waves)]
    for entry, wave in zip_longest(fresh.entries, fresh.waves, fillvalue=""):
        widened = [host for host in wave if host in limited and host not in before]
        if widened:
            waves.append(widened)
            entries.append(entry)
    if not waves:
        return fresh
    late = [host for host in fresh.hosts if host not in before and host not in limited]
    waves[-1] = [*waves[-1], *late]
    parts = _batches(waves, fresh, most=_largest_batch(fresh) if late else None)
    listed = planned.union(
        (each.host for each in [*fresh.held, *fresh.quarantined, *fresh.incompatible]), fresh.outside_limit
    )
    return msgspec.structs.replace(
        fresh,
        waves=[wave for wave, _ in parts],
        entries=entries if any(entries) else [],
        batches=[sizes for _, sizes in parts],
        late=[host for host in [*old.late, *late] if host in planned],
        carried=[each for each in old.carried if each.host in planned],
        gone=[host for host in dict.fromkeys([*old.gone, *old.hosts]) if host not in listed],
    )


def _largest_batch(plan: Plan) -> int | None:
    """A last wave that is a count repeats: so many hosts at one time, also where late ones join it."""
    last = plan.policy.waves[-1]
    return last if isinstance(last, int) else None


def _batches(waves: list[list[str]], fresh: Plan, *, most: int | None) -> list[tuple[list[str], list[int]]]:
    site_of = {host: place.site for host, place in fresh.placements.items()}
    return [
        batches.cut(wave, site_of, fresh.sites, most=most if number == len(waves) else None)
        for number, wave in enumerate(waves, start=1)
    ]
