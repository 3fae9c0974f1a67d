"""One step of one host's turn in a rollout.

    - name: Gate it on its health report and on a question of its own
      hedgerow_rollout: {step: gate, folder: "{{ rollout.folder }}"}

``step`` is ``preflight``, ``activate``, ``gate``, ``confirm``, ``revert`` (with
``reason``) or ``outcome``. What each does, and what it promises, stands in
``hedgerow.rollout.steps``; here is only how a host is reached: ``hedgerow-device``
over Ansible's connection (a command, no module is copied), the server over mutual TLS.

Returns ``go`` (false: this host's turn is over) and ``msg``. Only ``activate``,
``gate`` and ``confirm`` fail, for their rescue; a host that ended badly fails at
``outcome``, so that one bad host in a wave of its own does not end the play.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from hedgerow.errors import HedgerowError, NetworkError
from hedgerow.fleet import access
from hedgerow.fleet.endpoint import DeviceClient
from hedgerow.identity.profiles import Profile
from hedgerow.rollout.events import FAILED, Outcome
from hedgerow.rollout.gate.watcher import HttpsWatcher
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.prepare import plain
from hedgerow.rollout.remote import NO_TERMINAL, Completed, command_line
from hedgerow.rollout.steps import HostSteps, Step

_STEPS = ("preflight", "activate", "gate", "confirm", "revert", "outcome")


class ActionModule(ActionBase):
    """``hedgerow_rollout``."""

    _VALID_ARGS = frozenset({"step", "folder", "reason"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        name = self._task.args.get("step")
        if name not in _STEPS:
            raise AnsibleActionFail(f"hedgerow_rollout: step is one of {', '.join(_STEPS)}, not {name!r}")
        host = plain(variables["inventory_hostname"])
        journal = Journal(Path(plain(self._task.args["folder"])), pid=os.getppid())
        try:
            if name == "outcome":
                return result | _outcome(journal, host)
            with _client(variables) as client:
                steps = HostSteps(host, journal, self._device, lambda: HttpsWatcher(client))
                step = self._take(steps, name)
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        said = {"changed": step.changed, "failed": step.failed, "go": step.go, "msg": step.msg}
        # Ansible shows a result that is neither changed nor failed only with -v; what a rollout does should be seen.
        return result | said | {"_ansible_verbose_always": True}

    def _take(self, steps: HostSteps, name: str) -> Step:
        if name == "revert":
            return steps.revert(plain(self._task.args.get("reason")) or "the rollout asked for it")
        step: Step = getattr(steps, name)()
        return step

    def _device(self, arguments: Sequence[str], *, timeout_s: int) -> Completed:
        try:
            done = self._low_level_execute_command(command_line(arguments, timeout_s=timeout_s), in_data=NO_TERMINAL)
        except AnsibleConnectionFailure as error:
            raise NetworkError(f"cannot be reached: {error}") from error
        return Completed(code=int(done["rc"]), stdout=str(done["stdout"]), stderr=str(done["stderr"]))


def _client(variables: dict[str, Any]) -> DeviceClient:
    keys = ("inventory_hostname", "ansible_host", "site", "fleet")
    host, address, site, fleet = (plain(variables[key]) for key in keys)
    return DeviceClient(access.endpoint(host, address, site=site, fleet=fleet), access.context(fleet, Profile.OPERATOR))


def _outcome(journal: Journal, host: str) -> dict[str, Any]:
    """Say in Ansible's own terms how the host came out, so that PLAY RECAP and the exit code are true."""
    state = journal.state()
    known = None if state is None else state.hosts.get(host)
    if known is None or known.outcome is None:
        return {"changed": False, "msg": "not started"}
    message = f"{known.outcome}: {known.reason}"
    if known.outcome is Outcome.UNREACHABLE:
        return {"changed": False, "unreachable": True, "msg": message}
    return {"changed": False, "failed": known.outcome in FAILED, "msg": message}
