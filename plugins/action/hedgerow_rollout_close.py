"""End a rollout in order: journal it, print what became of every host, give the lease back.

- name: Close the journal and sum up
  hedgerow_rollout_close: {folder: "{{ rollout.folder }}"}
  run_once: true
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from hedgerow.errors import HedgerowError
from hedgerow.rollout import store
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.report import summary


class ActionModule(ActionBase):
    """``hedgerow_rollout_close``."""

    _requires_connection = False
    _VALID_ARGS = frozenset({"folder"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            state = store.close(Journal(Path(self._task.args["folder"]), pid=os.getppid()), pid=os.getppid())
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        for line in summary(state):
            self._display.display(line)
        return result | {"changed": False, "phase": state.phase, "counts": state.count()}
