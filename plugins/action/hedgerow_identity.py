"""Give a device its certificate: status there, decision and signature here, installation there.

    - name: Have a certificate of the fleet
      hedgerow_identity:
        directory: /var/lib/hedgerow/identity
        profile: device
        fleet: "{{ fleet }}"
        site: "{{ site }}"
        host: "{{ inventory_hostname }}"
        serial: "{{ pi_serial }}"

========== ==================================================================================
``days``    life of the certificate (the profile's default); at most 90
``force``   renew though life is left (false)
``new_key`` renew with another key, made on the device (false)
``key``     where the key is: ``file``, ``tpm``, or ``otp``, a file that the board's own key vouches for (as it is)
``layout``  ``files``, or ``generations``, where key and certificate change places in one step (as it is)
``peer``    whom a new pair is tried with before it is switched to: ``host``, ``port``, ``name``, ``path`` (nobody)
``strict``  refuse another key while the last one's certificate has life left (false)
========== ==================================================================================

Changed only if something changed: modes repaired, a certificate issued, the CA's
certificate placed. Issued where there is none, or the present one has less than a
third of its life left, belongs to another key, names or CA. Returns ``reason``,
``repaired``, ``files``, ``expires``; ``--diff`` shows them. The key is made on the device and never leaves
it; nothing this task returns is secret. Needs the fleet's CA on the controller
(``hedgerow ca init``) and pipelining.
"""

from __future__ import annotations

import datetime as dt
import functools
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from hedgerow import paths, remote_script
from hedgerow.errors import HedgerowError
from hedgerow.identity.authority import opening
from hedgerow.identity.enrolment import Outcome, Wishes, enrol
from hedgerow.identity.holders import Holders
from hedgerow.identity.profiles import DEVICE_PROFILES, DeviceNames, Profile

_NEEDED = ("directory", "profile", "fleet", "site", "host", "serial")


class ActionModule(ActionBase):
    """``hedgerow_identity``."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset({*_NEEDED, "days", "force", "new_key", "key", "layout", "peer", "strict"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        args = self._task.args
        missing = [key for key in _NEEDED if not args.get(key)]
        if missing:
            raise AnsibleActionFail(f"hedgerow_identity: {', '.join(missing)} missing")
        try:
            profile = Profile(args["profile"])
            names = DeviceNames(**{key: str(args[key]) for key in ("fleet", "site", "host", "serial")})
            remote_script.require_pipelining(self._connection)
            outcome = enrol(
                functools.partial(self._call, variables),
                opening.for_site(paths.fleet_dir(names.fleet), names.site),
                profile,
                names,
                directory=str(args["directory"]),
                now=dt.datetime.now(dt.UTC).replace(microsecond=0),
                check=bool(self._task.check_mode),
                force=boolean(args.get("force", False)),
                new_key=boolean(args.get("new_key", False)),
                days=None if args.get("days") is None else int(args["days"]),
                wishes=Wishes(
                    key=args.get("key") or None,
                    layout=args.get("layout") or None,
                    peer=args.get("peer") or None,
                    strict=boolean(args.get("strict", False)),
                ),
                holders=Holders(paths.fleet_dir(names.fleet) / "ca"),
                at_gateway=opening.at_gateway(paths.fleet_dir(names.fleet), names.site),
            )
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        except ValueError as error:
            allowed = ", ".join(sorted(DEVICE_PROFILES))
            raise AnsibleActionFail(f"hedgerow_identity: {error}; profiles of devices: {allowed}") from error
        return result | _result(outcome)

    def _call(self, variables: dict[str, Any], function: str, /, **arguments: Any) -> Any:
        return remote_script.run(
            self._low_level_execute_command,
            "hedgerow.identity.enrol",
            function,
            host=variables["inventory_hostname"],
            python=variables.get("ansible_python_interpreter", "/usr/bin/python3"),
            **arguments,
        )


def _result(outcome: Outcome) -> dict[str, Any]:
    """What the task shows and registers."""
    result: dict[str, Any] = {
        "changed": outcome.changed,
        "reason": outcome.reason,
        "key_created": outcome.key_created,
        "repaired": outcome.repaired,
        "files": outcome.files,
        "expires": None if outcome.expires is None else outcome.expires.isoformat(),
    }
    if outcome.warnings:
        result["warnings"] = outcome.warnings
    if outcome.changed:
        result["diff"] = _diff(outcome)
    return result


def _diff(outcome: Outcome) -> dict[str, str]:
    """For ``--diff``: what was wrong, and why there is another certificate. Check mode does not know its end yet."""
    lines = [*(f"mended: {fault}" for fault in outcome.repaired), *(f"replaced: {name}" for name in outcome.files)]
    if outcome.reason is not None:
        lines.append(f"because: {outcome.reason}")
    return {"before": "", "after": "".join(f"{line}\n" for line in lines)}
