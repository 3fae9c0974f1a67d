"""What a run inside a longer one leaves for the end of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import pytest
def test_right(): pass
def test_wrong(): assert [1, 2] == [1, 3], "the answer"
@pytest.fixture
def broken(): raise RuntimeError("no host")
def test_of_nothing(broken): pass
"""


def test_failures_and_errors_are_kept_with_what_was_wrong(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(TESTS)
    kept = tmp_path / "kept"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    for _ in range(2):  # a later part of the run adds to it
        subprocess.run(command, env=os.environ | {"HEDGEROW_FAILURES": str(kept)}, cwd=tmp_path, check=False)
    text = kept.read_text()
    assert text.count("test_it.py::test_wrong (call)\n    AssertionError: the answer") == 2
    assert text.count("test_it.py::test_of_nothing (setup)\n    RuntimeError: no host") == 2
    assert "test_right" not in text
