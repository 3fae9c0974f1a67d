"""Refuse a version lock that cannot work, before any host is touched.

    - name: Refuse a version lock that cannot work on this fleet
      hedgerow_release_check:
        bundle: assistant@1.1.0   # optional: NAME@VERSION of the registry
      run_once: true
      tags: [always]

It looks at ``fleet_release`` and at every host of the inventory, whatever ``--limit`` says: the lock is the fleet's.
The decision is ``hedgerow.release``'s, the same as ``hedgerow release check``. Nothing is asked of a host.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from ansible.plugins.action import ActionBase

from hedgerow import paths
from hedgerow.errors import HedgerowError, UsageError
from hedgerow.inventory import Host
from hedgerow.registry.authority.session import store_of_stage
from hedgerow.registry.reference import Reference
from hedgerow.registry.store import ObjectStore
from hedgerow.registry.verify import trusted
from hedgerow.release import check, gather, refuse, solver
from hedgerow.rollout.prepare import plain


class ActionModule(ActionBase):
    """``hedgerow_release_check``."""

    _supports_check_mode = True
    _requires_connection = False
    _VALID_ARGS = frozenset({"bundle"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        inventory = str(variables.get("inventory_dir") or "the inventory")
        try:
            release = gather.lock(plain(variables.get("fleet_release")), where=f"{inventory}: group_vars/all")
            bundle = self._task.args.get("bundle")
            of = gather.combination(
                release,
                _hosts(variables),
                folder=Path(inventory),
                bundle=trusted(_store(variables), Reference.parse(bundle))[0] if bundle else None,
            )
            findings = check(of)
            for finding in findings:
                if not finding.refused:
                    self._display.display(f"allowed: {finding.what} ({finding.rule.id}: {finding.reason})")
            refuse(
                findings,
                name=release.name,
                where=f"fleet_release of {inventory}",
                next_step=f"change it, then: hedgerow release check -i {inventory}",
            )
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        return result | {
            "changed": False,
            "allowed": [finding.rule.id for finding in findings],
            "idle": solver.idle_allowances(of, findings),
        }


def _hosts(variables: dict[str, Any]) -> dict[str, Host]:
    """Every host of the inventory with the values that the rules look at."""
    names = [name for name in variables["groups"]["all"] if name != "localhost"]
    wanted = (*gather.HOST_KEYS, *gather.SOURCE_KEYS)
    found = {}
    for name in names:
        of = variables["hostvars"][name]
        values = plain({key: of.get(key) for key in wanted if of.get(key) is not None})
        try:
            found[name] = msgspec.convert(
                {
                    "name": name,
                    "address": values.get("ansible_host", name),
                    "groups": (),
                    "site": values["site"],
                    "serial": values["pi_serial"],
                    **{key: values[key] for key in ("hat", "cooling", "storage")},
                    "labels": values.get("labels", {}),
                    "emulated": values.get("emulated", False),
                    "vars": values,
                },
                Host,
            )
        except (KeyError, msgspec.ValidationError) as error:
            raise UsageError(
                f"host {name}: {error}", where="the inventory", next_step="hedgerow inventory check"
            ) from error
    return found


def _store(variables: dict[str, Any]) -> ObjectStore:
    return store_of_stage(str(variables["fleet"]), str(variables.get("registry_stage") or paths.DEFAULT_STAGE))
