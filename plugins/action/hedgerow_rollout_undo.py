"""Say who has to go back, from the journal; the play after it brings them back, all at once.

    - name: See who has to go back
      hedgerow_rollout_undo: {folder: "{{ folder }}"}
      run_once: true
      delegate_to: localhost
      delegate_facts: true

Instead of ``folder``, ``rollout`` (an id, or ``newest``) takes up a rollout that has ended or was cut off.
It then holds the fleet's lease, and names hosts that were left half-way, too. Lost hosts come last: they may be
back. Journals what operators have asked. Sets ``rollout_undo`` on localhost: ``hosts``, ``folder``. Check mode
needs ``rollout``, and changes nothing.

The decisions are ``hedgerow.rollout``'s. No host is touched here.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from hedgerow.errors import HedgerowError
from hedgerow.rollout import decide, requests, store, way_back
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.prepare import plain
from hedgerow.rollout.waiting import note_stop

# Ansible refuses an empty list of hosts; this pattern matches none.
_NOBODY = ["!all"]


class ActionModule(ActionBase):
    """``hedgerow_rollout_undo``."""

    _supports_check_mode = True
    _requires_connection = False
    _VALID_ARGS = frozenset({"folder", "rollout"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        args = plain(self._task.args)
        if set(args) not in ({"folder"}, {"rollout"}):
            raise AnsibleActionFail("hedgerow_rollout_undo: say either folder or rollout")
        try:
            if self._task.check_mode:
                return result | {"changed": False, "msg": "check mode: nobody goes back"} | _facts([], "")
            journal = self._journal(args, variables)
            requests.take(journal, plain(variables.get("rollout_approvers") or {}))
            state = note_stop(journal, Clock())
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        hosts = way_back.order(state)
        if "rollout" in args:
            hosts = list(dict.fromkeys([*decide.to_undo(state), *decide.unsettled(state)]))
        listed = ", ".join(hosts) or "nobody"
        said = {"changed": False, "msg": f"to go back: {listed}", "_ansible_verbose_always": True}
        return result | said | _facts(hosts, str(journal.folder))

    def _journal(self, args: dict[str, Any], variables: dict[str, Any]) -> Journal:
        if "folder" in args:
            return Journal.shared(Path(args["folder"]), pid=os.getppid())
        rollouts = store.folder(str(plain(variables["fleet"])))
        chosen = None if args["rollout"] == "newest" else str(args["rollout"])
        return store.reopen(rollouts, chosen, pid=os.getppid(), now=datetime.now(UTC))


def _facts(hosts: list[str], folder: str) -> dict[str, Any]:
    return {"ansible_facts": {"rollout_undo": {"hosts": hosts or _NOBODY, "folder": folder}}}
