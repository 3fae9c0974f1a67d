"""Decide who gets a release, in which order and waves, and open the rollout's journal.

    - name: Decide who gets the release, in which order and in which waves
      hedgerow_rollout_plan:
        bundle: assistant@1.1.0
        policy: "{{ rollout_policy | default(omit) }}"
      run_once: true
      delegate_to: localhost
      delegate_facts: true

``policy`` is a mapping or the path of a YAML file. The plan covers the group ``pis``;
hosts outside the play (``--limit``) and held ones are listed. Sets ``rollout`` on
localhost: ``hosts`` in order, ``todo`` (those of them whose turn, or its end, is to come),
``serial`` (how many of these at one time), ``folder`` (of the journal).
Check mode prints the plan and gives the release play no host.

The decisions are ``hedgerow.rollout``'s. No host is touched here.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from ansible.plugins.action import ActionBase

from hedgerow.errors import HedgerowError
from hedgerow.rollout import decide, prepare, store
from hedgerow.rollout.plan import Target
from hedgerow.rollout.plan_text import describe
from hedgerow.rollout.prepare import plain

# Ansible refuses an empty list of hosts; this pattern matches none.
_NOBODY = ["!all"]


class ActionModule(ActionBase):
    """``hedgerow_rollout_plan``."""

    _supports_check_mode = True
    _requires_connection = False
    _VALID_ARGS = frozenset({"bundle", "policy"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        args = plain(self._task.args)
        fleet, targets = _targets(variables)
        try:
            plan = prepare.plan(fleet, bundle=args.get("bundle") or "", policy=args.get("policy"), targets=targets)
            for line in describe(plan):
                self._display.display(line)
            if self._task.check_mode:
                return result | _facts(hosts=[], todo=[], serial=[], folder=None)
            # The playbook's own process, of which this is a worker, is the journal's writer.
            journal = store.begin(store.folder(fleet), plan, pid=os.getppid(), now=datetime.now(UTC))
            state = journal.read()
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        todo, serial = decide.visits(state)
        return result | _facts(hosts=state.plan.hosts, todo=todo, serial=serial, folder=str(journal.folder))


def _targets(variables: dict[str, Any]) -> tuple[str, list[Target]]:
    """The fleet's name and every host of the group ``pis``."""
    hosts = {name: variables["hostvars"][name] for name in variables["groups"]["pis"]}
    keys = ("fleet", *prepare.FACTS)
    facts = plain({name: {key: host.get(key) for key in keys} for name, host in hosts.items()})
    inside = plain(variables["ansible_play_hosts_all"])
    targets = [prepare.target(name, fact, limited=name not in inside) for name, fact in facts.items()]
    return str(next(iter(facts.values()))["fleet"]), targets


def _facts(*, hosts: list[str], todo: list[str], serial: list[int], folder: str | None) -> dict[str, Any]:
    plays = {"hosts": hosts or _NOBODY, "todo": todo or _NOBODY, "serial": serial or [1], "folder": folder}
    return {"changed": False, "ansible_facts": {"rollout": plays}}
