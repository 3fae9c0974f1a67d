"""Section ``budgets``: how much may go wrong in a whole rollout, across waves."""

from __future__ import annotations

import msgspec

from hedgerow.rollout.policy.units import Natural


class Budgets(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much may go wrong in the whole rollout; one more stops it."""

    failures: Natural = 0
    unreachable: Natural | None = None
    """None: no limit. A host that is off before its turn is left as it is, so going on harms nobody."""
    environment: Natural | None = 1
    """Hosts set aside because their supply or heat explains the breach. A second one makes the release itself
    suspect: it may be what draws the power. None: no limit."""


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What has happened so far in the whole rollout, in hosts."""

    failed: int = 0
    unreachable: int = 0
    environment: int = 0


def spent(tally: Tally, budgets: Budgets) -> str | None:
    """Say which budget is spent, so that no further host may start; None while all hold."""
    if tally.failed > budgets.failures:
        return f"{tally.failed} host(s) failed and the rollout may cost {budgets.failures}"
    if budgets.unreachable is not None and tally.unreachable > budgets.unreachable:
        return f"{tally.unreachable} host(s) could not be reached and the rollout may miss {budgets.unreachable}"
    if budgets.environment is not None and tally.environment > budgets.environment:
        return (
            f"{tally.environment} host(s) were set aside for their supply or heat and the rollout may set aside "
            f"{budgets.environment}"
        )
    return None
