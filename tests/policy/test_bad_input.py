"""docs/bad-input.md claims what becomes of bad input; each claim names tests, and they are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TABLE = "docs/bad-input.md"
TESTS = "tests/unit/server"


def violations(text: str, folder: Path) -> Iterator[str]:
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    if not rows:
        yield "no claim is made"
    for sent, *_, shown in rows:
        named = re.findall(r"`([^`]+)`", shown)
        if not named:
            yield f"{sent}: shown by no test"
        for file, _, test in (each.partition("::") for each in named):
            if not (folder / file).is_file():
                yield f"{sent}: {file} is not there"
            elif test and f"def {test}(" not in (folder / file).read_text(encoding="utf-8"):
                yield f"{sent}: {file} has no {test}"


def test_each_claim_is_shown(root: Path) -> None:
    assert list(violations((root / TABLE).read_text(encoding="utf-8"), root / TESTS)) == []


@pytest.mark.parametrize(
    "row, says",
    [
        ("| junk | 400 | nothing |", "junk: shown by no test"),
        ("| junk | 400 | `test_x.py::test_y` |", "junk: test_x.py is not there"),
        ("| junk | 400 | `test_here.py::test_other` |", "junk: test_here.py has no test_other"),
        ("", "no claim is made"),
    ],
)
def test_what_is_not_shown_is_found(tmp_path: Path, row: str, says: str) -> None:
    (tmp_path / "test_here.py").write_text("def test_one() -> None: ...")
    assert list(violations(f"| what | comes | shown |\n|---|---|---|\n{row}\n", tmp_path)) == [says]
