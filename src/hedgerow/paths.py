"""Where a controller keeps what it makes: ``var/`` beside the playbooks, one folder a fleet.

``HEDGEROW_ROOT`` overrides the search for the repository (the folder that holds
``ansible.cfg`` and ``playbooks/``), ``HEDGEROW_VAR`` the place of ``var/``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from hedgerow.errors import UsageError

DEFAULT_STAGE: Final = "production"
"""The stage of the registry that a fleet's devices belong to, where its inventory (``registry_stage``) names none."""


def repository_root() -> Path:
    """The checkout in use: ``HEDGEROW_ROOT``, else upward from here, else where this file was installed from."""
    override = os.environ.get("HEDGEROW_ROOT")
    candidates = [Path(override)] if override else [Path.cwd(), *Path.cwd().parents, *Path(__file__).resolve().parents]
    for candidate in candidates:
        if (candidate / "ansible.cfg").is_file() and (candidate / "playbooks").is_dir():
            return candidate.resolve()
    raise UsageError(
        "no Hedgerow checkout found",
        where=override or str(Path.cwd()),
        next_step="run inside the checkout, or set HEDGEROW_ROOT to it",
    )


def var_dir() -> Path:
    """Everything this controller makes; removed by ``make clean``."""
    override = os.environ.get("HEDGEROW_VAR")
    return Path(override).resolve() if override else repository_root() / "var"


def cache_dir() -> Path:
    """Content-addressed results that any fleet may reuse."""
    return var_dir() / "cache"


def fleet_dir(fleet: str) -> Path:
    """State of one fleet: CA, SSH, stages of the registry, rollouts."""
    return var_dir() / "fleets" / fleet


def stage_dir(fleet: str, stage: str) -> Path:
    """A stage of a fleet's registry: its settings, its keys, and its store where no other place is named."""
    return fleet_dir(fleet) / "stages" / stage
