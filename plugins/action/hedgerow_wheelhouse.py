"""Find, or build, the runtime archive for this host's Python and architecture. The host is not visited.

    - name: Find this tree's runtime for the host, and build it if nobody has
      hedgerow_wheelhouse:
        python: "3.13"
        architecture: aarch64
      register: _inference_runtime_result_wheelhouse

Returns ``version``, ``archive`` (a path on the controller), ``sha256`` and ``size``.
It never counts as changed: what it makes is a cache of the controller. In check mode
nothing is built; ``archive`` is empty where it would have been.
"""

from __future__ import annotations

from typing import Any

import msgspec
from ansible.plugins.action import ActionBase

from hedgerow.errors import HedgerowError
from hedgerow.runtime import wheelhouse
from hedgerow.runtime.target import Target


class ActionModule(ActionBase):
    """``hedgerow_wheelhouse``."""

    _supports_check_mode = True
    _requires_connection = False
    _VALID_ARGS = frozenset({"python", "architecture"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            target = Target(str(self._task.args["python"]), str(self._task.args["architecture"]))
            if self._task.check_mode:
                version, _ = wheelhouse.describe(target)
                return result | {"changed": False, "version": version, "archive": "", "sha256": "", "size": 0}
            house, _ = wheelhouse.build(target)
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        return result | {"changed": False, **msgspec.to_builtins(house)}
