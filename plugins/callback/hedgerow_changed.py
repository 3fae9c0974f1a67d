"""Write down which tasks changed which hosts, so that a check run can be compared with the real one after it.

Does nothing unless Molecule runs the playbook. ``check.json`` is what ``--check`` promised, ``run.json`` what the first
real run after it did, in Molecule's folder of the scenario: sorted lists of ``[host, task]``, ``changed`` and, of a
check run, ``uncertain`` (what a package's own scripts may do first, such as starting its service).
``molecule/default/promises/test_check_mode.py`` holds one to the other.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: hedgerow_changed
type: aggregate
short_description: write down which tasks changed which hosts
description: For Molecule's scenarios; silent everywhere else.
"""


class CallbackModule(CallbackBase):
    """``hedgerow_changed``."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "hedgerow_changed"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        folder = os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY")
        self.disabled = folder is None
        self._folder = Path(folder or "/nonexistent")
        self._changed: set[tuple[str, str]] = set()
        self._uncertain: set[tuple[str, str]] = set()
        self._playbook = ""

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._playbook = Path(playbook._file_name).name  # noqa: SLF001 - callbacks have no other way to know

    def v2_runner_on_ok(self, result: Any) -> None:
        # The keyword's value where a task has one, else the command line's.
        acted_in_check = bool(context.CLIARGS.get("check")) and result.task.check_mode is False
        if result.result.get("changed", False) and not acted_in_check:
            found = self._uncertain if result.result.get("uncertain", False) else self._changed
            found.add((result.host.get_name(), result.task.get_name()))

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002 - the name is Ansible's
        """At the end. Idempotence is a second real run: it must not overwrite what the first one did."""
        if self._playbook not in {"converge.yml", "site.yml"}:
            return
        promised, done = self._folder / "check.json", self._folder / "run.json"
        checking = bool(context.CLIARGS.get("check"))
        if not checking and done.exists() and done.stat().st_mtime_ns > promised.stat().st_mtime_ns:
            return
        text = json.dumps({"changed": sorted(self._changed), "uncertain": sorted(self._uncertain)})
        (promised if checking else done).write_text(text, encoding="utf-8")
