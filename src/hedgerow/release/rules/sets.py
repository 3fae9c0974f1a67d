"""What rules of the HAT's stack go through."""

from __future__ import annotations

from collections.abc import Iterator

from hedgerow.inventory.model import HailoPin
from hedgerow.release import known
from hedgerow.release.known import Chip
from hedgerow.release.model import Combination


def sets(of: Combination) -> Iterator[tuple[Chip, HailoPin, list[str]]]:
    """Each chip that the fleet has: its row of the lock and its hosts."""
    for chip in known.CHIPS:
        hosts = [name for hat in chip.hats for name in of.hats.get(hat, ())]
        if hosts:
            yield chip, getattr(of.release, chip.row), hosts
