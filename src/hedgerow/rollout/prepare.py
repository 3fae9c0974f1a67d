"""From what an operator asked for to a plan: the same for ``ansible-playbook`` and for ``hedgerow rollout``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from msgspec.structs import replace

from hedgerow import paths
from hedgerow.device.change import Change
from hedgerow.errors import RefusedError, UsageError
from hedgerow.rollout import (
    carried,
    cooldown,
    holds,
    kinds,
    late,
    release_application,
    release_restarting,
    schedule,
    serving,
    store,
)
from hedgerow.rollout import plan as plans
from hedgerow.rollout import policy as policies
from hedgerow.rollout import release as releases
from hedgerow.rollout.events import State
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import HOLD_LABEL, Plan, Release, Target
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.zones import version as tzdata_version

LOOKED_BACK = 5
"""Rollouts that are read to learn what hosts serve; what an older one left counts as unknown."""


def plain(value: Any) -> Any:
    """``value`` as builtin types. Ansible's are tagged subclasses of them, which strict decoding refuses."""
    return json.loads(json.dumps(value))


FACTS = ("site", "hat", "cooling", "storage", "labels", "board_memory_mb", release_application.VARIABLE)
"""Variables of a host that a plan looks at."""


def target(name: str, variables: Mapping[str, Any], *, limited: bool) -> Target:
    """A host of the group ``pis`` as the plan sees it; ``variables`` as the inventory has them.

    The inventory need not know what board a host is: labels ``board`` (its revision), ``machine`` (``uname -m``) and
    ``memory_mb`` say it, and ``board_memory_mb`` the latter, too. What nobody says is unknown.

    Raises:
        UsageError: The label ``memory_mb`` is no number, or ``applications`` no list of names.
    """
    labels: dict[str, str] = dict(variables.get("labels") or {})
    memory = labels.get("memory_mb", variables.get("board_memory_mb"))
    if memory is not None and not str(memory).isdecimal():
        raise UsageError(
            f"the label memory_mb of {name} is {memory!r}",
            where=f"labels of {name}",
            next_step='write megabytes: memory_mb: "8192"',
        )
    return Target(
        name=name,
        site=variables.get("site"),
        hat=variables.get("hat"),
        cooling=variables.get("cooling"),
        storage=variables.get("storage"),
        board=labels.get("board"),
        machine=labels.get("machine"),
        memory_mb=None if memory is None else int(memory),
        labels=labels,
        applications=release_application.of_inventory(name, variables.get(release_application.VARIABLE)),
        hold=labels.get(HOLD_LABEL),
        limited=limited,
    )


def read_policy(given: Any) -> Policy:
    """A policy from a mapping, from the path of a YAML file, or from nothing at all (every default).

    Raises:
        UsageError: There is no such file, or what it says is wrong.
    """
    if not isinstance(given, str):
        return policies.parse(given, where="rollout_policy")
    path = Path(given)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"the rollout policy cannot be read: {error.strerror}",
            where=str(path),
            next_step="-e rollout_policy=FILE takes a YAML file, seen from where you type",
        ) from error
    except yaml.YAMLError as error:
        raise UsageError(f"the rollout policy is no YAML: {error}", where=str(path)) from error
    return policies.parse(document, where=str(path))


@dataclass(frozen=True)
class Wish:
    """What is to be released: ``bundle`` (``name@version``), or ``change`` (what is no model).

    ``model`` names the one that hosts serve where no rollout knows. ``hosts`` are those of the group ``pis`` with their
    variables, ``stage`` the one of the registry that they belong to.
    """

    bundle: str | None = None
    change: str | None = None
    model: str | None = None
    hosts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stage: str = paths.DEFAULT_STAGE

    @classmethod
    def of(
        cls,
        what: str,
        *,
        model: str | None,
        hosts: Mapping[str, Mapping[str, Any]],
        stage: str = paths.DEFAULT_STAGE,
    ) -> Wish:
        """``what`` as commands take it: ``name@version``, or a kind that is no model's."""
        if kinds.is_kind(what):
            return cls(change=what, model=model, hosts=hosts, stage=stage)
        return cls(bundle=what, model=model, hosts=hosts, stage=stage)

    def application(self, fleet: str) -> Change | None:
        """The application that is meant; None: something else is.

        Raises:
            UsageError, RefusedError: Nobody can tell what is meant, or it cannot be released.
        """
        if (self.bundle is None) == (self.change is None):
            raise UsageError(
                "nobody can tell what is to be released",
                next_step="say which bundle: -e bundle=assistant@1.1.0; or change=runtime, or change=configuration",
            )
        if self.change is not None:
            kind, _ = kinds.parse(self.change)
            return Change.parse(self.change) if kind == release_application.KIND else None
        bundle = self.bundle or ""
        is_one = release_application.is_one(fleet, bundle, stage=self.stage)
        return Change.parse(f"{release_application.KIND}:{bundle}") if is_one else None

    def release(self, fleet: str, targets: Iterable[Target], application: Change | None = None) -> Release:
        """Read it from the registry, the tree, or the inventory. ``application`` is what the method of that name says.

        Raises:
            UsageError: Both were said, or neither.
            RefusedError, PublisherError: As ``read`` of ``release``, ``release_application``, ``release_restarting``.
        """
        planned = [each.name for each in targets if not each.limited and each.hold is None and each.quarantine is None]
        past = _past(store.folder(fleet), release_restarting.LOOKED_BACK)
        if application is not None:
            return release_application.read(
                fleet, application, past, planned=planned, model=self.model, stage=self.stage
            )
        if self.change is None:
            return releases.read(fleet, self.bundle or "", stage=self.stage)
        return release_restarting.read(
            fleet, self.change, self.hosts, past, planned=planned, model=self.model, stage=self.stage
        )


def plan(
    fleet: str,
    *,
    bundle: str | None = None,
    policy: Any,
    targets: Iterable[Target],
    now: datetime | None = None,
    wish: Wish | None = None,
) -> Plan:
    """Check everything that can be checked before a host is touched, then decide. ``bundle`` is short for a ``wish``.

    A rollout that was cut off keeps its waves; who came since is in the last (``rollout.late``). ``now``: None is
    the present.

    Raises:
        UsageError: The bundle's name, the policy or the group of hosts is wrong.
        PublisherError: The registry does not vouch for the bundle.
        MachineError: The list of held hosts is damaged.
        RefusedError: The bundle fits no host, or was taken back here a short while ago.
    """
    now = now or datetime.now(UTC)
    made_of, targets, rollouts = read_policy(policy), list(targets), store.folder(fleet)
    wish = wish or Wish(bundle=bundle)
    application = wish.application(fleet)
    if application is not None:
        targets = release_application.held(targets, application)
    release = wish.release(fleet, targets, application)
    going_on = store.interrupted(rollouts, release.sha256)
    if going_on is None:
        recent = store.since(rollouts, now - timedelta(seconds=made_of.cooldown_s))
        cooldown.refuse(recent, release, made_of.cooldown_s, now)
    _refuse_for_ever(made_of, now)
    free = _kept_out(rollouts, targets, None if going_on else store.taken_over(rollouts, release.bundle), now)
    known = _with_memory(partial(releases.memory_mb, fleet, stage=release.stage), rollouts, free)
    fresh = plans.make(known, made_of, release)
    if going_on is not None:
        return replace(late.extend(going_on[1].plan, fresh), tzdata=tzdata_version())
    _refuse_nobody(fresh)
    return replace(fresh, tzdata=tzdata_version())


def _kept_out(
    rollouts: Path, targets: Iterable[Target], superseded: tuple[str, State] | None, now: datetime
) -> list[Target]:
    """``targets`` with what stands against them; of a stuck rollout that this one supersedes, also what is to come."""
    entries = holds.read(rollouts)
    if superseded is None:
        return holds.merge(targets, holds.standing(entries, now))
    entries += holds.due(entries, *superseded, now)
    return carried.mark(holds.merge(targets, holds.standing(entries, now)), *superseded)


def _refuse_for_ever(policy: Policy, now: datetime) -> None:
    """A rollout that waits for a window which never comes would wait without a word."""
    turn_s = schedule.longest_turn_s(policy)
    said = schedule.may_activate(policy, now, needs_s=turn_s)
    if isinstance(said, schedule.Closed) and said.until is None:
        raise UsageError(
            f"no window of the rollout policy is ever open for as long as a turn may take ({turn_s:.0f} s: "
            "activate_within_s and soak.deadline_s)",
            where="windows.activate",
            next_step="lengthen one, or shorten these; hedgerow rollout lint FILE says more",
        )


def _refuse_nobody(made: Plan) -> None:
    if made.incompatible and not made.hosts:
        first = made.incompatible[0]
        others = f", and {len(made.incompatible) - 1} more" if len(made.incompatible) > 1 else ""
        raise RefusedError(
            f"rule compatible: {made.release.bundle} fits no host: {first.reason}",
            where=f"{first.host}{others}",
            next_step="publish a variant for these boards, or correct what the inventory says of them",
        )


def _past(rollouts: Path, number: int) -> Iterator[State]:
    """The newest rollouts, newest first; read as they are asked for."""
    newest = reversed(store.ids(rollouts)[-number:])
    return (state for rollout in newest if (state := Journal(rollouts / rollout).state()) is not None)


def _with_memory(needs_of: Callable[[str], int | None], rollouts: Path, targets: list[Target]) -> list[Target]:
    """``targets`` with what is known of the memory that their present models need; asked only where a board's is."""
    measured = [each.name for each in targets if each.memory_mb is not None]
    if not measured:
        return targets
    needs = serving.memory_mb(measured, _past(rollouts, LOOKED_BACK), cache(needs_of))
    return [replace(each, serves_mb=needs[each.name]) if needs.get(each.name) is not None else each for each in targets]
