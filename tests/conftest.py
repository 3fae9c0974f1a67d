"""For every test: how properties are tried, and failures that are kept for the end of a longer run.

A property that holds slowly holds: how long an example takes says how busy the machine is, so nothing fails by it.
CI tries the same examples each time: what is new there is the change, not the chance.

Molecule prints pages after its verifier has failed. ``tools/molecule.sh`` names a file in HEDGEROW_FAILURES, and says
at the very end what it finds in there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "hedgerow",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize="CI" in os.environ,
)
settings.load_profile("hedgerow")

_LINES_OF_A_FAILURE = 2


# Helpers that tests of several folders import by name: pytest's importlib mode puts nothing there.
sys.path.insert(0, str(Path(__file__).parent / "support"))


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
