"""Who gets a release, in which order and in which wave. Pure.

- Every host of the target group is in exactly one place: a wave, held, or
  outside ``--limit``; all three are listed and counted.
- The order depends on the host's name and the seed alone: adding a host moves
  no other, and a rerun meets the hosts in the same order.
- ``--limit`` narrows waves, never budgets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from hedgerow.errors import UsageError
from hedgerow.registry.manifest import GoldenTensors, GoldenText, Slo
from hedgerow.rollout.policy import Policy

HOLD_LABEL = "hold"
"""A host whose ``labels`` carry this key is left out; the value says why."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A host as far as a plan needs it."""

    name: str
    hold: str | None = None
    """Why it is held; None if it is not."""
    limited: bool = False
    """Outside of the operator's ``--limit``."""


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is rolled out, as the registry vouches for it."""

    bundle: str
    """``name@version``"""
    sha256: str
    """Hash of the bundle's manifest: what hosts must end up serving."""
    size_bytes: int
    """Bytes that a host fetches at most."""
    probe: GoldenText | GoldenTensors
    """What the gate asks each host, and what must come back."""
    tensor_types: dict[str, str] = {}
    """Input tensor → data type (Open Inference Protocol v2), for a probe of tensors."""
    probes: list[GoldenText | GoldenTensors] = []
    """The bundle's golden inputs, which the gate puts in turn; empty in plans of older controllers."""
    slo: Slo | None = None
    """What the publisher expects on a board."""

    @property
    def questions(self) -> list[GoldenText | GoldenTensors]:
        """What the gate asks, one after the other."""
        return self.probes or [self.probe]

    @property
    def name(self) -> str:
        """The bundle's name, which is the model's name on the server."""
        return self.bundle.partition("@")[0]


class Held(msgspec.Struct, frozen=True):
    """A host that a plan leaves alone, and why."""

    host: str
    reason: str


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A finished plan; ``plan.json`` holds exactly this."""

    release: Release
    policy: Policy
    waves: list[list[str]]
    held: list[Held] = []
    outside_limit: list[str] = []

    @property
    def hosts(self) -> list[str]:
        """Hosts in the order in which they start."""
        return [host for wave in self.waves for host in wave]

    @property
    def serial(self) -> list[int]:
        """Wave sizes, for the play's ``serial``."""
        return [len(wave) for wave in self.waves]

    def counts(self) -> dict[str, int]:
        """Counts, which are printed instead of percentages."""
        return {
            "hosts": len(self.hosts),
            "waves": len(self.waves),
            "held": len(self.held),
            "outside_limit": len(self.outside_limit),
        }


def _position(seed: str, host: str) -> str:
    return hashlib.sha256(f"{seed}\0{host}".encode()).hexdigest()


def _waves(hosts: Sequence[str], sizes: Sequence[int]) -> list[list[str]]:
    waves: list[list[str]] = []
    start = 0
    while start < len(hosts):
        size = sizes[min(len(waves), len(sizes) - 1)]
        waves.append(list(hosts[start : start + size]))
        start += size
    return waves


def make(targets: Iterable[Target], policy: Policy, release: Release) -> Plan:
    """Decide.

    Raises:
        UsageError: There is no host at all, or two with one name.
    """
    everyone = list(targets)
    names = [target.name for target in everyone]
    if not names:
        raise UsageError("the group 'pis' has no host", next_step="look at it: ansible-inventory --graph pis")
    if len(set(names)) != len(names):
        raise UsageError("a host stands twice in the plan's targets", where=", ".join(sorted(names)))
    seed = policy.seed if policy.seed is not None else release.bundle
    free = [target.name for target in everyone if target.hold is None and not target.limited]
    return Plan(
        release=release,
        policy=policy,
        waves=_waves(sorted(free, key=lambda host: _position(seed, host)), policy.waves),
        held=[Held(target.name, target.hold) for target in everyone if target.hold is not None],
        outside_limit=[target.name for target in everyone if target.hold is None and target.limited],
    )


def describe(plan: Plan) -> list[str]:
    """The plan in lines for people."""
    counts = plan.counts()
    where = f"{counts['hosts']} host(s) in {counts['waves']} wave(s)"
    left_out = f"{counts['held']} held, {counts['outside_limit']} outside --limit"
    lines = [f"{plan.release.bundle}: {where}, {left_out}; {plan.release.size_bytes / 1e6:.1f} MB a host"]
    lines += [f"  wave {number}: {', '.join(wave)}" for number, wave in enumerate(plan.waves, start=1)]
    lines += [f"  held: {held.host} ({held.reason})" for held in plan.held]
    if plan.outside_limit:
        lines.append(f"  outside --limit: {', '.join(plan.outside_limit)}")
    soak, budgets = plan.policy.soak, plan.policy.budgets
    unreachable = "no limit" if budgets.unreachable is None else f"more than {budgets.unreachable} stop it, too"
    lines.append(
        f"  each host: {soak.passes} passes {soak.interval_s:g} s apart within {soak.deadline_s:g} s; "
        f"it goes back by itself after {plan.policy.confirm_within_s} s unconfirmed"
    )
    lines.append(f"  more than {budgets.failures} failed host(s) stop it; unreachable ones: {unreachable}")
    return lines
