"""Put ``/var/lib/hedgerow`` on a disk of its own, once: format an empty one, move the content, bind its key to the TPM.

    - name: Move the data to its partition
      hedgerow_data_partition:
        plan: "{{ _storage_plan.data }}"
        fleet: "{{ fleet }}"

``plan`` is what ``hedgerow.converge.storage`` decided. The recovery key of an encrypted disk stands in a file on the
controller (0600) before anything is encrypted; it travels on standard input and appears in no argument, result or
process list. Returns ``steps`` and ``recovery_key_file``. In check mode nothing is done and it counts as changed.
The host's part, and what it promises, is ``hedgerow.device.partition``.
"""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from hedgerow import recovery_key, remote_script
from hedgerow.errors import HedgerowError


class ActionModule(ActionBase):
    """``hedgerow_data_partition``."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset({"plan", "fleet"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        plan, fleet = self._task.args.get("plan"), self._task.args.get("fleet")
        if not isinstance(plan, dict) or not fleet:
            raise AnsibleActionFail("hedgerow_data_partition: plan and fleet are missing")
        if self._task.check_mode:
            would = f"{plan['device']} would be mounted on /var/lib/hedgerow with all content moved to it"
            return result | {"changed": True, "steps": [would]}
        host = variables["inventory_hostname"]
        file = recovery_key.path(str(fleet), host)
        try:
            remote_script.require_pipelining(self._connection)
            answer: dict[str, Any] = remote_script.run(
                self._low_level_execute_command,
                "hedgerow.device.partition",
                "prepare",
                host=host,
                python=variables.get("ansible_python_interpreter", "/usr/bin/python3"),
                device=plan["device"],
                may_format=plan["may_format"],
                encrypt=_encryption(plan, file),
            )
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        if plan["encrypted"]:
            answer["recovery_key_file"] = str(file)
        return result | answer


def _encryption(plan: dict[str, Any], file: Any) -> dict[str, Any] | None:
    """What the host needs to encrypt or bind; a disk that is only opened needs no recovery key."""
    if not plan["encrypted"]:
        return None
    key = ""
    if plan["may_format"]:
        key = recovery_key.ensure(file)
    elif plan["rebind"]:
        key = recovery_key.load(file)
    return {"recovery_key": key, "pcrs": plan["pcrs"], "enrol": plan["rebind"]}
