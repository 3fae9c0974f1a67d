"""Reboot the host, wait for another boot, and fail if something was well before and is not after.

    - name: Reboot it, and wait until it serves again
      hedgerow_reboot: {within: 600}

The reboot is asked for once; whatever the connection does meanwhile, the host's boot id decides. Returns ``changed``,
``seconds`` and ``boot_id``. In check mode nothing is rebooted and it counts as changed.
"""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from hedgerow import remote_script
from hedgerow.errors import DeviceError, HedgerowError, NetworkError
from hedgerow.fleet import awaiting


class ActionModule(ActionBase):
    """``hedgerow_reboot``."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset({"within"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        host = str(variables["inventory_hostname"])
        if self._task.check_mode:
            return result | {"changed": True, "msg": "not rebooted in check mode"}
        began = time.monotonic()
        try:
            remote_script.require_pipelining(self._connection)
            before = self._call("reboot", host, variables)
            after = awaiting.until(
                lambda: self._again("state", host, variables),
                lambda answer: awaiting.settled(before, answer),
                within_s=float(self._task.args.get("within", 600)),
                what="it did not come back well",
                host=host,
            )
            if found := awaiting.worse(before, after):
                raise DeviceError("; ".join(found), where=host, next_step="systemctl --failed")
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        seconds = round(time.monotonic() - began)
        return result | {"changed": True, "seconds": seconds, "boot_id": after["boot_id"]}

    def _again(self, function: str, host: str, variables: dict[str, Any]) -> Any:
        """Ask over a new connection: the one that SSH keeps open leads to the boot that ended."""
        self._connection.reset()
        return self._call(function, host, variables)

    def _call(self, function: str, host: str, variables: dict[str, Any]) -> Any:
        try:
            return remote_script.run(
                self._low_level_execute_command,
                "hedgerow.device.restart",
                function,
                host=host,
                python=variables.get("ansible_python_interpreter", "/usr/bin/python3"),
            )
        except AnsibleConnectionFailure as error:
            raise NetworkError(f"cannot be reached: {error}") from error
