"""Decide in which rings and batches the play's hosts are brought to the version lock.

    - name: Decide who is upgraded when
      hedgerow_upgrade_plan:
        rings: [canary, main]
        batch: 25%
      run_once: true
      delegate_to: localhost
      delegate_facts: true

Sets ``upgrade`` on localhost: ``hosts`` in the order of their turns, ``serial`` (batch sizes, none across two rings),
``rings`` (host → ring) and ``held`` (host → why). The decision is ``hedgerow.release.rings``'s; no host is touched.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from hedgerow.errors import HedgerowError
from hedgerow.release import rings
from hedgerow.rollout.prepare import plain

# Ansible refuses an empty list of hosts; this pattern matches none.
_NOBODY = ["!all"]


class ActionModule(ActionBase):
    """``hedgerow_upgrade_plan``."""

    _supports_check_mode = True
    _requires_connection = False
    _VALID_ARGS = frozenset({"rings", "batch"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        labels = {
            name: plain(variables["hostvars"][name].get("labels") or {})
            for name in plain(variables["ansible_play_hosts_all"])
        }
        try:
            plan = rings.plan(labels, plain(self._task.args["rings"]), str(self._task.args["batch"]))
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        for ring in dict.fromkeys(plan.rings.values()):
            members = ", ".join(name for name in plan.hosts if plan.rings[name] == ring)
            self._display.display(f"ring {ring}: {members}")
        for name, reason in plan.held.items():
            self._display.display(f"held: {name} ({reason})")
        facts = plan.as_dict()
        if not plan.hosts:
            facts |= {"hosts": _NOBODY, "serial": [1]}
        return result | {"changed": False, "ansible_facts": {"upgrade": facts}}
