"""Give a host the SSH certificate that others believe it by: status there, decision and signature here.

    - name: Have a certificate for the host's SSH key
      hedgerow_ssh_host:
        fleet: "{{ fleet }}"
        site: "{{ site }}"
        serial: "{{ pi_serial }}"
        address: "{{ ansible_host }}"
        port: "{{ ansible_port | default(22) }}"

========== ==================================================================================
``days``    life of the certificate (60); at most 90
``force``   renew though life is left (false)
========== ==================================================================================

Changed only if a certificate was signed; returns ``reason`` and ``expires``. sshd reads it when it is reloaded. Needs
the fleet's SSH authority on the controller (``hedgerow ssh init``) and pipelining.
"""

from __future__ import annotations

import datetime as dt
import functools
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from hedgerow import first_contact, paths, remote_script
from hedgerow.errors import HedgerowError
from hedgerow.identity.ssh import hosts
from hedgerow.identity.ssh.authority import SshAuthority
from hedgerow.inventory import Host
from hedgerow.rollout import lease

_NEEDED = ("fleet", "site", "serial", "address", "port")


class ActionModule(ActionBase):
    """``hedgerow_ssh_host``."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset({*_NEEDED, "days", "force", "directory", "certificate"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        args = self._task.args
        missing = [key for key in _NEEDED if not args.get(key)]
        if missing:
            raise AnsibleActionFail(f"hedgerow_ssh_host: {', '.join(missing)} missing")
        fleet_dir = paths.fleet_dir(str(args["fleet"]))
        places = {key: str(args[key]) for key in ("directory", "certificate") if key in args}
        try:
            remote_script.require_pipelining(self._connection)
            outcome = hosts.certify(
                functools.partial(self._call, variables),
                SshAuthority.open(fleet_dir, by=lease.whoami()),
                _host(str(variables["inventory_hostname"]), args),
                known=first_contact.KnownHosts(fleet_dir / "ssh" / "known_hosts"),
                now=dt.datetime.now(dt.UTC).replace(microsecond=0),
                days=None if args.get("days") is None else int(args["days"]),
                force=boolean(args.get("force", False)),
                check=bool(self._task.check_mode),
                **places,
            )
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        expires = None if outcome.expires is None else outcome.expires.isoformat()
        result |= {"changed": outcome.reason is not None, "reason": outcome.reason, "expires": expires}
        if outcome.reason is not None:
            result["diff"] = {"before": "", "after": f"SSH host certificate, because: {outcome.reason}\n"}
        return result

    def _call(self, variables: dict[str, Any], function: str, /, **arguments: Any) -> Any:
        return remote_script.run(
            self._low_level_execute_command,
            "hedgerow.identity.ssh.host_side",
            function,
            host=variables["inventory_hostname"],
            python=variables.get("ansible_python_interpreter", "/usr/bin/python3"),
            **arguments,
        )


def _host(name: str, args: Any) -> Host:
    """The host as the authority names it; what it has no use for is left at nothing."""
    return Host(
        name=name,
        address=str(args["address"]),
        groups=(),
        site=str(args["site"]),
        serial=str(args["serial"]),
        hat="none",
        cooling="active",
        storage="sd",
        vars={"ansible_port": int(args["port"])},
    )
