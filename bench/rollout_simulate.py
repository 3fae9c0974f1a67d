"""How long a rollout over a large fleet takes to simulate, with the plan that it follows.

    .venv/bin/python bench/rollout_simulate.py [--hosts 10000] [--release good] [--runs 3] [--json]

Medians of the runs. It is one thread that waits for nothing, so its processor time is what an idle machine takes, and
is held to the bar: 10 s for 10 000 devices, 60 s for 100 000, none for other numbers. The clock's time has in it what
else the machine does. ``linear`` is the cost of a device beside that in a tenth of the fleet. ``fold_s`` is what the
rollout's events cost that are folded into a state and nothing else, the least that any simulation of it could do;
``ratio`` is how many times that the simulation takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

from hedgerow.registry.manifest import GoldenText, Message
from hedgerow.rollout import events
from hedgerow.rollout import plan as plans
from hedgerow.rollout.plan import Release
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.simulate.flaw import Flaw
from hedgerow.rollout.simulate.fleet import Model, synthetic
from hedgerow.rollout.simulate.outcome import Result
from hedgerow.rollout.simulate.run import Run

BARS_S = {10_000: 10.0, 100_000: 60.0}
QUESTION = GoldenText(messages=(Message("user", "?"),), expect="!")
RELEASE = Release(bundle="simulated@1", sha256="0" * 64, size_bytes=90_000_000, probe=QUESTION, probes=[QUESTION] * 12)


def simulate(hosts: int, flaw: Flaw, *, keep: bool = False) -> tuple[Result, list[events.Event]]:
    """One simulated rollout with the default policy, its fleet and plan included; with ``keep`` what happened in it."""
    model = Model()
    devices = synthetic(hosts, model, "0")
    plan = plans.make([device.target for device in devices], Policy(), RELEASE)
    run = Run(plan, devices, flaw, model=model, keep=keep)
    return run.run(), run.events


def timed(runs: int, work: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of the clock and of the processor that ``work`` takes."""
    clock, processor = [], []
    for _ in range(runs):
        began, used = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
    return statistics.median(clock), statistics.median(processor)


def main() -> int:
    """Print the figures; 1 where they fall short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--release", default="good", type=Flaw.parse)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    _, small = timed(given.runs, lambda: simulate(max(1, given.hosts // 10), given.release))
    clock, processor = timed(given.runs, lambda: simulate(given.hosts, given.release))
    result, happened = simulate(given.hosts, given.release, keep=True)
    _, fold = timed(given.runs, lambda: events.replay(happened))
    bar = BARS_S.get(given.hosts)
    found = {
        "hosts": given.hosts,
        "release": str(given.release),
        "clock_s": round(clock, 3),
        "processor_s": round(processor, 3),
        "linear": round(processor / (10 * small), 2),
        "events": len(happened),
        "fold_s": round(fold, 3),
        "ratio": round(processor / fold, 1),
        "bar_s": bar,
        "ok": bar is None or processor <= bar,
        "simulated_s": result.duration_s,
        "counts": result.counts,
    }
    print(
        json.dumps(found, indent=2) if given.json else "\n".join(f"{name:12} {value}" for name, value in found.items())
    )
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
