"""Have systemd units run and start at boot, asking the host only where they do not yet.

    - name: Run the server, now and at every boot
      hedgerow_unit:
        name: hedgerow-server.service
        state: started
        enabled: true
        newer_than: "{{ _inference_runtime_result_files.settled }}"

The options are those of ``systemd_service``, which does the work. What
``hedgerow_facts`` has read already decides whether there is any: a unit that is as
wanted costs no visit. ``state: restarted`` and ``reloaded`` (handlers) always go.

``newer_than`` (path → time) restarts a unit that runs since before one of these files
was written. A run that is cut off between a file and its handler would leave the old
process for ever: the next run finds the file as wanted and notifies nobody.

``confined_by`` (an AppArmor profile) restarts a unit that runs without it. Profiles that are unloaded let go of their
processes for good: loaded again, they confine only what starts from then on.

In check mode a unit that does not exist yet, because its package or file would have come
in this run, counts as changed; ``systemd_service`` fails there. The answer says ``uncertain`` beside it: Debian's
packages start their own services. That is also why ``installed_now`` (true where the unit's package comes in this run)
makes a unit that is to be stopped count as changed: one that does not exist is else as wanted.
"""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

_ENABLED = {"enabled", "enabled-runtime", "static", "generated", "indirect", "alias"}


class ActionModule(ActionBase):
    """``hedgerow_unit``."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        args = dict(self._task.args)
        if "name" not in args:
            raise AnsibleActionFail("hedgerow_unit: name is missing")
        units = variables.get("ansible_facts", {}).get("hedgerow_facts", {}).get("state", {}).get("units")
        if units is None:
            raise AnsibleActionFail("hedgerow_unit: no hedgerow_facts; let the play begin with the role preflight")
        unit = units.get(args["name"])
        old = older_than(
            unit, args.pop("newer_than", {}), now=variables["ansible_facts"]["hedgerow_facts"]["state"]["time"]
        )
        if unconfined(unit, args.pop("confined_by", None)) or old:
            args["state"] = "restarted"
        comes = boolean(args.pop("installed_now", False)) and self._task.check_mode and unit is None
        if not comes and as_wanted(unit, state=args.get("state"), enabled=args.get("enabled")):
            return result | {"changed": False, "name": args["name"]}
        if self._task.check_mode and unit is None:
            return result | {
                "changed": True,
                "uncertain": True,
                "name": args["name"],
                "msg": "the unit would exist by then",
            }
        # Whoever asks for a unit may have written it a moment ago.
        answer: dict[str, Any] = self._execute_module(
            "ansible.builtin.systemd_service", module_args={"daemon_reload": True, **args}, task_vars=variables
        )
        return result | answer


def older_than(unit: dict[str, Any] | None, files: dict[str, float], *, now: float) -> bool:
    """Whether the unit runs since before one of ``files`` was written.

    Times to come are passed over: a Pi without a clock battery may have written a
    file before it knew the time, and would be restarted by every run.
    """
    since = (unit or {}).get("since")
    # systemctl tells whole seconds.
    return since is not None and any(since + 1 <= changed <= now for changed in files.values())


def unconfined(unit: dict[str, Any] | None, profile: str | None) -> bool:
    """Whether the unit runs under another AppArmor label than ``profile``'s; its mode is the profile's own affair."""
    label = (unit or {}).get("confined")
    return bool(profile) and label is not None and label.rpartition(" (")[0] != profile


def as_wanted(unit: dict[str, Any] | None, *, state: str | None, enabled: bool | None) -> bool:
    """Whether what was read already satisfies ``state`` and ``enabled``.

    ``unit`` is None where systemd does not know it: wanted stopped and disabled, it is as wanted.
    """
    if state in {"restarted", "reloaded"}:
        return False
    if unit is None:
        return state in {None, "stopped"} and not enabled
    runs = unit["active"] in {"active", "reloading", "activating"}
    state_holds = state is None or runs == (state == "started")
    enabled_holds = enabled is None or (unit["enabled"] in _ENABLED) == enabled
    return state_holds and enabled_holds
