"""One step of one host's turn in a rollout.

    - name: Gate it on its health report and on a question of its own
      hedgerow_rollout: {step: gate, folder: "{{ rollout.folder }}"}

``step`` is ``stage_ahead``, ``preflight``, ``stage``, ``drain``, ``activate``, ``gate``, ``drill``, ``confirm``,
``revert`` (with ``reason``), ``undrain``, ``undo`` or ``outcome``. What each does, and what it promises, stands in
``hedgerow.rollout.steps``; here is only how a host is reached: ``hedgerow-device``
over Ansible's connection (a command, no module is copied), the server over mutual TLS.

Returns ``go`` (false: this host's turn is over) and ``msg``. Only ``activate``,
``drain``, ``gate``, ``drill`` and ``confirm`` fail, for their rescue; a host that ended badly fails at
``outcome``, so that one bad host in a wave of its own does not end the play. ``outcome`` with
``wanted: back`` fails only where a host is not back on the version before. ``host`` names the host of a
task that is delegated to it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from hedgerow.errors import HedgerowError, NetworkError
from hedgerow.fleet import access
from hedgerow.fleet.endpoint import DeviceClient
from hedgerow.identity.profiles import Profile
from hedgerow.rollout import requests
from hedgerow.rollout.events import GOOD, Outcome, State
from hedgerow.rollout.gate.watcher import HttpsWatcher
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.prepare import plain
from hedgerow.rollout.remote import NO_TERMINAL, Completed, command_line
from hedgerow.rollout.steps import HostSteps, Step

_STEPS = (
    "stage_ahead",
    "preflight",
    "stage",
    "drain",
    "activate",
    "gate",
    "drill",
    "confirm",
    "revert",
    "undrain",
    "undo",
    "outcome",
)


class ActionModule(ActionBase):
    """``hedgerow_rollout``."""

    _VALID_ARGS = frozenset({"step", "folder", "reason", "wanted", "host"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        name = self._task.args.get("step")
        if name not in _STEPS:
            raise AnsibleActionFail(f"hedgerow_rollout: step is one of {', '.join(_STEPS)}, not {name!r}")
        # ``host`` stands where a task is delegated: the journal knows hosts by their own names.
        host = plain(self._task.args.get("host") or variables["inventory_hostname"])
        journal = Journal.shared(Path(plain(self._task.args["folder"])), pid=os.getppid())
        try:
            if name == "outcome":
                return result | _outcome(journal.read(), host, wanted=self._task.args.get("wanted", "release"))
            approvers = plain(variables.get("rollout_approvers") or {})
            with ExitStack() as open_clients:

                def watcher(named: str = host) -> HttpsWatcher:
                    of = variables if named == variables["inventory_hostname"] else variables["hostvars"][named]
                    return HttpsWatcher(open_clients.enter_context(_client(of)))

                steps = HostSteps(
                    host,
                    journal,
                    self._device,
                    watcher,
                    attend=partial(requests.take, journal, approvers),
                    peers=watcher,
                    labels=_labels(variables),
                )
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


def _labels(variables: dict[str, Any]) -> dict[str, str]:
    """What a policy's queries may say of the host."""
    return {"address": plain(variables["ansible_host"])} | {key: plain(variables[key]) for key in ("site", "fleet")}


def _outcome(state: State, host: str, *, wanted: str) -> dict[str, Any]:
    """Say in Ansible's own terms how the host came out, so that PLAY RECAP and the exit code are true."""
    known = state.hosts[host]
    if known.outcome is None:
        # Where nothing else says that hosts are missing, those that never had their turn do.
        alone = wanted == "release" and all(each in GOOD for each, number in state.outcomes.items() if number)
        return {"changed": False, "failed": alone, "msg": "not started"}
    message = f"{known.outcome}: {known.reason}"
    if known.outcome is Outcome.UNREACHABLE:
        return {"changed": False, "unreachable": wanted == "release", "msg": message}
    if wanted == "back":
        return {"changed": False, "failed": known.outcome in {Outcome.LOST, Outcome.KEPT}, "msg": message}
    return {"changed": False, "failed": known.outcome not in GOOD, "msg": message}
