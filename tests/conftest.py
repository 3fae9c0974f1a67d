"""For every test: where a run is a small part of a longer one, its failures are kept for the end of it.

Molecule prints pages after its verifier has failed. ``tools/molecule.sh`` names a file in HEDGEROW_FAILURES, and says
at the very end what it finds in there.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_LINES_OF_A_FAILURE = 2


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    file = os.environ.get("HEDGEROW_FAILURES")
    if file is None:
        return
    with Path(file).open("a", encoding="utf-8") as failures:
        for report in terminalreporter.getreports("failed") + terminalreporter.getreports("error"):
            failures.write(f"{report.nodeid} ({report.when})\n")
            # pytest begins the lines that say what was wrong with an E
            wrong = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
            failures.writelines(f"    {line[1:].strip()[:300]}\n" for line in wrong[:_LINES_OF_A_FAILURE])
