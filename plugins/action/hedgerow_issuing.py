"""Visit the gateway that holds its site's issuing CA: bring its request, list and logs, answer what the root signed.

    - name: Ask what the root has signed for this key, and bring the CA's logs to the controller
      hedgerow_issuing:
        fleet: "{{ fleet }}"
        site: "{{ site }}"
        directory: /var/lib/hedgerow/issuing
        state: /var/lib/hedgerow/renewal
      register: _renewal_service_result_issuing

Returns ``certificate`` (PEM, to be placed as ``ca.crt``; empty where the root has signed
none for this key), ``request`` (where on the controller it lies), ``next_step`` (what to
type then) and ``brought``. The key stays on the gateway, and nothing is signed here: the root is offline. It
never counts as changed: what it writes is the controller's copy. In check mode it writes nothing.
"""

from __future__ import annotations

import functools
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from hedgerow import paths, remote_script
from hedgerow.errors import HedgerowError
from hedgerow.identity.authority import gateways

_NEEDED = ("fleet", "site", "directory", "state")


class ActionModule(ActionBase):
    """``hedgerow_issuing``."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset(_NEEDED)

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        args = self._task.args
        missing = [key for key in _NEEDED if not args.get(key)]
        if missing:
            raise AnsibleActionFail(f"hedgerow_issuing: {', '.join(missing)} missing")
        try:
            remote_script.require_pipelining(self._connection)
            done = gateways.exchange(
                functools.partial(self._call, variables),
                paths.fleet_dir(str(args["fleet"])),
                str(args["site"]),
                directory=str(args["directory"]),
                state=str(args["state"]),
                check=bool(self._task.check_mode),
            )
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        return result | {
            "changed": False,
            "certificate": done.certificate or "",
            "request": str(done.request),
            "next_step": done.next_step or "",
            "brought": list(done.brought),
        }

    def _call(self, variables: dict[str, Any], function: str, /, **arguments: Any) -> Any:
        return remote_script.run(
            self._low_level_execute_command,
            "hedgerow.device.site_ca",
            function,
            host=variables["inventory_hostname"],
            python=variables.get("ansible_python_interpreter", "/usr/bin/python3"),
            **arguments,
        )
