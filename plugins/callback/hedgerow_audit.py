"""Write each playbook run into the fleet's audit log: who, which hosts, tags, check mode; at the end, what came of it.

- The line that a run begins is on the disk before its first task. Where it cannot be written, the run is refused: what
  nobody can trace back is not done. A check run changes nothing and only complains.
- The end's line names hosts and counts. Without one, the run was killed.
- Neither variables nor their names come into the log, and nothing that a task returned.
- A fleet without state on this controller (a syntax check elsewhere, a test's inventory) gets no log.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: hedgerow_audit
type: aggregate
short_description: write playbook runs into the fleet's audit log
description: Who ran which playbook on which hosts, and what came of it; never variables.
"""

_COUNTS = ("ok", "changed", "unreachable", "failures", "skipped", "rescued", "ignored")


class CallbackModule(CallbackBase):
    """``hedgerow_audit``."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "hedgerow_audit"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        super().__init__()
        self._playbook = ""
        self._run = ""
        self._folder: Path | None = None

    def v2_playbook_on_start(self, playbook: Any) -> None:
        # One process may be given several playbooks; each is a run of its own.
        self._playbook = Path(playbook._file_name).name  # noqa: SLF001 - callbacks have no other way to know
        self._run, self._folder = "", None

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if self._run:
            return
        self._run = uuid.uuid4().hex[:12]
        manager = play.get_variable_manager()
        hosts = manager._inventory.get_hosts()  # noqa: SLF001 - same
        fleet = next((name for host in hosts[:1] if (name := manager.get_vars(host=host).get("fleet"))), None)
        if not isinstance(fleet, str):
            return
        # Imported where it is needed: every playbook loads this callback.
        from hedgerow import audit, paths
        from hedgerow.audit.events import RunStarted
        from hedgerow.audit.log import timestamp
        from hedgerow.errors import HedgerowError
        from hedgerow.rollout import lease

        try:
            folder = paths.fleet_dir(str(fleet))
        except HedgerowError:
            return
        if not folder.is_dir():
            return
        check = bool(context.CLIARGS.get("check"))
        event = RunStarted(
            at=timestamp(),
            by=lease.whoami(),
            run=self._run,
            playbook=self._playbook,
            inventory=[os.path.relpath(source) for source in _sources()],
            hosts=[str(host.name) for host in hosts],
            limit=str(context.CLIARGS["subset"]) if context.CLIARGS.get("subset") else None,
            tags=[str(tag) for tag in context.CLIARGS.get("tags") or () if tag != "all"],
            skip_tags=[str(tag) for tag in context.CLIARGS.get("skip_tags") or ()],
            check=check,
        )
        try:
            audit.record(folder, event)
        except HedgerowError as error:
            if not check:
                self._display.error(f"the run is refused, because nobody could trace it back later: {error}")
                # An exception of a callback is a warning to Ansible, and the run would go on.
                raise SystemExit(1) from error
            self._display.warning(f"the audit log does not know of this check run: {error}")
            return
        self._folder = folder

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """At the end of a playbook. The run is over: what cannot be written is said, and the begin stands."""
        if self._folder is None:
            return
        from hedgerow import audit
        from hedgerow.audit.events import RunEnded
        from hedgerow.audit.log import timestamp
        from hedgerow.errors import HedgerowError
        from hedgerow.rollout import lease

        found = {str(host): stats.summarize(host) for host in sorted(stats.processed)}
        event = RunEnded(
            at=timestamp(),
            by=lease.whoami(),
            run=self._run,
            counts={name: sum(int(one[name]) for one in found.values()) for name in _COUNTS},
            changed=[host for host, one in found.items() if one["changed"]],
            failed=[host for host, one in found.items() if one["failures"]],
            unreachable=[host for host, one in found.items() if one["unreachable"]],
        )
        try:
            audit.record(self._folder, event)
            audit.collect(self._folder, by=lease.whoami())
        except (HedgerowError, OSError) as error:
            self._display.error(f"the end of this run is not in the audit log: {error}")


def _sources() -> list[str]:
    """Inventories as they were named; one of host names on the command line is data, not a path, and stays out."""
    named = context.CLIARGS.get("inventory") or ()
    return [str(source) for source in named if "," not in str(source)]
