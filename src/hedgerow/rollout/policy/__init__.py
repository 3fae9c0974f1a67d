"""What a rollout may do, as an operator writes it: one section a module. Pure: no IO and no clock.

Every key may be left out, every default is the careful one, and an unknown key
is an error.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

import msgspec

from hedgerow import json_schema as schemas
from hedgerow.errors import UsageError
from hedgerow.rollout.policy import waves as wave_entries
from hedgerow.rollout.policy.approvals import Approval
from hedgerow.rollout.policy.budgets import Budgets
from hedgerow.rollout.policy.gate import Gate
from hedgerow.rollout.policy.notify import Channel
from hedgerow.rollout.policy.quarantine import Cooldown, Quarantine
from hedgerow.rollout.policy.recheck import Recheck
from hedgerow.rollout.policy.retry import Retry
from hedgerow.rollout.policy.rollback import Rollback
from hedgerow.rollout.policy.schedule import Freeze, Windows
from hedgerow.rollout.policy.sites import Sites
from hedgerow.rollout.policy.soak import Soak
from hedgerow.rollout.policy.waves import CAREFUL, STRATIFY, StratumKey, Wave


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``rollout_policy`` may say; every default is the careful one."""

    waves: Annotated[list[Wave], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: list(CAREFUL))
    """Who is in each wave: a count of further hosts, a percentage that is then reached, or labels. The last entry
    reaches everybody: a count, which repeats, or 100%."""
    stratify: list[StratumKey] = msgspec.field(default_factory=lambda: list(STRATIFY))
    """What hosts differ in: every wave has each combination in its share, the first waves as many as they can."""
    sites: Sites = Sites()
    windows: Windows = Windows()
    freeze: list[Freeze] = []
    quarantine_s: Quarantine = 0
    cooldown_s: Cooldown = 3600
    seed: str | None = None
    """Changes the order of hosts. None: the bundle's own name and version, so a rerun keeps the order and
    the next release meets another first host."""
    soak: Soak = Soak()
    gate: Gate = Gate()
    activate_within_s: Annotated[int, msgspec.Meta(ge=1)] = 900
    """Seconds after which a command on the host is ended: as many for fetching and verifying, and for the switch."""
    confirm_within_s: Annotated[int, msgspec.Meta(ge=30)] = 600
    """Seconds after which a device that nobody confirmed goes back by itself."""
    recheck: Recheck = Recheck()
    budgets: Budgets = Budgets()
    approvals: list[Approval] = []
    """Waves that wait for people; several entries for one wave must all be met."""
    retry: Retry = Retry()
    rollback: Rollback = Rollback()
    notify: list[Channel] = []
    """Who is told of ends and of waits for a person."""

    def __post_init__(self) -> None:
        wave_entries.check(self.waves)
        shortest = self.soak.passes * self.soak.interval_s
        if shortest > self.soak.deadline_s:
            raise ValueError(
                f"soak.deadline_s is {self.soak.deadline_s:g}, but {self.soak.passes} passes every "
                f"{self.soak.interval_s:g} s take {shortest:g}"
            )
        if self.soak.minimum_s >= self.soak.deadline_s:
            raise ValueError(
                f"soak.deadline_s ({self.soak.deadline_s:g}) must be longer than soak.minimum_s "
                f"({self.soak.minimum_s:g})"
            )
        if self.soak.deadline_s >= self.confirm_within_s:
            raise ValueError(
                f"confirm_within_s ({self.confirm_within_s}) must be longer than soak.deadline_s "
                f"({self.soak.deadline_s:g}): the device would go back while it is still being judged"
            )


def parse(value: Any, *, where: str) -> Policy:
    """Read a policy from decoded YAML or JSON; None is all defaults.

    Raises:
        UsageError: An unknown key or a value out of range; says which.
    """
    try:
        return msgspec.convert({} if value is None else _undated(value), Policy)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"the rollout policy is wrong: {error}",
            where=where,
            next_step="keys and limits: hedgerow rollout plan --policy-schema",
        ) from error


def _undated(value: Any) -> Any:
    """``value`` with the dates and times that YAML makes of ``2026-12-24`` as they were written."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: _undated(item) for key, item in value.items()}
    return [_undated(item) for item in value] if isinstance(value, list) else value


def schema() -> dict[str, Any]:
    """JSON Schema of a policy file."""
    return schemas.of(Policy, "Hedgerow rollout policy")
