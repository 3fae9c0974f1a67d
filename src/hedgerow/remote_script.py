"""Run one standard-library-only module of ours on a host, through nothing but ``python3 -``.

A host that has no Hedgerow yet can still be asked what it is: the controller
sends the module's own source on standard input and reads one JSON document
back. One SSH round trip, no file left behind, arguments never in a process
list. Ansible action plugins and pyinfra facts share this, so that hardware and
state are parsed in one place for both.

The module must import the standard library alone, or modules of ours that do;
these are sent along. ``tests/policy`` holds the modules that are sent this way
to it. It reports a fault that a person should read by raising any exception
that carries ``what``, ``where`` and ``next_step``; ``parse`` raises it again
here as ``DeviceError``.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hedgerow.errors import DeviceError, UsageError

_FAULT = "hedgerow_fault"
_PACKAGE = "hedgerow"

_TRAILER = """
import json, sys, types
for name, source in {sources!r}:
    above = ""
    for part in name.split(".")[:-1]:
        package = sys.modules.setdefault(above + part, types.ModuleType(above + part))
        package.__path__ = []
        above += part + "."
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, name, "exec"), module.__dict__)
    if above:
        setattr(sys.modules[above[:-1]], name.rpartition(".")[2], module)
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
    sources: dict[str, str] = {}
    _collect(module, sources)
    return _TRAILER.format(
        sources=list(sources.items()), function=function, arguments=json.dumps(arguments), fault=_FAULT
    )


def _collect(module: str, sources: dict[str, str]) -> None:
    """Add ``module``, behind what it imports of this package when it is loaded."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    source = Path(spec.origin).read_text(encoding="utf-8")
    for needed in companions(source):
        if needed not in sources:
            _collect(needed, sources)
    sources[module] = source


def companions(source: str) -> list[str]:
    """Modules of this package that ``source`` imports, by its ``from hedgerow… import …`` at the top level."""
    found = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ImportFrom) or node.level or (node.module or "").partition(".")[0] != _PACKAGE:
            continue
        base = node.module or ""
        found += [name if _is_module(name := f"{base}.{alias.name}") else base for alias in node.names]
    return list(dict.fromkeys(found))


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # what stands before the last dot is a module, and has none
        return False


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
