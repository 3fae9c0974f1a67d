"""What `--check` said would change is what the real run after it changed: no more, no less."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])


def test_check_mode_predicted_truthfully(folder):
    promised, done = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("check.json", "run.json"))
    certain, uncertain, changed = (
        {tuple(pair) for pair in pairs} for pairs in (promised["changed"], promised["uncertain"], done["changed"])
    )
    assert sorted(changed - certain - uncertain) == [], "changed, and --check had not said so"
    assert sorted(certain - changed) == [], "--check had said so, and nothing changed"
