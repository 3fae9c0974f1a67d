"""Run one function of a standard-library-only module of ours on the host, as root's Python, in one visit.

    - name: Install the runtime beside the others and prove that it starts
      hedgerow_remote:
        function: hedgerow.runtime.install.install
        arguments: {archive: /var/lib/…, version: "0.1.0+…"}

The function returns a mapping with ``changed``, and ``failed`` and ``msg`` where it
refuses. It is for steps that no module knows and that a row of ``command`` tasks
would do worse: each a visit, none undone when the next fails. In check mode it is not
run and counts as changed; guard it with ``when`` as any task that changes something.
``tests/policy`` holds the modules named here to the standard library.
"""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from hedgerow import remote_script
from hedgerow.errors import HedgerowError


class ActionModule(ActionBase):
    """``hedgerow_remote``."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset({"function", "arguments"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        module, _, function = str(self._task.args.get("function", "")).rpartition(".")
        if not module.startswith("hedgerow."):
            raise AnsibleActionFail(
                "hedgerow_remote: function names one of ours, for example hedgerow.device.files.place"
            )
        if self._task.check_mode:
            return result | {"changed": True, "msg": "not run in check mode"}
        try:
            remote_script.require_pipelining(self._connection)
            answer: dict[str, Any] = remote_script.run(
                self._low_level_execute_command,
                module,
                function,
                host=variables["inventory_hostname"],
                python=variables.get("ansible_python_interpreter", "/usr/bin/python3"),
                **self._task.args.get("arguments", {}),
            )
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        return result | answer
