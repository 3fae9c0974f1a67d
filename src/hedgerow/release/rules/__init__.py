"""What is known of combinations, as data: a rule each, with its source and what breaking it means.

A rule yields a sentence for each breach, beginning with the key to change. Order is the table's on the screen.
"""

from __future__ import annotations

from hedgerow.release.model import Rule
from hedgerow.release.rules import archives, board, bundle, hailo, kernel, mender

RULES: tuple[Rule, ...] = (
    *hailo.RULES,
    *kernel.RULES,
    *board.RULES,
    *mender.RULES,
    *archives.RULES,
    *bundle.RULES,
)
BY_ID = {rule.id: rule for rule in RULES}
