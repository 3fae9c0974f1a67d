"""Who is upgraded when: rings in an order, batches inside a ring, and the gate between them.

A ring is a host's label ``ring``. A host without one belongs to the last ring; ``hold`` keeps it out, with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hedgerow.errors import UsageError

LABEL, HOLD_LABEL = "ring", "hold"
_SIZE = re.compile(r"(\d+)(%?)")


@dataclass(frozen=True, slots=True)
class Plan:
    """``hosts`` in the order of their turns, ``serial`` the size of each batch; ``held`` maps host → reason."""

    hosts: tuple[str, ...]
    serial: tuple[int, ...]
    rings: Mapping[str, str]
    held: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for Ansible."""
        return {
            "hosts": list(self.hosts),
            "serial": list(self.serial),
            "rings": dict(self.rings),
            "held": dict(self.held),
        }


def plan(labels: Mapping[str, Mapping[str, str]], order: Sequence[str], batch: str) -> Plan:
    """Order ``labels`` (host → its labels) into rings; ``batch`` is a number of hosts or a share of a ring.

    Raises:
        UsageError: no ring, an unknown ring on a host, or a batch that is no size.
    """
    if not order or len(set(order)) != len(order):
        raise UsageError(
            f"upgrade_rings is {list(order)}", where="upgrade_rings", next_step="name each ring once: [canary, main]"
        )
    rings = {name: of.get(LABEL, order[-1]) for name, of in labels.items()}
    for name, ring in rings.items():
        if ring not in order:
            raise UsageError(
                f"{name} is in ring {ring}, which upgrade_rings does not name",
                where=f"labels.ring of {name}",
                next_step=f"one of {', '.join(order)}, or -e '{{\"upgrade_rings\": [{', '.join([*order, ring])}]}}'",
            )
    held = {name: of[HOLD_LABEL] for name, of in labels.items() if HOLD_LABEL in of}
    hosts: list[str] = []
    serial: list[int] = []
    for ring in order:
        members = [name for name, its in rings.items() if its == ring and name not in held]
        hosts += members
        serial += batches(len(members), batch)
    return Plan(tuple(hosts), tuple(serial), {name: rings[name] for name in hosts}, held)


def batches(count: int, size: str) -> list[int]:
    """Split ``count`` hosts: ``2`` is two at a time, ``25%`` a quarter of the ring, at least one."""
    found = _SIZE.fullmatch(str(size).strip())
    if found is None or int(found[1]) == 0:
        raise UsageError(f"{size!r} is no batch", where="upgrade_batch", next_step="a number of hosts, or 25%")
    step = max(1, count * int(found[1]) // 100) if found[2] else int(found[1])
    return [min(step, count - start) for start in range(0, count, step)]


def gate(plan: Mapping[str, Any], passed: Iterable[str], host: str) -> str:
    """Why ``host`` may not begin: somebody of an earlier batch did not pass. Empty where it may.

    ``plan`` is ``Plan.as_dict()``.
    """
    hosts, position, begin = plan["hosts"], plan["hosts"].index(host), 0
    for size in plan["serial"]:
        if begin + size > position:
            break
        begin += size
    done = set(passed)
    missing = [name for name in hosts[:begin] if name not in done]
    if not missing:
        return ""
    failed, mine = plan["rings"][missing[0]], plan["rings"][host]
    rest = "its other hosts were" if failed == mine else f"ring {mine} was"
    return f"ring {failed} did not pass ({', '.join(missing)}); {rest} not touched"
