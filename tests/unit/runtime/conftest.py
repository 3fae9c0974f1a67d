from __future__ import annotations

from pathlib import Path

import pytest

from hedgerow.runtime.extras import EXTRAS


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout in small."""
    root = tmp_path / "tree"
    (root / "src/hedgerow/part").mkdir(parents=True)
    (root / "requirements").mkdir()
    (root / "playbooks").mkdir()
    (root / "ansible.cfg").touch()
    (root / "src/hedgerow/part/code.py").write_text("x = 1\n")
    for lock in ("device", *EXTRAS):
        (root / f"requirements/{lock}.txt").write_text("")
    (root / "pyproject.toml").write_text('[project]\nname = "hedgerow"\nversion = "0.1.0"\n[tool.x]\na = 1\n')
    return root
