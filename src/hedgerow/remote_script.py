"""Run one standard-library-only module of ours on a host, through nothing but ``python3 -``.

A host that has no Hedgerow yet can still be asked what it is: the controller
sends the module's own source on standard input and reads one JSON document
back. One SSH round trip, no file left behind, arguments never in a process
list. Ansible action plugins and pyinfra facts share this, so that hardware and
state are parsed in one place for both.

The module must import the standard library alone; ``tests/policy`` holds the
modules that are sent this way to it.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from hedgerow.errors import DeviceError

_TRAILER = """
import json, sys, types
module = types.ModuleType({name!r})
sys.modules[{name!r}] = module
exec(compile({source!r}, {name!r}, "exec"), module.__dict__)
print(json.dumps(getattr(module, {function!r})(**json.loads({arguments!r}))))
"""


def build(module: str, function: str, **arguments: Any) -> str:
    """Return a Python program that prints ``module.function(**arguments)`` as JSON.

    ``arguments`` and the result must be JSON values.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    source = Path(spec.origin).read_text(encoding="utf-8")
    return _TRAILER.format(name=module, source=source, function=function, arguments=json.dumps(arguments))


def parse(stdout: str, *, host: str) -> Any:
    """Decode what a program of ``build`` printed; login banners before it are passed over."""
    lines = [line for line in stdout.splitlines() if line.strip()]
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise DeviceError(
            "the host's answer is no JSON",
            where=f"{host}: {stdout[-300:]!r}",
            next_step=f"log in to {host} and run: python3 --version",
        ) from error
