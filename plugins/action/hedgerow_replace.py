"""One step of a board's exchange: ``begin`` or ``finish``; the playbook converges between them.

    - name: Revoke the board that left and forget its host key
      hedgerow_replace: {step: begin, old_serial: …, new_serial: …}
      register: replacement

``begin`` holds both serials to the inventory and to what the CA issued, revokes the old one, forgets the host key that
is pinned for the address (once: a run that was cut off goes on), and returns ``restore``, the bundle that the old board
served, or None with ``why``. ``finish`` writes down that it is done. Decisions: ``hedgerow.lifecycle.replacement``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from hedgerow import inventory as inventories
from hedgerow import paths
from hedgerow.errors import HedgerowError, UsageError
from hedgerow.first_contact import KnownHosts
from hedgerow.identity import issued
from hedgerow.identity.authority import opening
from hedgerow.inventory import Host, Inventory
from hedgerow.lifecycle import record, replacement
from hedgerow.registry.reference import Reference
from hedgerow.rollout import lease, release, store
from hedgerow.rollout.prepare import plain


class ActionModule(ActionBase):
    """``hedgerow_replace``."""

    _supports_check_mode = True
    _requires_connection = False
    _VALID_ARGS = frozenset({"step", "old_serial", "new_serial", "restore", "restored"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        self._args: dict[str, Any] = plain(self._task.args)  # without Ansible's tags, which no encoder knows
        step = self._args.get("step")
        if step not in {"begin", "finish"}:
            raise AnsibleActionFail("hedgerow_replace: step is begin or finish")
        try:
            if len(variables["ansible_play_hosts_all"]) != 1:
                raise UsageError(
                    "one board is exchanged at a time",
                    where=f"{len(variables['ansible_play_hosts_all'])} hosts",
                    next_step="name it: --limit HOST",
                )
            inventory = inventories.load(Path(variables["inventory_dir"]))
            host = inventory.hosts[variables["inventory_hostname"]]
            outcome = self._begin(inventory, host) if step == "begin" else self._finish(inventory, host)
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        return result | outcome

    def _begin(self, inventory: Inventory, host: Host) -> dict[str, Any]:
        old, new, folder = self._serial("old"), self._serial("new"), paths.fleet_dir(inventory.fleet)
        log = list(issued.read_fleet(folder / "ca"))
        replacement.judge(host, fleet=inventory.fleet, old=old, new=new, issued=log)
        authority = opening.admission(folder)
        authority.require_admitted("board", new)
        rollouts = store.folder(inventory.fleet)
        known = replacement.served([store.read(rollouts, rollout) for rollout in store.ids(rollouts)], host.name)
        asked = self._args.get("restore")
        wanted = replacement.to_restore(asked, known, is_gateway=host.is_gateway)
        if wanted.bundle is not None:
            Reference.parse(wanted.bundle)
            # refuses what the registry no longer has, before anything
            release.read(inventory.fleet, wanted.bundle, stage=inventory.registry_stage)
        told = {"restore": wanted.bundle, "why": wanted.why}
        begun = record.is_replacing(record.read(folder), host.name, old, new)
        if self._task.check_mode or begun:
            return {"changed": not begun, **told}
        authority.revoke("board", old, reason=f"{host.name} is board {new} now", by=lease.whoami())
        KnownHosts(inventory.known_hosts).forget(host.address, host.port)
        record.append(
            folder,
            record.Replacing(time=record.now(), host=host.name, by=lease.whoami(), old_serial=old, new_serial=new),
        )
        return {"changed": True, **told}

    def _finish(self, inventory: Inventory, host: Host) -> dict[str, Any]:
        folder = paths.fleet_dir(inventory.fleet)
        event = record.Replaced(
            time=record.now(),
            host=host.name,
            by=lease.whoami(),
            old_serial=self._serial("old"),
            new_serial=self._serial("new"),
            restored=self._args.get("restored") or None,
        )
        last = [entry for entry in record.read(folder) if entry.host == host.name][-1:]
        done = bool(last) and isinstance(last[0], record.Replaced) and last[0].new_serial == event.new_serial
        if not done and not self._task.check_mode:
            record.append(folder, event)
        return {"changed": not done}

    def _serial(self, which: str) -> str:
        return str(self._args.get(f"{which}_serial") or "").strip().lower()
