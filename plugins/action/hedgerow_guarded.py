"""Place files and apply them where a mistake could cut the host off: nothing stays that was not confirmed.

    - name: Place and apply, with a way back
      hedgerow_guarded:
        name: hardening
        within_s: 60
        files: …                        # entries of hedgerow_files
        probe: {function: hedgerow.device.hardening.probe, arguments: {…}}
        checks:
          - {function: hedgerow.device.hardening.judge_sshd, arguments: {…}}
        apply:
          - {argv: [systemctl, reload, ssh.service], for: [/etc/ssh/sshd_config.d/00-hedgerow.conf, sshd]}
        live: {ruleset.nft: [nft, list, table, inet, hedgerow]}
        revert:
          - [nft, destroy, table, inet, hedgerow]
          - [nft, -f, "{folder}/ruleset.nft"]
        after:
          - {function: hedgerow.device.hardening.note_ruleset, arguments: {}}

One visit compares the files and asks ``probe`` (read-only; ``{"differs": {key: [text]}}``). Nothing differs: done.
Else the host keeps what it has and starts a clock (``hedgerow.device.guard``), files land validated, ``checks`` may
refuse, and ``apply`` runs the commands whose ``for`` names a changed path or a key of ``differs``. Then a **new** SSH
connection, beside the one that stands, has to log in, become root and confirm; ``after`` follows. Whatever fails on the
way puts everything back: at once where this connection still works, else by the host itself when the clock runs out.

Returns what ``hedgerow_files`` returns, and ``differs``. ``--check`` and ``--diff`` work and change nothing.
"""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

from hedgerow import remote_script
from hedgerow.errors import DeviceError, HedgerowError

_FilesModule = action_loader.get("hedgerow_files", class_only=True)
_GUARD = "hedgerow.device.guard"
_CONNECT_S = 5
_LOGIN_S = 20.0
_REQUIRED = frozenset({"name", "files"})


class ActionModule(_FilesModule):  # type: ignore[misc, valid-type]
    """``hedgerow_guarded``."""

    _supports_check_mode = True
    _supports_diff = True
    _VALID_ARGS = frozenset({"name", "within_s", "files", "probe", "checks", "apply", "live", "revert", "after"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        self._variables = task_vars or {}
        ActionBase.run(self, tmp, self._variables)  # the parent's own would place the files
        args = self._task.args
        if missing := _REQUIRED - set(args):
            raise AnsibleActionFail(f"hedgerow_guarded: {', '.join(sorted(missing))} is missing")
        self._files = self.entries(args["files"], self._variables)
        result: dict[str, Any] = {"changed": False, "changed_paths": [], "settled": {}, "differs": {}}
        try:
            remote_script.require_pipelining(self._connection)
            compared, differs = self._compare(args)
            result |= compared | {"differs": differs, "changed": compared["changed"] or bool(differs)}
            if not result["changed"] or self._task.check_mode:
                return result
            self._change(args, compared["changed_paths"], differs)
        except HedgerowError as error:
            return result | {"failed": True, "changed": False, "msg": str(error)}
        return result

    def _compare(self, args: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """One visit: what would change of the files, and what differs of the running host."""
        place = {"files": self._files, "check": True, "diff": bool(self._task.diff)}
        calls = [("hedgerow.device.files", "place", place)]
        if "probe" in args:
            calls.append(_call(args["probe"]))
        answers = self._visit(calls)
        return answers[0], answers[1]["differs"] if len(answers) > 1 else {}

    def _change(self, args: dict[str, Any], paths: list[str], differs: dict[str, list[str]]) -> None:
        name, within_s = args["name"], int(args.get("within_s", 60))
        causes = {*paths, *differs}
        commands = [step["argv"] for step in args.get("apply", []) if causes & set(step["for"])]
        arm = {
            "name": name,
            "paths": paths,
            "live": args.get("live", {}),
            "commands": args.get("revert", []),
            "within_s": within_s,
            "source": _source(_GUARD),
        }
        self._visit([(_GUARD, "arm", arm)])
        deadline = time.monotonic() + within_s
        try:
            # Each alone: a later one must not run where an earlier one refused.
            self._visit([("hedgerow.device.files", "place", {"files": self._files, "check": False, "diff": False})])
            for check in args.get("checks", []):
                self._visit([_call(check)])
            self._visit([(_GUARD, "apply", {"commands": commands})])
        except HedgerowError as error:
            self._undo(name, error)
        self._confirm(name, deadline)
        if args.get("after"):
            self._visit([_call(step) for step in args["after"]])

    def _undo(self, name: str, cause: HedgerowError) -> None:
        """Put everything back now and raise what made it necessary."""
        try:
            failed = self._visit([(_GUARD, "revert", {"name": name})])[0]["failed_commands"]
        except HedgerowError as error:
            failed = [f"no answer to that ({error.what}); the host does it by itself in a moment"]
        note = f"; of the way back failed: {'; '.join(failed)}" if failed else ""
        raise DeviceError(
            f"{cause.what}\nEverything is as it was before{note}", where=cause.where, next_step=cause.next_step
        ) from cause

    def _confirm(self, name: str, deadline: float) -> None:
        """Log in anew and confirm; if that cannot be done, wait until the host has undone the change.

        Raises:
            DeviceError: the change did not stay.
        """
        why = "the change took longer than the time for it"
        while time.monotonic() < deadline:
            # A host under load is slow to let anybody in; that is no reason to take the change back before its time.
            left_s = max(_LOGIN_S, deadline - time.monotonic())
            answer, said = self._through_a_new_connection(_GUARD, "confirm", {"name": name}, within_s=left_s)
            if answer is not None:
                if answer["confirmed"]:
                    return
                break
            why = said
            time.sleep(1)
        # Longer than the clock: the host may be busy undoing it.
        until = deadline + 30
        back = False
        while not back and time.monotonic() < until:
            back = self._through_a_new_connection(_GUARD, "confirm", {"name": name})[0] is not None
        host = self._variables["inventory_hostname"]
        raise DeviceError(
            f"no new SSH login after the change ({why}); {host} has undone it by itself"
            if back
            else f"no new SSH login after the change, nor after the time for undoing it ({why})",
            where=host,
            next_step="correct what was changed (the firewall's or sshd's variables), then run again"
            if back
            else f"look at the host's own screen: journalctl -u hedgerow-guard-{name}",
        )

    def _through_a_new_connection(
        self, module: str, function: str, arguments: dict[str, Any], *, within_s: float = _LOGIN_S
    ) -> tuple[Any, str]:
        """The function's result, else None and why: over a TCP connection and a login of its own."""
        host = self._variables["inventory_hostname"]
        program = remote_script.build(module, function, **arguments)
        command = [*self._ssh(), "sudo -n /usr/bin/python3 -"]
        try:
            done = subprocess.run(command, input=program, capture_output=True, text=True, timeout=within_s, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return None, str(error)
        if done.returncode != 0:
            return None, " ".join(done.stderr.split())[-300:] or f"exit {done.returncode}"
        return remote_script.parse(done.stdout, host=host), ""

    def _ssh(self) -> list[str]:
        """Ansible's own ssh command line, but never through the connection that stands.

        ssh takes the first value of an option, so what stands first here holds whatever follows.
        """
        option = self._connection.get_option
        words = ["ssh", "-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "BatchMode=yes"]
        words += ["-o", f"ConnectTimeout={_CONNECT_S}"]
        for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
            words += shlex.split(option(name) or "")
        if option("private_key_file"):
            words += ["-i", str(option("private_key_file"))]
        if option("port"):
            words += ["-p", str(option("port"))]
        if option("remote_user"):
            words += ["-l", str(option("remote_user"))]
        return [*words, str(option("host"))]

    def _visit(self, calls: list[tuple[str, str, dict[str, Any]]]) -> list[Any]:
        return remote_script.run_all(
            self._low_level_execute_command,
            calls,
            host=self._variables["inventory_hostname"],
            python=self._variables.get("ansible_python_interpreter", "/usr/bin/python3"),
        )


def _call(step: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """``{function: hedgerow.device.x.y, arguments: {…}}`` as ``remote_script`` takes it."""
    module, _, function = str(step["function"]).rpartition(".")
    if not module.startswith("hedgerow."):
        raise AnsibleActionFail("hedgerow_guarded: function names one of ours, for example hedgerow.device.guard.apply")
    return module, function, dict(step.get("arguments", {}))


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    return Path(spec.origin).read_text(encoding="utf-8")
