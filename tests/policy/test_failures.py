"""docs/failures.md names all 48 failures; what it claims of each is there: the place, and the test named after it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TABLE = "docs/failures.md"
NUMBERS = range(1, 49)
VERDICTS = ("Prevented and detected", "Prevented", "Detected", "Not ours")
_ROW = re.compile(r"^\| F(\d+) \|(.*)\|$", re.MULTILINE)
_TEST = re.compile(r"^(?:async )?def (test_f(\d\d)_\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    number: int
    symptom: str
    verdict: str
    why: str
    places: tuple[str, ...]
    tests: tuple[str, ...]


def parse(text: str) -> list[Row]:
    """Rows of `| F1 | symptom | **Verdict**: why | `place`, … | `file::test`, … |`."""
    rows = []
    for number, rest in _ROW.findall(text):
        cells = [cell.strip() for cell in rest.split(" | ")]
        assert len(cells) == 4, f"F{number} has {len(cells) + 1} columns, 5 are needed"
        verdict, _, why = cells[1].partition(":")
        places, tests = (tuple(re.findall(r"`([^`]+)`", cell)) for cell in cells[2:])
        rows.append(Row(int(number), cells[0], verdict.strip("* "), why.strip(), places, tests))
    return rows


def violations(rows: list[Row], root: Path) -> Iterator[str]:
    numbers = [row.number for row in rows]
    yield from (f"F{number} is missing" for number in NUMBERS if number not in numbers)
    yield from (f"F{number} stands twice" for number in sorted(set(numbers)) if numbers.count(number) > 1)
    for row in rows:
        if row.verdict not in VERDICTS:
            yield f"F{row.number}: {row.verdict!r} is none of {VERDICTS}"
        if not row.why:
            yield f"F{row.number}: no sentence says what is done, or why nothing is"
        if row.verdict != "Not ours":
            yield from (f"F{row.number}: {text}" for text in wrong_with(row, root))


def wrong_with(row: Row, root: Path) -> Iterator[str]:
    if not row.places or not row.tests:
        yield f"{row.verdict}, but by what, and shown by which test?"
    for place in row.places:
        if not (root / place).is_file():
            yield f"{place} is not there"
        elif not re.search(rf"\bF{row.number}\b", (root / place).read_text(encoding="utf-8")):
            yield f"{place} does not name F{row.number}"
    for test in row.tests:
        file, _, name = test.partition("::")
        if not (root / file).is_file() or f"def {name}(" not in (root / file).read_text(encoding="utf-8"):
            yield f"no test {test}"
        elif not name.startswith(f"test_f{row.number:02d}_"):
            yield f"{test} is not named after it"


def named_tests(root: Path) -> set[str]:
    """`file::test` of every test that is named after a failure."""
    files = [*root.glob("tests/**/test_*.py"), *root.glob("molecule/**/test_*.py")]
    return {
        f"{file.relative_to(root)}::{name}"
        for file in files
        for name, number in _TEST.findall(file.read_text(encoding="utf-8"))
        if int(number) in NUMBERS and file.name != Path(__file__).name
    }


def test_the_table_is_whole_and_true(root: Path) -> None:
    rows = parse((root / TABLE).read_text(encoding="utf-8"))
    assert list(violations(rows, root)) == []


def test_every_test_that_is_named_after_a_failure_stands_in_the_table(root: Path) -> None:
    listed = {test for row in parse((root / TABLE).read_text(encoding="utf-8")) for test in row.tests}
    assert named_tests(root) - listed == set()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "roles").mkdir()
    (tmp_path / "roles/a.yml").write_text("- name: Do it (F1, F2)\n", encoding="utf-8")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_a.py").write_text("def test_f01_it():\n    pass\ndef test_other():\n    pass\n")
    return tmp_path


GOOD = "| F1 | it breaks | **Prevented**: it is done. | `roles/a.yml` | `tests/test_a.py::test_f01_it` |"


def test_a_good_row_passes(tree: Path) -> None:
    found = list(violations(parse(GOOD), tree))
    assert all(text.endswith("is missing") for text in found)
    assert "F1 is missing" not in found


@pytest.mark.parametrize(
    "row,text",
    [
        (GOOD.replace("Prevented", "Hoped"), "is none of"),
        (GOOD.replace(": it is done.", ""), "no sentence"),
        (GOOD.replace("`roles/a.yml`", " "), "by what"),
        (GOOD.replace("roles/a.yml", "roles/b.yml"), "roles/b.yml is not there"),
        (GOOD.replace("F1", "F3"), "does not name F3"),
        (GOOD.replace("test_f01_it", "test_f01_gone"), "no test"),
        (GOOD.replace("test_f01_it", "test_other"), "not named after it"),
        (f"{GOOD}\n{GOOD}", "F1 stands twice"),
    ],
)
def test_it_can_fail(tree: Path, row: str, text: str) -> None:
    assert any(text in found for found in violations(parse(row), tree))
