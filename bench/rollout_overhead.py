"""What the rollout engine costs a host on top of the mechanism: its plugin calls beside bare ones, in one run.

    .venv/bin/python bench/rollout_overhead.py [--hosts 1000] [--turns 12] [--json]

The mechanism is what any rollout has to do: a process for each host and task (as Ansible forks one), which runs
``hedgerow-device`` and looks at the host. Devices answer at once here, so that what remains is the engine's own: the
journal, the decisions, the rules. Ours and the bare calls take turns host by host, so that what else runs on the
machine hits both. The journal holds ``--hosts`` hosts that have had their turn. fsync is real.

Ends with 1 where the median overhead of a host's whole turn is above 150 ms.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from hedgerow.registry.manifest import GoldenText, Message
from hedgerow.rollout import lease, requests
from hedgerow.rollout.events import (
    HostActivated,
    HostFinished,
    HostJudged,
    HostPrepared,
    HostStaged,
    HostStarted,
    Opened,
    Outcome,
    Request,
    RequestKind,
)
from hedgerow.rollout.gate.samples import Answer, Kind, Look
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.policy.soak import Soak
from hedgerow.rollout.remote import Completed
from hedgerow.rollout.steps import HostSteps

BAR_MS = 150.0
NEW, OLD = "assistant@1.1.0", "assistant@1.0.0"
AT = "2026-11-21T12:00:00.000Z"
STEPS = ("preflight", "stage", "activate", "gate", "confirm")


class Board:
    """A host that answers at once. Its state is in a file, since every step is a process of its own."""

    def __init__(self, release: Release, file: Path) -> None:
        self._release = release
        self._file = file

    def __call__(self, arguments: Sequence[str], *, timeout_s: int) -> Completed:  # noqa: ARG002 - Device's
        if arguments[0] == "activate":
            self._file.touch()
        document: dict[str, object] = {"changed": True}
        if arguments[0] == "report":
            name, version = self._serves.split("@")
            model = {"name": name, "version": version, "sha256": self._sha256}
            document = {"status": "ok", "model": model, "reasons": [], "board": {"disk_free_mb": 9000}}
        return Completed(0, json.dumps(document), "")

    @property
    def _serves(self) -> str:
        return NEW if self._file.exists() else OLD

    @property
    def _sha256(self) -> str:
        return self._release.sha256 if self._file.exists() else "01" * 32

    def look(self) -> Look:
        return Look(at=0, reached=True, status="ok", version=self._serves, sha256=self._sha256)

    def probe(self, release: Release, number: int, *, timeout_s: float = 30, weigh: bool = False) -> Answer:  # noqa: ARG002
        return Answer(at=0, question=number, kind=Kind.RIGHT, latency_ms=20.0)


class Ticking:
    """Waiting costs nothing here: a soak's length is the policy's choice, not the engine's cost."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now, sleep=self.sleep)


def forked(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes as a worker of its own."""
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise SystemExit("a step failed; the figures would mean nothing")
    return time.perf_counter() - started


def open_journal(folder: Path, hosts: int, turns: int) -> tuple[Journal, list[str]]:
    """A journal of ``hosts`` that are through, and ``turns`` further ones that are not."""
    release = Release(
        bundle=NEW,
        sha256="5a" * 32,
        size_bytes=90_000_000,
        probe=GoldenText(messages=(Message("user", "What is the capital of France?"),), expect="Paris"),
    )
    done, todo = [f"pi-{number:05d}" for number in range(hosts)], [f"new-{number:03d}" for number in range(turns)]
    everyone = [*done, *todo]
    policy = Policy(soak=Soak(passes=3, interval_s=1, deadline_s=60))
    plan = Plan(release=release, policy=policy, waves=[everyone[at : at + 50] for at in range(0, len(everyone), 50)])
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="bench", since=AT)
    journal = Journal(folder)
    journal.append(Opened(at=AT, plan=plan, by="bench"))
    lines = []
    figures = {f"metric_{number}": 1.5 for number in range(12)}
    for host in done:
        lines += [
            HostPrepared(at=AT, host=host, before=OLD),
            HostStaged(at=AT, host=host, seconds=1.0),
            HostStarted(at=AT, host=host, before=OLD),
            HostActivated(at=AT, host=host, seconds=1.0),
            HostJudged(
                at=AT, host=host, verdict="pass", reason="well", looks=3, seconds=9.0, before=figures, after=figures
            ),
            HostFinished(at=AT, host=host, outcome=Outcome.CONFIRMED, reason="well"),
        ]
    with journal.path.open("ab") as file:
        file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    # A rollout that was paused and resumed has such a file, and every step looks into it.
    requests.add(folder, Request(kind=RequestKind.RESUME, rollout=folder.name, by="ada", at=AT))
    requests.take(journal, {})
    return journal, todo


def measure(hosts: int, turns: int) -> dict[str, object]:
    """Milliseconds a host, by step and in all: ours less the bare calls of the same host."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        journal, todo = open_journal(root / "rollouts" / "bench", hosts, turns)
        pid, release = os.getpid(), journal.read().plan.release
        shared = Journal.shared(journal.folder)
        started = time.perf_counter()
        shared.advance()
        # As plugins/callback/hedgerow_rollout.py does once.
        gc.freeze()
        folding_ms = (time.perf_counter() - started) * 1000
        excess: dict[str, list[float]] = {step: [] for step in STEPS}
        for host in todo:
            ours, bare = Board(release, root / host), Board(release, root / f"bare-{host}")
            for step in STEPS:
                # The callback's work before each task.
                started = time.perf_counter()
                shared.advance()
                parent_s = time.perf_counter() - started

                turn = partial(take, journal.folder, host, ours, step, pid=pid)
                excess[step].append((parent_s + forked(turn) - forked(partial(call, bare, step, release))) * 1000)
        whole = [sum(values) for values in zip(*excess.values(), strict=True)]
        return {
            "hosts_in_journal": hosts,
            "turns": turns,
            "bar_ms": BAR_MS,
            "folding_once_ms": round(folding_ms, 1),
            "steps_ms": {step: round(statistics.median(values), 2) for step, values in excess.items()},
            "median_ms": round(statistics.median(whole), 1),
            "least_ms": round(min(whole), 1),
            "greatest_ms": round(max(whole), 1),
        }


def take(folder: Path, host: str, board: Board, step: str, *, pid: int) -> None:
    """One step as plugins/action/hedgerow_rollout.py takes it."""
    journal = Journal.shared(folder, pid=pid)
    attend = partial(requests.take, journal, {})
    done = getattr(HostSteps(host, journal, board, lambda: board, Ticking().clock(), attend), step)()
    if done.failed or (not done.go and step != "confirm"):
        raise SystemExit(done.msg)


def call(board: Board, step: str, release: Release) -> None:
    """What the mechanism alone does in this step."""
    if step == "preflight":
        board(["report"], timeout_s=60)
        board.look()
    elif step == "gate":
        for number in range(3):
            board.look()
            board.probe(release, number)
    else:
        board([step, NEW], timeout_s=60)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.hosts, arguments.turns)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"journal of {found['hosts_in_journal']} hosts, folded once in {found['folding_once_ms']} ms")
        for step, value in found["steps_ms"].items():  # type: ignore[attr-defined]
            print(f"  {step:10} {value:8.2f} ms")
        print(f"a host's turn: {found['median_ms']} ms ({found['least_ms']} to {found['greatest_ms']}), bar {BAR_MS:g}")
    return int(float(str(found["median_ms"])) > BAR_MS)


if __name__ == "__main__":
    sys.exit(main())
