"""What every `prove_*.py` shares: rows of claim, bar, measured and verdict; tests as evidence; the machine's name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hedgerow import output

ROOT = Path(__file__).resolve().parent.parent
VERDICTS = {True: "ok", False: "SHORT", None: "not measured"}
NO_BAR = "no bar"


@dataclass
class Row:
    """One claim with its bar and what was measured.

    ``ok`` None is "not measured", with the reason in ``measured``; of a figure that is shown and held to nothing
    (``bar`` is ``NO_BAR``) it says nothing.
    """

    claim: str
    bar: str
    measured: str
    ok: bool | None

    @property
    def verdict(self) -> str:
        return NO_BAR if self.bar == NO_BAR else VERDICTS[self.ok]


@dataclass
class Proof:
    """All rows so far, printed as they come."""

    rows: list[Row] = field(default_factory=list)

    def add(self, claim: str, bar: str, measured: str, *, ok: bool | None) -> None:
        self.rows.append(Row(claim, bar, measured, ok))
        output.step(f"{self.rows[-1].verdict}: {claim}: {measured}")

    def note(self, what: str, measured: str) -> None:
        """A figure that belongs beside the others and is held to nothing."""
        self.add(what, NO_BAR, measured, ok=None)

    def add_tests(self, claims: Mapping[str, tuple[str, ...]], results: Mapping[str, str]) -> None:
        """A row a claim: each of its tests (a file, or ``file::name…``) must have passed, none skipped."""
        for claim, tests in claims.items():
            found = {test: outcome for name in tests for test, outcome in results.items() if test.startswith(name)}
            missing = [name for name in tests if not any(test.startswith(name) for test in results)]
            failed = [test for test, outcome in found.items() if outcome != "passed"]
            measured = f"{len(found) - len(failed)} of {len(found)} tests passed"
            measured += f": {failed[:2]}" if failed else f"; no such test: {missing}" if missing else ""
            self.add(claim, "shown by tests", measured, ok=bool(found) and not failed and not missing)

    def add_scenario(self, name: str, claim: str) -> None:
        """A row for a whole Molecule scenario, made and removed for it; what it printed is shown where it failed."""
        started = time.monotonic()
        command = ["tools/molecule.sh", "test", "-s", name]
        done = subprocess.run(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        if done.returncode != 0:
            log = ROOT / "var" / f"proof-{name}.log"
            log.parent.mkdir(exist_ok=True)
            log.write_text(text, encoding="utf-8")
            sys.stderr.write(f"{text[-6000:]}\nall of it: {log}\n")
        passed = ", ".join(re.findall(r"\d+ (?:failed|passed)[^\n=]*", text)[-1:]).strip()
        minutes = (time.monotonic() - started) / 60
        measured = f"exit code {done.returncode}, {passed}, {minutes:.1f} min"
        self.add(claim, "all pass", measured, ok=done.returncode == 0)

    def finish(self, title: str, *, as_json: bool) -> int:
        """Print the table; the exit code: 1 where a row falls short."""
        short = any(row.ok is False for row in self.rows)
        if as_json:
            output.print_json({"machine": machine(), "rows": [asdict(row) for row in self.rows], "ok": not short})
        else:
            rows = [(row.claim, row.bar, row.measured, row.verdict) for row in self.rows]
            output.print_table(f"{title}, on {machine()}", ("claim", "bar", "measured", "verdict"), rows)
        return 1 if short else 0


def machine() -> str:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{len(os.sched_getaffinity(0))} cores ({model[1] if model else 'unknown'}), {memory:.0f} GiB, load {load}"


def pytest(names: list[str], **environment: str) -> dict[str, str]:
    """Outcome of every test by ``file::name``."""
    if not names:
        return {}
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-o", "junit_family=xunit1", f"--junitxml={report.name}", *names],
            cwd=ROOT, env={**os.environ, **environment}, check=False, stdout=sys.stderr,
        )  # fmt: skip
        cases = ET.parse(report.name).getroot().iter("testcase")
        return {f"{case.get('file')}::{case.get('name')}": _outcome(case) for case in cases}


def _outcome(case: ET.Element) -> str:
    for kind in ("failure", "error", "skipped"):
        if case.find(kind) is not None:
            return kind
    return "passed"


def bench(name: str, *arguments: str) -> dict[str, Any]:
    """What `python -m bench.<name> --json` printed; its exit code says only whether its bar was met."""
    command = [sys.executable, "-m", f"bench.{name}", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"bench.{name} printed no JSON:\n{(done.stdout + done.stderr)[-3000:]}")
    return found


def run(command: list[str], cwd: Path, *, why: str | None = None, env: dict[str, str] | None = None) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, cwd=cwd, text=True, capture_output=True, env=env, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed{f' ({why})' if why else ''}:\n{(done.stdout + done.stderr)[-4000:]}")
