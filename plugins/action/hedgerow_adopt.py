"""Look at a Pi that already runs something (``step: look``), or write down that it was adopted (``step: finish``).

    - name: See what adopting it would change
      hedgerow_adopt: {step: look}
      register: found

``look`` changes nothing on the host. It prints a line a finding and returns ``findings`` and ``blocks``, whether one of
them has to be settled first. Decisions: ``hedgerow.lifecycle.adoption``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from hedgerow import inventory as inventories
from hedgerow import paths
from hedgerow.errors import HedgerowError
from hedgerow.lifecycle import adoption, look, record
from hedgerow.rollout import lease


class ActionModule(ActionBase):
    """``hedgerow_adopt``."""

    _supports_check_mode = True
    _requires_connection = False
    _VALID_ARGS = frozenset({"step", "accept_new_host_keys"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        step = self._task.args.get("step")
        if step not in {"look", "finish"}:
            raise AnsibleActionFail("hedgerow_adopt: step is look or finish")
        try:
            inventory = inventories.load(Path(variables["inventory_dir"]))
            host = inventory.hosts[variables["inventory_hostname"]]
            if step == "finish":
                event = record.Adopted(time=record.now(), host=host.name, by=lease.whoami(), serial=host.serial)
                if not self._task.check_mode:
                    record.append(paths.fleet_dir(inventory.fleet), event)
                return result | {"changed": True}
            accept_new = boolean(self._task.args.get("accept_new_host_keys", False))
            found = look.look(inventory, host, accept_new=accept_new)
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        for line in adoption.lines(host.name, found):
            self._display.display(line)
        return result | {"changed": False, "findings": msgspec.to_builtins(found), "blocks": adoption.blocks(found)}
