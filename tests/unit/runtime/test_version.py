from __future__ import annotations

import os
from pathlib import Path

from hedgerow.runtime.version import runtime_version


def test_time_caches_and_foreign_files_do_not_count(tree: Path) -> None:
    before = runtime_version(tree)
    os.utime(tree / "src/hedgerow/part/code.py", (1, 1))
    (tree / "src/hedgerow/part/__pycache__").mkdir()
    (tree / "src/hedgerow/part/__pycache__/code.cpython-311.pyc").write_bytes(b"x")
    (tree / "README.md").write_text("more")
    (tree / "pyproject.toml").write_text((tree / "pyproject.toml").read_text().replace("a = 1", "a = 2"))
    assert runtime_version(tree) == before
    assert before.startswith("0.1.0+")


def test_code_names_lock_and_project_count(tree: Path) -> None:
    seen = {runtime_version(tree)}
    (tree / "src/hedgerow/part/code.py").write_text("x = 2\n")
    seen.add(runtime_version(tree))
    (tree / "src/hedgerow/part/code.py").rename(tree / "src/hedgerow/part/other.py")
    seen.add(runtime_version(tree))
    (tree / "requirements/device.txt").write_text("# newer\n")
    seen.add(runtime_version(tree))
    (tree / "pyproject.toml").write_text('[project]\nname = "hedgerow"\nversion = "0.2.0"\n')
    seen.add(runtime_version(tree))
    assert len(seen) == 5
