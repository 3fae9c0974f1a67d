"""One step of a host's leaving: ``judge``, ``revoke``, ``wipe``, ``close``.

    - name: Revoke its certificates; nobody enrols this board again
      hedgerow_decommission: {step: revoke, reason: sold}

``judge`` refuses what the fleet cannot do without. ``revoke`` writes the CA's ledger. ``wipe`` asks the host for its
serial and, if it is that board, takes away what makes it one of the fleet; a host that does not answer is told of and
no failure. ``close`` forgets the host key of a wiped host, writes down what was done and says what is left to do.

Decisions: ``hedgerow.lifecycle.decommission``; the host's part: ``hedgerow.lifecycle.wipe``. Check mode writes nothing
and says what would go.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from hedgerow import inventory as inventories
from hedgerow import paths, remote_script
from hedgerow.errors import HedgerowError
from hedgerow.first_contact import KnownHosts
from hedgerow.identity import issued
from hedgerow.identity.authority import opening
from hedgerow.inventory import Host, Inventory, files
from hedgerow.lifecycle import decommission, record
from hedgerow.rollout import lease, store
from hedgerow.rollout.prepare import plain

_STEPS = ("judge", "revoke", "wipe", "close")


class ActionModule(ActionBase):
    """``hedgerow_decommission``."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset({"step", "typed", "reason", "already", "wiped"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        self._args: dict[str, Any] = plain(self._task.args)  # without Ansible's tags, which no encoder knows
        step = self._args.get("step")
        if step not in _STEPS:
            raise AnsibleActionFail(f"hedgerow_decommission: step is one of {', '.join(_STEPS)}")
        try:
            inventory = inventories.load(Path(variables["inventory_dir"]))
            host = inventory.hosts[variables["inventory_hostname"]]
            outcome: dict[str, Any] = getattr(self, f"_{step}")(inventory, host)
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        return result | outcome

    def _judge(self, inventory: Inventory, host: Host) -> dict[str, Any]:
        running = lease.read(store.folder(inventory.fleet))
        decommission.judge(
            inventory,
            host.name,
            str(self._args.get("typed", "")),
            rollout=None if running is None else running.rollout,
        )
        return {"changed": False}

    def _revoke(self, inventory: Inventory, host: Host) -> dict[str, Any]:
        folder = paths.fleet_dir(inventory.fleet)
        authority = opening.admission(folder)
        if self._task.check_mode:
            try:
                authority.require_admitted("board", host.serial)
            except HedgerowError:
                return {"changed": False}
            return {"changed": True, "msg": f"would revoke {host.serial}"}
        reason = str(self._args.get("reason") or "decommissioned")
        line, changed = authority.revoke("board", host.serial, reason=reason, by=lease.whoami())
        left = record.departure(record.read(folder), host.serial)
        return {
            "changed": changed,
            "certificates": line.certificates,
            # Wiped before and not admitted since: it cannot be asked again, for our way in is gone.
            "already": not changed and left is not None and left.wiped,
        }

    def _wipe(self, inventory: Inventory, host: Host) -> dict[str, Any]:
        if self._args.get("already"):
            return {"changed": False, "wiped": True, "left": [], "msg": "was wiped before"}
        try:
            remote_script.require_pipelining(self._connection)
            found = self._remote("hedgerow.device.hardware", "read", host)["board"]["serial"]
            if found != host.serial:
                text = f"the board at {host.address} is {found or 'unknown'}, not {host.serial}: it was not touched"
                return {"changed": False, "wiped": False, "left": [text]}
            answer = self._remote(
                "hedgerow.lifecycle.wipe",
                "wipe",
                host,
                admin_user=inventory.admin_user,
                dry_run=bool(self._task.check_mode),
            )
        except AnsibleConnectionFailure as error:
            words = " ".join(str(error).split())
            text = f"{host.name} does not answer, so its key, models and access are still on it ({words[:200]})"
            return {"changed": False, "wiped": False, "left": [text]}
        if not self._task.check_mode:
            self._connection.reset()  # its sessions are about to be ended there
        return {
            "changed": answer["changed"],
            "wiped": not answer["left"],
            "left": answer["left"],
            "diff": {"before": "", "after": "".join(f"{line}\n" for line in answer["done"])},
        }

    def _close(self, inventory: Inventory, host: Host) -> dict[str, Any]:
        wiped: dict[str, Any] = self._args["wiped"]
        folder = paths.fleet_dir(inventory.fleet)
        if self._task.check_mode:
            self._display.display("Check mode: nothing was done. After a real run it would be said:")
        for line in decommission.report(
            host,
            wiped=wiped["wiped"],
            left=wiped["left"],
            certificates_until=_until(folder, host.serial),
            lines=decommission.inventory_lines(files.read(inventory.path), host.name),
        ):
            self._display.display(line)
        before = record.departure(record.read(folder), host.serial)
        if self._task.check_mode or (
            before is not None and (before.wiped, before.left) == (wiped["wiped"], wiped["left"])
        ):
            return {"changed": before is None}
        if wiped["wiped"]:
            KnownHosts(inventory.known_hosts).forget(host.address, host.port)
        record.append(
            folder,
            record.Decommissioned(
                time=record.now(),
                host=host.name,
                by=lease.whoami(),
                serial=host.serial,
                reason=str(self._args.get("reason") or "decommissioned"),
                wiped=wiped["wiped"],
                left=wiped["left"],
            ),
        )
        return {"changed": True}

    def _remote(self, module: str, function: str, host: Host, **arguments: Any) -> Any:
        return remote_script.run(self._low_level_execute_command, module, function, host=host.name, **arguments)


def _until(folder: Path, serial: str) -> str | None:
    """Until when its last certificate is good; None if it had none, or it ended."""
    ends = [entry.not_after for entry in issued.read_fleet(folder / "ca") if entry.name == serial]
    latest = max(ends, default="")
    return latest[:16].replace("T", " ") + " UTC" if latest > record.now() else None
