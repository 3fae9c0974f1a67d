"""Decide who gets a release, in which order and waves, and open the rollout's journal.

    - name: Decide who gets the release, in which order and in which waves
      hedgerow_rollout_plan:
        bundle: assistant@1.1.0
        policy: "{{ rollout_policy | default(omit) }}"
      run_once: true
      delegate_to: localhost
      delegate_facts: true

Instead of ``bundle``, ``change`` is ``runtime`` (this tree's) or ``configuration`` (the inventory's); ``model``
names what hosts serve where no rollout knows. ``policy`` is a mapping or the path of a YAML file. The plan covers the
group ``pis``; hosts outside the play (``--limit``) and held ones are listed. ``ahead`` (``yes``, or ``only``): who has
the release still to fetch gets it ahead of all turns; with ``only`` nobody has a turn in this run. Sets ``rollout`` on
localhost: ``hosts`` in order, ``todo`` (those of them whose turn, or its end, is to come),
``serial`` (how many of these at one time), ``ahead`` and ``ahead_serial`` (the same of who is staged
ahead), ``only_ahead``, ``folder`` (of the journal).
Check mode prints the plan and gives the release play no host.

The decisions are ``hedgerow.rollout``'s. No host is touched here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from hedgerow import paths
from hedgerow.errors import HedgerowError
from hedgerow.rollout import ahead as staging
from hedgerow.rollout import configuration, decide, prepare, store
from hedgerow.rollout.plan import Target
from hedgerow.rollout.plan_text import describe
from hedgerow.rollout.prepare import plain
from hedgerow.runtime import extras

# Ansible refuses an empty list of hosts; this pattern matches none.
_NOBODY = ["!all"]


class ActionModule(ActionBase):
    """``hedgerow_rollout_plan``."""

    _supports_check_mode = True
    _requires_connection = False
    _VALID_ARGS = frozenset({"bundle", "change", "model", "policy", "ahead"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        args = plain(self._task.args)
        ahead = _ahead(args.get("ahead", False))
        fleet, targets, hosts = _targets(variables)
        stage = str(plain(variables.get("registry_stage") or paths.DEFAULT_STAGE))
        try:
            wish = prepare.Wish(args.get("bundle"), args.get("change"), args.get("model"), hosts, stage)
            plan = prepare.plan(fleet, policy=args.get("policy"), targets=targets, wish=wish)
            for line in describe(plan):
                self._display.display(line)
            if self._task.check_mode:
                return result | _facts()
            # The playbook's own process, of which this is a worker, is the journal's writer.
            journal = store.begin(store.folder(fleet), plan, pid=os.getppid(), now=datetime.now(UTC))
            state = journal.read()
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        only = ahead == "only"
        return result | _facts(
            hosts=state.plan.hosts,
            turns=None if only else decide.visits(state),
            ahead=staging.visits(state) if ahead else None,
            only_ahead=only,
            folder=str(journal.folder),
        )


def _targets(variables: dict[str, Any]) -> tuple[str, list[Target], dict[str, Any]]:
    """The fleet's name and every host of the group ``pis``, as a target and as the variables that a plan looks at."""
    hosts = {name: variables["hostvars"][name] for name in variables["groups"]["pis"]}
    keys = {"fleet", *prepare.FACTS, *configuration.FACTS, extras.VARIABLE}
    facts = plain({name: {key: host.get(key) for key in keys} for name, host in hosts.items()})
    inside = plain(variables["ansible_play_hosts_all"])
    targets = [prepare.target(name, fact, limited=name not in inside) for name, fact in facts.items()]
    return str(next(iter(facts.values()))["fleet"]), targets, facts


def _ahead(said: Any) -> bool | str:
    """``ahead`` as it comes from a command line, where every value is text."""
    word = str(said).lower()
    known: dict[str, bool | str] = {"only": "only", "true": True, "yes": True, "false": False, "no": False}
    if word not in known:
        raise AnsibleActionFail(f"hedgerow_rollout_plan: ahead is one of {', '.join(known)}, not {said!r}")
    return known[word]


def _facts(
    *,
    hosts: Sequence[str] = (),
    turns: tuple[list[str], list[int]] | None = None,
    ahead: tuple[list[str], list[int]] | None = None,
    only_ahead: bool = False,
    folder: str | None = None,
) -> dict[str, Any]:
    """What the plays run over; ``turns`` and ``ahead`` are hosts and how many at one time."""
    (todo, serial), (first, first_serial) = turns or ([], []), ahead or ([], [])
    plays = {
        "hosts": list(hosts) or _NOBODY,
        "todo": todo or _NOBODY,
        "serial": serial or [1],
        "ahead": first or _NOBODY,
        "ahead_serial": first_serial or [1],
        "only_ahead": only_ahead,
        "folder": folder,
    }
    return {"changed": False, "ansible_facts": {"rollout": plays}}
