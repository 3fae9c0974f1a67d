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
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

from hedgerow import remote_script
from hedgerow.errors import DeviceError, HedgerowError, NetworkError
from hedgerow.fleet import access
from hedgerow.fleet.endpoint import DeviceClient
from hedgerow.identity.profiles import Profile
from hedgerow.rollout import configuration, requests
from hedgerow.rollout.delivery import Delivery
from hedgerow.rollout.events import GOOD, Outcome, State
from hedgerow.rollout.gate.watcher import HttpsWatcher
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.prepare import plain
from hedgerow.rollout.remote import CONFIRMED_PROGRAM, NO_TERMINAL, PROGRAM, Completed, command_line
from hedgerow.rollout.steps import HostSteps, Step
from hedgerow.runtime import extras
from hedgerow.runtime.target import Target

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
    _program = PROGRAM

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

                self._program = PROGRAM if journal.read().plan.release.kind == "model" else CONFIRMED_PROGRAM
                steps = HostSteps(
                    host,
                    journal,
                    self.device,
                    watcher,
                    attend=partial(requests.take, journal, approvers),
                    peers=watcher,
                    labels=_labels(variables),
                    deliver=self._delivery(host, variables),
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

    def _delivery(self, host: str, variables: dict[str, Any]) -> Delivery:
        keys = (*configuration.FACTS, "inference_runtime_smoke_imports", extras.VARIABLE)
        return Delivery(host, self, plain({key: self._templar.template(variables.get(key)) for key in keys}))

    # -- hedgerow.rollout.delivery.Line ---------------------------------------

    def device(self, arguments: Sequence[str], *, timeout_s: int, stdin: bytes = NO_TERMINAL) -> Completed:
        return self._command(command_line(arguments, timeout_s=timeout_s, program=self._program), stdin)

    def target(self) -> Target:
        asked = "import platform; print(*platform.python_version_tuple()[:2], platform.machine())"
        done = self._command(f"/usr/bin/python3 -c {shlex.quote(asked)}", NO_TERMINAL)
        words = done.stdout.split()[-3:]
        if done.code != 0 or len(words) != 3:  # noqa: PLR2004 - as many as were asked for
            raise DeviceError("it does not tell its Python", where=done.stderr.strip()[-200:])
        return Target(f"{words[0]}.{words[1]}", words[2])

    def put(self, local: str) -> str:
        shell = self._connection._shell  # noqa: SLF001 - as Ansible's own plugins copy
        try:
            # Removed by the installation, or by Ansible with the task's other temporary files.
            remote: str = self._transfer_file(local, shell.join_path(self._make_tmp_path(), "runtime.tar"))
        except AnsibleConnectionFailure as error:
            raise NetworkError(f"cannot be reached: {error}") from error
        except AnsibleError as error:
            raise DeviceError(f"the runtime could not be copied to it: {error}") from error
        return remote

    def remote(self, module: str, function: str, **arguments: Any) -> dict[str, Any]:
        host = str(self._task.args.get("host") or self._play_context.remote_addr)
        try:
            answer: dict[str, Any] = remote_script.run(
                self._low_level_execute_command, module, function, host=host, **arguments
            )
        except AnsibleConnectionFailure as error:
            raise NetworkError(f"cannot be reached: {error}") from error
        return answer

    def _command(self, command: str, stdin: bytes) -> Completed:
        try:
            done = self._low_level_execute_command(command, in_data=stdin)
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
