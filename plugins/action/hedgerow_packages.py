"""Put the version lock's packages on hold, and bring them to its versions where that was asked, in one visit.

    - name: Hold the lock's packages
      hedgerow_packages:
        hold: [linux-image-rpi-2712]
        release: [linux-image-6.18.34+rpt-rpi-2712]
        transactions: "{{ fleet_release | hedgerow_transactions(hat, hedgerow_facts.packages) }}"
        locked: "{{ fleet_release | hedgerow_locked(hat) }}"
        free_mb: { /: 500 }

Nothing to do costs no visit. ``--check`` simulates and changes nothing. The answer has ``held``, ``released`` and
``done`` (a sentence a transaction). The host's part, and what it promises, is ``hedgerow.device.packages``.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from hedgerow import remote_script
from hedgerow.errors import HedgerowError


class ActionModule(ActionBase):
    """``hedgerow_packages``."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset({"hold", "release", "transactions", "locked", "free_mb"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        wanted = {name: self._task.args.get(name) for name in self._VALID_ARGS if self._task.args.get(name)}
        if not wanted.keys() & {"hold", "release", "transactions"}:
            return result | {"changed": False, "held": [], "released": [], "done": []}
        try:
            remote_script.require_pipelining(self._connection)
            answer: dict[str, Any] = remote_script.run(
                self._low_level_execute_command,
                "hedgerow.device.packages",
                "settle",
                host=variables["inventory_hostname"],
                python=variables.get("ansible_python_interpreter", "/usr/bin/python3"),
                check=bool(self._task.check_mode),
                **wanted,
            )
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        return result | answer
