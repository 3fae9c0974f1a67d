"""Keep what a rollout's journal says in the memory of ansible-playbook, so that its workers need not read it whole.

A worker is forked for each host and task. With this, it has the journal up to the task's start from its parent and
reads only the lines after that; without it, every one would read and fold the journal from its first line. Prints
nothing, and does nothing in playbooks that open no journal.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: hedgerow_rollout
type: aggregate
short_description: keep a rollout's journal in memory
description: Forked workers of a rollout read only what is new in its journal.
"""

_FACTS = ("rollout", "rollout_undo")
"""Facts that name a journal's folder: of hedgerow_rollout_plan and hedgerow_rollout_undo."""


class CallbackModule(CallbackBase):
    """``hedgerow_rollout``."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "hedgerow_rollout"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        super().__init__()
        self._folder: Path | None = None
        self._frozen: Path | None = None

    def v2_runner_on_ok(self, result: Any) -> None:
        facts = result.result.get("ansible_facts")
        if isinstance(facts, dict):
            for name in _FACTS:
                folder = facts[name].get("folder") if isinstance(facts.get(name), dict) else None
                self._folder = Path(folder) if folder else self._folder

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002, FBT001 - Ansible's
        if self._folder is None:
            return
        # Imported where it is needed: every playbook loads this callback.
        from hedgerow.errors import HedgerowError
        from hedgerow.rollout.journal import Journal

        try:
            Journal.shared(self._folder).advance()
            if self._frozen != self._folder:
                # Once, with the whole fleet in memory: a worker's garbage collector would touch every page of it, and
                # each would have to be copied.
                gc.freeze()
                self._frozen = self._folder
        except (HedgerowError, OSError):
            # Whoever needs the journal says what is wrong with it.
            self._folder = None
