"""Device configuration as YAML, checked by the very struct that the device will read it with."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from hedgerow import configfile
from hedgerow.errors import UsageError


def render(values: Mapping[str, Any], struct: str, header: str) -> str:
    """``values`` as YAML under ``header`` (comment lines), after ``struct`` (``module.Class``) has accepted them.

    A wrong value stops on the controller, with the key's path, before any host
    is touched; the daemon reads the same struct, so what passes here parses there.
    """
    module, _, name = struct.rpartition(".")
    # Ansible's strings are a class of their own, which neither msgspec nor PyYAML takes for text.
    plain: dict[str, Any] = json.loads(json.dumps(dict(values)))
    try:
        configfile.convert(plain, getattr(importlib.import_module(module), name))
    except msgspec.ValidationError as error:
        raise UsageError(
            f"{name} does not accept this configuration: {error}",
            where=struct,
            next_step="correct the variable that gives this key (roles/*/README.md)",
        ) from error
    comments = "".join(f"# {line}\n" for line in header.splitlines())
    return comments + yaml.safe_dump(plain, sort_keys=False, default_flow_style=False, allow_unicode=True)
