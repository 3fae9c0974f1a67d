"""What the store remembers of versions: the order in which they were used, and which are pinned.

Use is numbered, not timed: a clock that jumps cannot make the newest version look like the oldest. Losing ``used.json``
costs an order; losing ``pins.json`` would cost a version that somebody asked to keep, so that one is never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from hedgerow import atomic
from hedgerow.device.store.layout import Layout
from hedgerow.errors import DeviceError
from hedgerow.registry.reference import Reference


class Used(msgspec.Struct):
    """``used``: reference → number of its last use, ``last`` the highest; ``staged``: name → version staged last."""

    last: int = 0
    used: dict[str, int] = msgspec.field(default_factory=dict)
    staged: dict[str, str] = msgspec.field(default_factory=dict)

    def touch(self, references: Iterable[Reference]) -> None:
        """Note a use of all of them, the last one latest."""
        for reference in references:
            self.last += 1
            self.used[str(reference)] = self.last

    def rank(self, reference: Reference) -> int:
        """The higher, the later used; 0 where nothing is known."""
        return self.used.get(str(reference), 0)

    def forget(self, reference: Reference) -> None:
        self.used.pop(str(reference), None)
        if self.staged.get(reference.name) == reference.version:
            del self.staged[reference.name]


class Pins(msgspec.Struct):
    """``pins``: reference → why."""

    pins: dict[str, str] = msgspec.field(default_factory=dict)


def read_used(layout: Layout) -> Used:
    """What was used when; nothing where the file is missing or damaged."""
    try:
        return msgspec.json.decode(layout.used.read_bytes(), type=Used)
    except (FileNotFoundError, msgspec.DecodeError):
        return Used()


def write_used(layout: Layout, used: Used) -> None:
    """Keep it; entries of what is gone are left out."""
    here = {str(reference) for reference in layout.versions()} | {str(each) for each in layout.unfinished()}
    used.used = {name: number for name, number in used.used.items() if name in here}
    used.staged = {name: version for name, version in used.staged.items() if f"{name}@{version}" in here}
    data = msgspec.json.encode(used)
    if not layout.used.exists() or layout.used.read_bytes() != data:
        atomic.write_bytes(layout.used, data)


def read_pins(layout: Layout) -> dict[Reference, str]:
    """What is pinned, and why.

    Raises:
        DeviceError: the file is damaged.
    """
    try:
        found = msgspec.json.decode(layout.pins.read_bytes(), type=Pins)
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise DeviceError(
            f"the pins cannot be read: {error}",
            where=str(layout.pins),
            next_step=f"nothing is removed until then; look at {layout.pins}, remove it, and pin anew",
        ) from error
    return {Reference.parse(text): reason for text, reason in found.pins.items()}


def write_pins(layout: Layout, pins: dict[Reference, str]) -> None:
    """Replace them."""
    atomic.write_bytes(layout.pins, msgspec.json.encode(Pins({str(key): pins[key] for key in sorted(pins, key=str)})))
