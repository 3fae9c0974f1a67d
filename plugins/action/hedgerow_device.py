"""Run one ``hedgerow-device`` command on a host and return what it says.

    - name: Serve the version before
      hedgerow_device:
        command: [revert, --reason, slow since noon]

A command over the connection: no module is copied. Returns the command's JSON with its
``changed``; its own error is the task's message. Check mode runs nothing and says what
the host serves.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from hedgerow.errors import HedgerowError
from hedgerow.rollout.remote import NO_TERMINAL, Completed, command_line, parse_answer, parse_report


class ActionModule(ActionBase):
    """``hedgerow_device``."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset({"command", "timeout_s"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        command = self._task.args.get("command")
        if not isinstance(command, list) or not command:
            raise AnsibleActionFail("hedgerow_device: command is a list of words, for example [revert, --reason, slow]")
        words = [str(word) for word in command]
        host = str(variables["inventory_hostname"])
        try:
            if self._task.check_mode:
                report = parse_report(self._run(["report"]), host=host)
                return result | {
                    "changed": True,
                    "msg": f"serves {report.reference or 'nothing'}; would run: hedgerow-device {shlex.join(words)}",
                }
            return result | parse_answer(self._run(words), host=host, verb=words[0])
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}

    def _run(self, words: Sequence[str]) -> Completed:
        timeout_s = int(self._task.args.get("timeout_s", 60))
        command = command_line([*words, "--json"], timeout_s=timeout_s)
        done = self._low_level_execute_command(command, in_data=NO_TERMINAL)
        return Completed(code=int(done["rc"]), stdout=str(done["stdout"]), stderr=str(done["stderr"]))
