"""Read a host once: its board, its system and what is installed, in one SSH round trip.

DOCUMENTATION (Ansible reads nothing here; people do)

  - name: Read the host, once
    hedgerow_facts:

Sets ``ansible_facts.hedgerow_facts`` (roles say ``hedgerow_facts``, see
``roles/preflight/vars``): ``hardware`` is what ``hedgerow.device.hardware.read``
returns, ``state`` is ``hedgerow.device.state.read`` with ``hedgerow.device.storage.read``
as its ``storage``, ``packages`` is
``state.packages`` by its short name, ``npu`` is ``hedgerow.device.npu.read`` (the HAT's driver stack), and
``clock_skew_s`` is how far the host's
clock is ahead of the controller's. Replaces ``gather_facts``: a setup run costs a
host more than a second and knows nothing of HATs, holds or bundles.
"""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase

from hedgerow import remote_script
from hedgerow.errors import HedgerowError


class ActionModule(ActionBase):
    """``hedgerow_facts``: no options; the same in check mode, since it only reads."""

    _supports_check_mode = True
    _VALID_ARGS: frozenset[str] = frozenset()

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        asked = time.time()
        try:
            remote_script.require_pipelining(self._connection)
            hardware, state, storage, npu = remote_script.run_all(
                self._low_level_execute_command,
                [
                    ("hedgerow.device.hardware", "read", {}),
                    ("hedgerow.device.state", "read", {}),
                    ("hedgerow.device.storage", "read", {}),
                    ("hedgerow.device.npu", "read", {}),
                ],
                host=variables["inventory_hostname"],
                python=variables.get("ansible_python_interpreter", "/usr/bin/python3"),
            )
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        answered = time.time()
        facts = {
            "hardware": hardware,
            "state": state | {"storage": storage},
            "packages": state["packages"],
            "npu": npu,
            # The reading happened somewhere between question and answer: zero if that explains the difference.
            "clock_skew_s": round(min(0.0, state["time"] - asked) + max(0.0, state["time"] - answered), 3),
        }
        return result | {"changed": False, "ansible_facts": {"hedgerow_facts": facts}}
