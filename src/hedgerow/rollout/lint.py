"""What a policy says that its schema allows and nobody can have meant. Pure.

An *error* makes the policy useless: a window that never opens, an approval that
nobody can give. A *warning* is a surprise that somebody should have seen before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from hedgerow.rollout import batches, schedule, strata
from hedgerow.rollout.gate import lint as gate
from hedgerow.rollout.patrol import LOOKS_PER_S
from hedgerow.rollout.plan import Target
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.policy.budgets import Budgets
from hedgerow.rollout.policy.notify import Channel
from hedgerow.rollout.policy.waves import STRATIFY, Labelled, text
from hedgerow.rollout.schedule import Closed, Open
from hedgerow.rollout.strata import UNKNOWN

STEPS = 200
"""Windows that are looked at for a moment that two kinds of them have in common: several months of nights."""

LARGE_FIRST = 0.25
"""A first wave with more than this share of the fleet is no canary."""


PLAIN = Channel(command=["true"])
"""A channel of nothing but defaults."""


class Finding(msgspec.Struct, frozen=True):
    """``key``: the policy's, as it is written; ``next``: what to write instead."""

    severity: Literal["error", "warning"]
    key: str
    what: str
    next: str


class Fleet(msgspec.Struct, frozen=True):
    """What a policy is held against. ``approvers``: name → public keys, as ``rollout_approvers`` has them."""

    targets: Sequence[Target]
    approvers: Mapping[str, Sequence[str]] = {}


def findings(policy: Policy, now: datetime, fleet: Fleet | None = None) -> list[Finding]:
    """Everything, errors first. ``now`` is aware; without ``fleet``, only what holds of any."""
    found = [*_calendar(policy, now), *_deadlines(policy), *_recheck(policy), *_approvals(policy)]
    found += [*_idle(policy), *(Finding(*remark) for remark in gate.remarks(policy))]
    if fleet is not None:
        found += [*_waves(policy, fleet), *_budgets(policy, fleet), *_sites(policy, fleet), *_people(policy, fleet)]
    return sorted(found, key=lambda each: each.severity)


def _calendar(policy: Policy, now: datetime) -> Iterator[Finding]:
    thawed = msgspec.structs.replace(policy, freeze=[])
    turn_s = schedule.longest_turn_s(policy)
    if _never(schedule.may_activate(thawed, now)):
        yield Finding("error", "windows.activate", "no window opens within two weeks", "check days, from and to")
    elif _never(schedule.may_activate(thawed, now, needs_s=turn_s)):
        what = f"every window is shorter than a turn may take ({turn_s:.0f} s), so that nobody ever starts"
        yield Finding("error", "windows.activate", what, "a longer window, or shorter activate_within_s and soak")
    if _never(schedule.may_download(thawed, now)):
        yield Finding("error", "windows.download", "no window opens within two weeks", "check days, from and to")
    elif not _meet(thawed, now, turn_s):
        what = "no download window is open while a host may start, and a host fetches at the begin of its turn"
        yield Finding("error", "windows.download", what, "let it overlap with windows.activate")
    for number, (begin, end, freeze) in enumerate(schedule.freezes(policy), start=1):
        if end <= begin:
            what = f"the freeze from {freeze.from_} to {freeze.to} ends before it begins, in its time zone"
            yield Finding("error", "freeze", what, "put from before to")
        elif end <= now:
            what = f"freeze {number} ({freeze.reason}) ended at {end:%Y-%m-%d %H:%M} UTC"
            yield Finding("warning", "freeze", what, "take it out, or correct its year")


def _meet(policy: Policy, now: datetime, turn_s: float) -> bool:
    """Whether there is a moment at which a host may both start and fetch."""
    moment = now
    for _ in range(STEPS):
        starts = schedule.may_activate(policy, moment, needs_s=turn_s)
        said = schedule.may_download(policy, moment) if isinstance(starts, Open) else starts
        if isinstance(said, Open):
            return True
        if said.until is None:
            return True  # said already, of the one that never opens
        moment = said.until
    return False


def _never(said: object) -> bool:
    return isinstance(said, Closed) and said.until is None


def _deadlines(policy: Policy) -> Iterator[Finding]:
    waits = (policy.retry.wait_s(attempt) for attempt in range(1, policy.retry.attempts))
    retries_s = sum(each for each in waits if each is not None)
    spare_s = policy.confirm_within_s - policy.soak.deadline_s
    if spare_s <= retries_s:
        what = (
            f"{spare_s:g} s are left between soak.deadline_s and the device's own way back, and a confirmation that "
            f"has to be tried again waits up to {retries_s:g} s"
        )
        at_least = policy.soak.deadline_s + retries_s + 30
        yield Finding("warning", "confirm_within_s", what, f"confirm_within_s: {at_least:.0f}, or more")


def _recheck(policy: Policy) -> Iterator[Finding]:
    looked_at = int(policy.recheck.within_s * LOOKS_PER_S)
    if policy.recheck.hosts > looked_at:
        what = (
            f"within {policy.recheck.within_s:g} s {looked_at} hosts are looked at, not {policy.recheck.hosts}: the "
            f"controller looks at {LOOKS_PER_S} a second"
        )
        at_least = math.ceil(policy.recheck.hosts / LOOKS_PER_S)
        yield Finding("warning", "recheck", what, f"within_s: {at_least}, or more; or fewer hosts")


def _idle(policy: Policy) -> Iterator[Finding]:
    """Keys that change nothing as the others are."""
    retry = policy.retry
    if retry.max_backoff_s < retry.backoff_s:
        what = f"no try waits for {retry.backoff_s:g} s: max_backoff_s is {retry.max_backoff_s:g}"
        yield Finding("warning", "retry.backoff_s", what, f"at most {retry.max_backoff_s:g}, or a longer max_backoff_s")
    for channel in policy.notify:
        if channel.secret_env is None and channel.header != PLAIN.header:
            what = f"the header {channel.header} is not sent, for no secret_env says what is in it"
            yield Finding("warning", "notify", what, "name the environment variable in secret_env")
        if channel.command is not None and channel.attempts != PLAIN.attempts:
            yield Finding("warning", "notify", "a command runs once, whatever attempts says", "leave attempts out")
    for number, freeze in enumerate(policy.freeze, start=1):
        if freeze.timezone is not None and all(each.tzinfo is not None for each in freeze.local):
            what = f"freeze {number} has offsets of its own, so that {freeze.timezone} says nothing of it"
            yield Finding("warning", "freeze", what, "leave timezone out, or the offsets")


def _approvals(policy: Policy) -> Iterator[Finding]:
    most = None if isinstance(policy.waves[-1], int) else len(policy.waves)
    for each in policy.approvals:
        if most is not None and each.before_wave > most:
            what = f"wave {each.before_wave} never comes: there are {most} at the most, so that nobody is asked"
            yield Finding("error", "approvals", what, f"before_wave: {most}, or less")


def _waves(policy: Policy, fleet: Fleet) -> Iterator[Finding]:
    free = {each.name: each for each in fleet.targets if each.hold is None and each.quarantine is None}
    if not free:
        yield Finding("warning", "waves", "every host is held", "hedgerow rollout release HOST")
        return
    of = {name: target.stratum(policy.stratify) for name, target in free.items()}
    waves = strata.cut(of, {name: target.labels for name, target in free.items()}, policy.waves, policy.seed or "")
    for entry in policy.waves:
        # A percentage that adds nobody is what small fleets are like; a label that nobody has was meant for somebody.
        if isinstance(entry, Labelled) and not any(entry.has(each.labels) for each in free.values()):
            yield Finding(
                "warning", "waves", f"no host that is free has {text(entry)}", "correct the label, here or there"
            )
    first = len(waves[0][1])
    if len(free) > 1 and first / len(free) > LARGE_FIRST and first > 1:
        what = f"the first wave has {first} of {len(free)} hosts ({100 * first / len(free):.0f} %)"
        yield Finding("warning", "waves", what, "begin with 1")
    for each in policy.approvals:
        if each.before_wave > len(waves):
            what = f"wave {each.before_wave} never comes in this fleet: there are {len(waves)}, so that nobody is asked"
            yield Finding("warning", "approvals", what, f"before_wave: {len(waves)}, or less")
    for number, key in enumerate(policy.stratify):
        # The default names everything that may be known; keys that somebody chose are wanted.
        if policy.stratify != list(STRATIFY) and all(stratum[number] == UNKNOWN for stratum in of.values()):
            how = (
                f'a label "{key}"' if key == "board" else 'a label "memory_mb"' if key == "memory" else "the inventory"
            )
            yield Finding("warning", "stratify", f"nobody says {key} of any host", f"say it: {how}; or leave it out")


def _budgets(policy: Policy, fleet: Fleet) -> Iterator[Finding]:
    hosts = len(fleet.targets)
    for key in ("failures", "unreachable", "environment"):
        number = getattr(policy.budgets, key)
        if number is not None and number >= hosts > 0 and number != getattr(Budgets(), key):
            what = f"{number} hosts may be lost, and the fleet has {hosts}: it never stops anything"
            yield Finding("warning", f"budgets.{key}", what, f"less than {hosts}")


def _sites(policy: Policy, fleet: Fleet) -> Iterator[Finding]:
    sites = Counter(each.site for each in fleet.targets if each.site is not None)
    short = [site for site, budget in batches.budgets(sites.elements(), policy.sites).items() if budget.short]
    short = [site for site in short if sites[site] > 1]
    if short:
        done = "are left out" if policy.sites.small == "leave_out" else "go one by one all the same"
        what = f"{policy.sites.min_available} available is more than {', '.join(short)} can spare; they {done}"
        yield Finding("warning", "sites.min_available", what, "less, or sites.small as you mean it")


def _people(policy: Policy, fleet: Fleet) -> Iterator[Finding]:
    for each in policy.approvals:
        able = [name for name in dict.fromkeys(each.by) if each.unsigned or fleet.approvers.get(name)]
        if len(able) < each.count:
            what = (
                f"wave {each.before_wave} needs {each.count} signed approval(s), and the inventory has keys of "
                f"{', '.join(able) or 'none of them'}"
            )
            yield Finding(
                "error", "approvals", what, "rollout_approvers: {NAME: [ssh-ed25519 AAAA…]} in group_vars/all"
            )
