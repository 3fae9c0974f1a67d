"""Run steps: background ones into a log each, the others in view; stop cleanly on the first failure.

Invariants:
- A child gets the terminal's Ctrl-C itself (same process group), so that it can
  leave its own work resumable; whatever is still running afterwards is
  terminated, waited for, then killed.
- A step is only started when the background steps it names have succeeded.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from hedgerow import atomic, output
from hedgerow.demo.steps import Step
from hedgerow.errors import PartialError

TERMINATE_GRACE_S = 10.0
REMARK_EVERY_S = 15.0
TAIL_LINES = 30


@dataclass
class Job:
    """A background step that is running or has ended."""

    step: Step
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    seconds: float | None = None

    def poll(self) -> bool:
        """Whether it has ended; notes how long it took."""
        if self.process.poll() is None:
            return False
        if self.seconds is None:
            self.seconds = time.monotonic() - self.started
        return True

    def last_line(self) -> str:
        """The newest line of its log, for a progress display."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 2048))
                lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


class Runner:
    """Runs a list of steps in one working folder; ``log_dir`` takes the background steps' output."""

    def __init__(self, *, cwd: Path, log_dir: Path) -> None:
        self._cwd = cwd
        self._log_dir = log_dir
        self._jobs: dict[str, Job] = {}
        self.timings: dict[str, float] = {}

    def run(self, steps: list[Step]) -> None:
        """Run all steps.

        Raises:
            PartialError: a step failed; what went before it stays and is not done again.

        """
        self._log_dir.mkdir(parents=True, exist_ok=True)
        try:
            for number, step in enumerate(steps, start=1):
                label = f"[{number}/{len(steps)}] {step.title}"
                for name in step.after:
                    self._wait(self._jobs[name])
                if step.background:
                    self._start(step)
                    output.step(f"{label} (in the background, log: {self._jobs[step.name].log})")
                    continue
                output.step(label)
                self._foreground(step)
            for job in self._jobs.values():
                self._wait(job)
        finally:
            self._stop_all()

    def _environment(self, step: Step) -> dict[str, str]:
        shown = sys.stderr.isatty() and not step.background  # a log file is read without a terminal
        colour = {"ANSIBLE_FORCE_COLOR": "1", "FORCE_COLOR": "1"} if shown else {}
        return {**os.environ, **colour, "PYTHONUNBUFFERED": "1", **step.environment}

    def _start(self, step: Step) -> None:
        log = self._log_dir / f"{step.name}.log"
        with log.open("wb") as file:
            self._jobs[step.name] = Job(step, self._popen(step, file), log, time.monotonic())

    def _popen(self, step: Step, stream: IO[bytes] | None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            step.command,
            cwd=self._cwd,
            env=self._environment(step),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT if stream else None,
        )

    def _foreground(self, step: Step) -> None:
        shown = shlex.join(part.replace(f"{self._cwd}/", "") for part in step.command)
        output.err.print(f"    $ {shown}", style="dim", highlight=False, soft_wrap=True)
        started = time.monotonic()
        process = self._popen(step, None)
        try:
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
        self.timings[step.name] = time.monotonic() - started
        if code != 0:
            raise _failure(step, code, None)

    def _wait(self, job: Job) -> None:
        if not job.poll():
            self._watch(job)
        self.timings[job.step.name] = job.seconds or 0.0
        if job.process.returncode != 0:
            raise _failure(job.step, job.process.returncode, job.log)

    def _watch(self, job: Job) -> None:
        """Wait for a job, showing that it lives: a spinner on a terminal, a line now and then elsewhere."""
        if output.err.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            with Progress(*columns, console=output.err, transient=True) as progress:
                task = progress.add_task(job.step.title)
                while not _ended_within(job, 0.5):
                    progress.update(task, description=f"{job.step.title}: {job.last_line()[-90:]}")
        else:
            while not _ended_within(job, REMARK_EVERY_S):
                output.err.print(f"    {job.step.title}: {job.last_line()[-100:]}", highlight=False)
        output.err.print(f"    {job.step.title}: done in {job.seconds or 0:.0f} s", highlight=False)

    def _stop_all(self) -> None:
        for job in self._jobs.values():
            _stop(job.process)


def _ended_within(job: Job, seconds: float) -> bool:
    try:
        job.process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return job.poll()


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=TERMINATE_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _failure(step: Step, code: int, log: Path | None) -> PartialError:
    if log is not None:
        tail = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        output.err.print("\n".join(tail), highlight=False, markup=False)
    return PartialError(
        f"step '{step.name}' ({step.title}) ended with exit code {code}",
        where=str(log) if log else shlex.join(step.command),
        next_step="mend what the message above names, then run the demo again: it goes on from here",
    )


def write_timings(path: Path, timings: dict[str, float], total: float) -> None:
    """Keep how long each step took, in seconds, for bench/prove_slice.py."""
    rounded = {name: round(seconds, 2) for name, seconds in timings.items()}
    atomic.write_bytes(path, msgspec.json.encode({"steps_s": rounded, "total_s": round(total, 2)}))
