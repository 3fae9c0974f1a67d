"""End a rollout in order: tell whom the policy names, journal it, seal its evidence, sum up, give the lease back, and
keep hosts out that went wrong, where the policy says so.

- name: Close the journal and sum up
  hedgerow_rollout_close: {folder: "{{ rollout.folder }}"}
  run_once: true

``only_ahead``: the run staged hosts and gave nobody a turn. The rollout stays open, for a run that goes on with it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from hedgerow.errors import HedgerowError
from hedgerow.rollout import decide, evidence, holds, lease, store
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.messenger import Messenger
from hedgerow.rollout.prepare import plain
from hedgerow.rollout.report import summary


class ActionModule(ActionBase):
    """``hedgerow_rollout_close``."""

    _requires_connection = False
    _VALID_ARGS = frozenset({"folder", "only_ahead"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        journal = Journal.shared(Path(plain(self._task.args["folder"])), pid=os.getppid())
        if self._task.args.get("only_ahead") and decide.stopped(journal.read()) is None:
            return result | self._leave_open(journal)
        try:
            Messenger(journal, self._display.display).tell_end()
            # Before the end is journaled: cut off in between, it is done when the same command goes on.
            rollouts, name = journal.folder.parent, journal.folder.name
            kept_out = holds.quarantine_failed(rollouts, name, journal.read(), datetime.now(UTC))
            state = store.close(journal, pid=os.getppid())
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        self._collect(journal.folder)
        for line in [*summary(state), *(f"  {each.host}: in quarantine until {each.until}" for each in kept_out)]:
            self._display.display(line)
        return result | {"changed": False, "phase": state.phase, "counts": state.count()}

    def _leave_open(self, journal: Journal) -> dict[str, Any]:
        """Give the lease back, and nothing else: nobody is told of an end, for there is none."""
        lease.leave(journal.folder.parent, pid=journal.writer)
        state = journal.read()
        for line in summary(state):
            self._display.display(line)
        return {"changed": False, "phase": state.phase, "counts": state.count()}

    def _collect(self, folder: Path) -> None:
        """Seal the evidence; a disk that is full takes nothing from what hosts serve, and is told."""
        try:
            self._display.display(f"evidence: {evidence.collect(folder)}")
        except (HedgerowError, OSError) as error:
            self._display.warning(f"no evidence was sealed: {error}; next: hedgerow rollout report --evidence FILE")
