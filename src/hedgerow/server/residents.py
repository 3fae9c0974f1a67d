"""The loaded models of a workstation: what each takes, when it was last used. ``residency`` decides by it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from hedgerow.server import residency
from hedgerow.server.residency import Resident, Rules

if TYPE_CHECKING:
    from hedgerow.server.metrics import Metrics
    from hedgerow.server.models import Slot

# A model's files, as they were when it was measured.
_Fingerprint = tuple[object, ...]


class Residents:
    """Used from one event loop; ``clock`` is monotonic seconds."""

    def __init__(
        self, rules: Rules, slots: dict[str, Slot], metrics: Metrics, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rules = rules
        self._slots = slots
        self._metrics = metrics
        self._clock = clock
        self._loaded_s: dict[str, float] = {}
        self._used_s: dict[str, float] = {}
        self._sizes: dict[_Fingerprint, int] = {}

    def touch(self, name: str) -> None:
        """A request has come for it, or ended."""
        self._used_s[name] = self._clock()

    def known(self, fingerprint: _Fingerprint) -> int | None:
        """What a version was measured to take."""
        return self._sizes.get(fingerprint)

    def measured(self, fingerprint: _Fingerprint, size: int) -> None:
        """A version takes ``size`` bytes; remembered when it is unloaded."""
        self._sizes[fingerprint] = size

    def give_way(self, name: str, needed: int) -> list[str]:
        """The models to unload for ``name``. Raises as ``residency.room``."""
        others = [each for each in self._residents() if each.name != name]
        return residency.room(name, needed, others, self.rules, self._clock())

    def idle(self) -> tuple[list[str], float | None]:
        """The models to unload because nobody asks for them, and in how many seconds to look again."""
        return residency.idle(self._residents(), self.rules, self._clock())

    def came(self, name: str) -> None:
        """``name`` is loaded, measured, and in its slot."""
        self._loaded_s[name] = self._clock()
        self.touch(name)
        self._metrics.model_memory.labels(name).set(self._size(self._slots[name]))

    def went(self, name: str, reason: str) -> None:
        """It is no longer loaded."""
        self._loaded_s.pop(name, None)
        self._metrics.model_memory.remove(name)
        self._metrics.model_unloads.labels(reason).inc()

    def _residents(self) -> list[Resident]:
        return [
            Resident(
                name,
                self._size(slot),
                self._loaded_s.get(name, 0.0),
                self._used_s.get(name, 0.0),
                any(model.held for model in slot.all),
            )
            for name, slot in self._slots.items()
            if slot.all
        ]

    def _size(self, slot: Slot) -> int:
        return sum(self._sizes.get(model.fingerprint, 0) for model in slot.all)
