"""Run one standard-library-only module of ours on a host, through nothing but ``python3 -``.

A host that has no Hedgerow yet can still be asked what it is: the controller
sends the module's own source on standard input and reads one JSON document
back. One SSH round trip, no file left behind, arguments never in a process
list. Ansible action plugins and pyinfra facts share this, so that hardware and
state are parsed in one place for both.

The module must import the standard library alone; ``tests/policy`` holds the
modules that are sent this way to it. It reports a fault that a person should
read by raising any exception that carries ``what``, ``where`` and
``next_step``; ``parse`` raises it again here as ``DeviceError``.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hedgerow.errors import DeviceError, UsageError

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
    result = {{{fault!r}: {{key: getattr(error, key, None) for key in ("what", "where", "next_step")}}}}
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


class Execute(Protocol):
    """Run a command on the host; the shape of Ansible's ``_low_level_execute_command``."""

    def __call__(self, cmd: str, *, in_data: bytes) -> Mapping[str, Any]:
        """Return at least ``rc``, ``stdout`` and ``stderr``."""


def require_pipelining(connection: Any) -> None:
    """Refuse an Ansible connection on which standard input would not reach the program.

    ``connection`` is an action plugin's ``_connection``; this package imports no Ansible.
    """
    if not connection.is_pipelining_enabled():
        raise UsageError(
            "this task sends its program on standard input and needs pipelining",
            where=f"connection {connection.transport}",
            next_step="set pipelining = True under [connection] in ansible.cfg, as Hedgerow's own does",
        )


def run(
    execute: Execute, module: str, function: str, *, host: str, python: str = "/usr/bin/python3", **arguments: Any
) -> Any:
    """Run ``module.function(**arguments)`` on ``host`` through ``execute`` and return its result."""
    return run_all(execute, [(module, function, arguments)], host=host, python=python)[0]


def run_all(
    execute: Execute,
    calls: Sequence[tuple[str, str, Mapping[str, Any]]],
    *,
    host: str,
    python: str = "/usr/bin/python3",
) -> list[Any]:
    """``run`` for several functions in one visit; the results in the order of ``calls``."""
    program = "\n".join(build(module, function, **arguments) for module, function, arguments in calls)
    answer = execute(f"{python} -", in_data=program.encode())
    if answer["rc"] != 0:
        names = ", ".join(f"{module}.{function}" for module, function, _ in calls)
        said = (answer["stderr"] or answer["stdout"]).strip()
        raise DeviceError(
            f"{names} failed with exit code {answer['rc']}",
            where=f"{host}: {said[-2000:]}",
            next_step=f"log in to {host} and run: {python} --version",
        )
    lines = [line for line in answer["stdout"].splitlines() if line.strip()]
    return [parse(line, host=host) for line in ([""] * len(calls) + lines)[-len(calls) :]]
