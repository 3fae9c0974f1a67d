"""Which hosts go together: an order of which every stretch represents the fleet, and the waves cut from it. Pure.

A *stratum* is one combination of what hosts differ in (board, memory, HAT, …).
An unknown value is a value of its own.

- **Coverage first.** The first places go to one host of each stratum, so that n
  early hosts are of n strata as long as there are as many. The next stratum is
  the one with most values that no host before has (greedy set cover): ten hosts
  of a hundred sites have both kinds of cooling and every size of memory among
  them. Of equal ones the next is drawn, a stratum of twice the size twice as
  often: where there are more strata than a wave has hosts, what is common in
  the fleet is common in the wave. The draw follows from seed and stratum alone
  (each gets an exponential variate with its size as rate, the least wins:
  Efraimidis and Spirakis, 2006), so a host more or less turns no order round.
- **Then proportion.** Host number j (from 0) of a stratum of s has place
  (j + 1/2) / s, and places are taken in order. That is Sainte-Laguë's method
  (Webster's, 1832) for every prefix at once. Largest remainders would give the
  same within one host, but can take a place away again when the total grows (the
  Alabama paradox), and waves are prefixes of one order.
- Within a stratum, the order is that of SHA-256 over seed and name: it depends
  on nothing else, so a host more or less leaves the others where they are.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from hedgerow.rollout.policy.waves import Labelled, reach, text

Stratum = tuple[str, ...]
"""Values in the order of the policy's ``stratify``."""

UNKNOWN = "?"


def position(seed: str, name: str) -> str:
    """Where ``name`` stands in the order of ``seed``."""
    return hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()


def spread(hosts: Mapping[str, Stratum], seed: str, given: Mapping[Stratum, int] | None = None) -> list[str]:
    """``hosts`` (name → stratum) in their order. ``given``: how many of each stratum had their turn before."""
    given = {} if given is None else given
    members: dict[Stratum, list[tuple[str, str]]] = {}
    for name, stratum in hosts.items():
        members.setdefault(stratum, []).append((position(seed, name), name))
    fresh = {stratum: len(names) for stratum, names in members.items() if not given.get(stratum)}
    seen = [stratum for stratum, number in given.items() if number]
    ranks = {stratum: rank for rank, stratum in enumerate(_coverage(fresh, seen, seed))}
    places: list[tuple[float, str, str]] = []
    for stratum, names in members.items():
        names.sort()
        before = given.get(stratum, 0)
        size = before + len(names)
        for number, (where, name) in enumerate(names, start=before):
            # Coverage comes before every share, and a share is above 0.
            place = (number + 0.5) / size if number else float(ranks[stratum] - len(ranks))
            places.append((place, where, name))
    places.sort()
    return [name for _, _, name in places]


def _coverage(sizes: Mapping[Stratum, int], seen: Sequence[Stratum], seed: str) -> Iterator[Stratum]:
    """``sizes`` (stratum → hosts), each once, the one with most values that none before has first."""
    known = {pair for stratum in seen for pair in enumerate(stratum)}
    heap = [(-_new(stratum, known), _draw(stratum, size, seed), stratum) for stratum, size in sizes.items()]
    heapq.heapify(heap)
    while heap:
        # Values only become known, so a gain that still holds is the greatest there is.
        top = heap[0]
        gain = -_new(top[-1], known)
        if gain != top[0]:
            heapq.heapreplace(heap, (gain, *top[1:]))
            continue
        heapq.heappop(heap)
        known.update(enumerate(top[-1]))
        yield top[-1]


def _draw(stratum: Stratum, size: int, seed: str) -> float:
    """An exponential variate of rate ``size``: the least of them is drawn from all with chances like their sizes."""
    share = int(position(seed, "\0".join(stratum))[:13], 16) / 16**13
    return -math.log1p(-share) / size


def _new(stratum: Stratum, known: set[tuple[int, str]]) -> int:
    return sum(pair not in known for pair in enumerate(stratum))


def cut(
    hosts: Mapping[str, Stratum],
    labels: Mapping[str, Mapping[str, str]],
    entries: Sequence[int | str | Labelled],
    seed: str,
) -> list[tuple[str, list[str]]]:
    """The waves: the entry in a word, and its hosts. An entry that adds nobody makes no wave.

    ``labels``: name → labels. The last of ``entries`` must reach everybody (``policy.waves.check``).
    """
    waves: list[tuple[str, list[str]]] = []
    left = spread(hosts, seed)
    start = done = number = 0
    while start < len(left):
        entry = entries[min(number, len(entries) - 1)]
        number += 1
        if isinstance(entry, Labelled):
            rest = left[start:]
            wave = [name for name in rest if entry.has(dict(labels.get(name, {})))]
            if wave:
                chosen = frozenset(wave)
                others = {name: hosts[name] for name in rest if name not in chosen}
                # What the label brought in counts for what comes after it.
                left, start = spread(others, seed, Counter(hosts[name] for name in hosts.keys() - others.keys())), 0
        else:
            size = entry if isinstance(entry, int) else max(0, reach(entry, len(hosts)) - done)
            wave = left[start : start + size]
            start += size
        if wave:
            waves.append((text(entry), wave))
            done += len(wave)
    return waves
