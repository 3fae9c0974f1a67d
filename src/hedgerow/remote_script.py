"""Run one standard-library-only module of ours on a host, through nothing but ``python3 -``.

A host that has no Hedgerow yet can still be asked what it is: the controller
sends the module's own source on standard input and reads one JSON document
back. One SSH round trip, no file left behind, arguments never in a process
list. Ansible action plugins and pyinfra facts share this, so that hardware and
state are parsed in one place for both.

The module must import the standard library alone; ``tests/policy`` holds the
modules that are sent this way to it. It reports a fault that a person should
read by raising any exception that carries ``what``, ``where`` and
``next_step``; ``run`` raises it again here as ``DeviceError``.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from hedgerow.errors import DeviceError, UsageError

# (command line for a shell, standard input) → (return code, stdout, stderr)
Execute = Callable[[str, str], tuple[int, str, str]]

_FAULT = "hedgerow_fault"

_TRAILER = """
import json, sys, types
module = types.ModuleType({name!r})
sys.modules[{name!r}] = module
exec(compile({source!r}, {name!r}, "exec"), module.__dict__)
try:
    result = getattr(module, {function!r})(**json.loads({arguments!r}))
except Exception as error:
    if not hasattr(error, "what"):
        raise
    result = {{{fault!r}: {{k: getattr(error, k, None) for k in ("what", "where", "next_step")}}}}
print(json.dumps(result))
"""


def build(module: str, function: str, **arguments: Any) -> str:
    """Return a Python program that prints ``module.function(**arguments)`` as JSON.

    ``arguments`` and the result must be JSON values.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    source = Path(spec.origin).read_text(encoding="utf-8")
    return _TRAILER.format(name=module, source=source, function=function, arguments=json.dumps(arguments), fault=_FAULT)


def parse(stdout: str, *, host: str) -> Any:
    """Decode what a program of ``build`` printed; login banners before it are passed over.

    Raises:
        DeviceError: the module found a fault on the device, or the answer is no JSON.
    """
    lines = [line for line in stdout.splitlines() if line.strip()]
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise DeviceError(
            "the host's answer is no JSON",
            where=f"{host}: {stdout[-300:]!r}",
            next_step=f"log in to {host} and run: python3 --version",
        ) from error
    if isinstance(answer, dict) and _FAULT in answer:
        fault = answer[_FAULT]
        where = host if fault["where"] is None else f"{host}: {fault['where']}"
        raise DeviceError(fault["what"], where=where, next_step=fault["next_step"])
    return answer


def run(
    execute: Execute, host: str, module: str, function: str, /, *, python: str = "python3", **arguments: Any
) -> Any:
    """Return ``module.function(**arguments)`` as ``host`` computes it; ``execute`` is how a command gets there.

    Raises:
        DeviceError: the program did not run, broke, or reported a fault.
    """
    code, stdout, stderr = execute(f"{shlex.quote(python)} -", build(module, function, **arguments))
    if code != 0:
        lines = [line for line in (stderr or stdout).splitlines() if line.strip()]
        raise DeviceError(
            f"{module}.{function} broke on the host: {lines[-1] if lines else 'no message'}",
            where=f"{host}, {python} (exit code {code})",
            next_step=f"ansible -m ansible.builtin.ping -b {host}",
        )
    return parse(stdout, host=host)


class AnsibleAction(Protocol):
    """What ``through_ansible`` uses of ``ansible.plugins.action.ActionBase``; this package imports no Ansible."""

    _connection: Any

    def _low_level_execute_command(self, cmd: str, *, in_data: bytes) -> Mapping[str, Any]: ...


def through_ansible(action: AnsibleAction) -> Execute:
    """Return an ``Execute`` over the task's own connection and ``become``.

    Raises:
        UsageError: pipelining is off or the connection has none, so standard input would not reach the program.
    """
    if not action._connection.is_pipelining_enabled():  # noqa: SLF001 - the plugin interface of Ansible
        raise UsageError(
            "this task sends its program on standard input and needs pipelining",
            where=f"connection {action._connection.transport}",  # noqa: SLF001 - same
            next_step="set pipelining = True under [connection] in ansible.cfg, as Hedgerow's own does",
        )

    def execute(command: str, stdin: str) -> tuple[int, str, str]:
        done = action._low_level_execute_command(command, in_data=stdin.encode())  # noqa: SLF001 - same
        return int(done["rc"]), str(done["stdout"]), str(done["stderr"])

    return execute
