"""Find, or build, the runtime archive for this host's Python, architecture and extras. The host is not visited.

    - name: Find this tree's runtime for the host, and build it if nobody has
      hedgerow_wheelhouse:
        python: "3.13"
        architecture: aarch64
        extras: [traces]
      register: _inference_runtime_result_wheelhouse

Returns ``version``, ``archive`` (a path on the controller), ``sha256``, ``size``, and
``smoke_imports``: modules that the extras must let the runtime import.
It never counts as changed: what it makes is a cache of the controller. In check mode
nothing is built; ``archive`` is empty where it would have been.
"""

from __future__ import annotations

from typing import Any

import msgspec
from ansible.plugins.action import ActionBase

from hedgerow.errors import HedgerowError
from hedgerow.runtime import extras, wheelhouse
from hedgerow.runtime.target import Target


class ActionModule(ActionBase):
    """``hedgerow_wheelhouse``."""

    _supports_check_mode = True
    _requires_connection = False
    _VALID_ARGS = frozenset({"python", "architecture", "extras"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            target = Target(str(self._task.args["python"]), str(self._task.args["architecture"]))
            wanted = extras.chosen(self._task.args.get("extras"), where=extras.VARIABLE)
            result |= {"changed": False, "smoke_imports": extras.smoke_imports(wanted)}
            if self._task.check_mode:
                version, _ = wheelhouse.describe(target, extras=wanted)
                return result | {"version": version, "archive": "", "sha256": "", "size": 0}
            house, _ = wheelhouse.build(target, extras=wanted)
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        return {**result, **msgspec.to_builtins(house)}
