"""Boot the staged trial once and wait until the host has kept it or come back (``hedgerow.device.boot_trial``).

    - name: Boot it once, and wait for the host's own verdict
      hedgerow_boot_trial: {within: 900}

Nothing here confirms anything: were this controller gone, the host would decide the same. Fails where the host came
back to its old configuration, with its reason. In check mode nothing is booted and it counts as changed.
"""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from hedgerow import remote_script
from hedgerow.errors import DeviceError, HedgerowError, NetworkError
from hedgerow.fleet import awaiting


class ActionModule(ActionBase):
    """``hedgerow_boot_trial``."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset({"within"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        host = str(variables["inventory_hostname"])
        if self._task.check_mode:
            return result | {"changed": True, "msg": "not booted in check mode"}
        try:
            remote_script.require_pipelining(self._connection)
            armed = self._call("arm", host, variables)
            answer = awaiting.until(
                lambda: self._again("report", host, variables),
                lambda answer: answer["trial"] is None and (answer["result"] or {}).get("boot_id") != armed["boot_id"],
                within_s=float(self._task.args.get("within", 900)),
                what="it did not decide on its trial",
                host=host,
            )
            outcome = answer["result"] or {"outcome": "unknown", "reason": "the host has no note of a trial"}
            if outcome["outcome"] != "committed":
                raise DeviceError(
                    f"the trial was not kept: {outcome['reason']}",
                    where=host,
                    next_step="the old configuration runs; correct the change, then run the same command again",
                )
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        return result | {"changed": True, "msg": "booted once, well, and kept", "id": outcome["id"]}

    def _again(self, function: str, host: str, variables: dict[str, Any]) -> Any:
        """Ask over a new connection: the one that SSH keeps open leads to the boot that ended."""
        self._connection.reset()
        return self._call(function, host, variables)

    def _call(self, function: str, host: str, variables: dict[str, Any]) -> Any:
        try:
            return remote_script.run(
                self._low_level_execute_command,
                "hedgerow.device.boot_trial",
                function,
                host=host,
                python=variables.get("ansible_python_interpreter", "/usr/bin/python3"),
            )
        except AnsibleConnectionFailure as error:
            raise NetworkError(f"cannot be reached: {error}") from error
