from __future__ import annotations

import os
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("extra", ["traces", "vision", "litert"])
def test_the_lock_of_an_extra_counts_where_it_is_asked_for(tree: Path, extra: str) -> None:
    without, asked = runtime_version(tree), runtime_version(tree, [extra])
    assert asked != without
    (tree / f"requirements/{extra}.txt").write_text("# newer\n")
    assert runtime_version(tree) == without
    assert runtime_version(tree, [extra]) != asked


def test_each_set_of_extras_has_a_version_of_its_own(tree: Path) -> None:
    assert len({runtime_version(tree, each) for each in ([], ["traces"], ["vision"], ["traces", "vision"])}) == 4


def test_without_extras_a_tree_is_called_as_it_was_before_there_were_any(tree: Path) -> None:
    """Else every device of a fleet would be given a new runtime by an update that changes nothing for it."""
    assert runtime_version(tree) == "0.1.0+6f91781098d2"
