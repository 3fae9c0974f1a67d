"""How long a plan takes for a large fleet, beside a bare sort of the same hosts.

    .venv/bin/python bench/rollout_plan.py [--hosts 10000] [--runs 7] [--json]

The inventory is in memory, as it is for every command. The fleet has a hundred sites and every kind of board, memory,
HAT, cooling and storage, so it has a few thousand strata: what spreading hosts over them costs is in the figure. The
policy is the default one with a wave by label before it. ``plan`` is held to 2 s for 10 000 hosts; ``text`` (the lines
for people) and ``bytes`` (``plan.json``, which the journal begins with) are what an operator waits for besides.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import msgspec

from hedgerow.registry.manifest import GoldenText, Message, Requires
from hedgerow.rollout import plan as plans
from hedgerow.rollout import policy as policies
from hedgerow.rollout.plan import Plan, Release, Target
from hedgerow.rollout.plan_text import describe
from hedgerow.rollout.variants import Variant

BAR_S = 2.0
BAR_HOSTS = 10_000
SITES = 100


@dataclass(frozen=True)
class Spread:
    """Seconds: median, least and greatest."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median * 1e3:.1f} ms ({self.least * 1e3:.1f} to {self.greatest * 1e3:.1f})"


@dataclass(frozen=True)
class Result:
    """``ratio``: the plan's median by the sort's."""

    hosts: int
    strata: int
    waves: int
    batches: int
    incompatible: int
    plan: Spread
    sort: Spread
    ratio: float
    text: Spread
    text_lines: int
    encode: Spread
    decode: Spread
    bytes: int


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=BAR_HOSTS)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(fleet(options.hosts), runs=options.runs)
    bar_s = BAR_S * max(1.0, options.hosts / BAR_HOSTS)
    ok = result.plan.median <= bar_s
    if options.json:
        print(json.dumps(asdict(result) | {"bar_s": bar_s, "ok": ok}, indent=2))
    else:
        print(f"{result.hosts} hosts, {result.strata} strata: {result.waves} waves, {result.batches} batches")
        print(f"plan       {result.plan}, bar {bar_s:g} s: {'ok' if ok else 'SHORT'}")
        print(f"bare sort  {result.sort}; the plan takes {result.ratio:.0f} times as long")
        print(f"text       {result.text}, {result.text_lines} lines")
        print(f"plan.json  {result.bytes / 1e6:.2f} MB; write {result.encode}, read {result.decode}")
    return 0 if ok else 1


def fleet(hosts: int) -> list[Target]:
    """Hosts of many kinds, the same ones every time."""
    chance = random.Random(7)
    return [
        Target(
            name=f"pi-{number:05d}",
            site=f"site-{chance.randrange(SITES):03d}",
            hat=chance.choices(["none", "hat-plus-13", "hat-plus-26", "hat-plus-2"], [6, 1, 1, 3])[0],
            cooling=chance.choices(["active", "passive"], [9, 1])[0],
            storage=chance.choices(["sd", "usb-ssd", "nvme"], [2, 1, 4])[0],
            board=chance.choice(["1.0", "1.1"]),
            memory_mb=chance.choices([2048, 4096, 8192, 16384], [1, 3, 5, 1])[0],
            labels={"ring": "early"} if chance.random() < 0.02 else {},
            hold="fan on order" if chance.random() < 0.01 else None,
        )
        for number in range(hosts)
    ]


def measure(targets: Sequence[Target], *, runs: int) -> Result:
    """Take turns, so that what else runs on the machine hits all of them."""
    policy = policies.parse({"waves": [1, {"label": {"ring": "early"}}, "10%", "50%", "100%"]}, where="bench")
    release = _release()
    names = [target.name for target in targets]
    random.Random(8).shuffle(names)
    made = plans.make(targets, policy, release)
    data = msgspec.json.encode(made)
    taken: dict[str, list[float]] = {name: [] for name in ("plan", "sort", "text", "encode", "decode")}
    for _ in range(runs):
        taken["plan"].append(_seconds(lambda: plans.make(targets, policy, release)))
        taken["sort"].append(_seconds(lambda: sorted(names)))
        taken["text"].append(_seconds(lambda: describe(made)))
        taken["encode"].append(_seconds(lambda: msgspec.json.encode(made)))
        taken["decode"].append(_seconds(lambda: msgspec.json.decode(data, type=Plan)))
    spread = {name: Spread(statistics.median(each), min(each), max(each)) for name, each in taken.items()}
    return Result(
        hosts=len(targets),
        strata=len(made.strata),
        waves=len(made.waves),
        batches=len(made.serial),
        incompatible=len(made.incompatible),
        plan=spread["plan"],
        sort=spread["sort"],
        ratio=spread["plan"].median / spread["sort"].median,
        text=spread["text"],
        text_lines=len(describe(made)),
        encode=spread["encode"],
        decode=spread["decode"],
        bytes=len(data),
    )


def _release() -> Release:
    variants = [
        Variant(name="cpu", requires=Requires(memory_mb=3000), sha256="a" * 64, size_bytes=900_000_000),
        Variant(
            name="hailo-10h", requires=Requires(memory_mb=1500, hat=("hat-plus-2",)), sha256="b" * 64, size_bytes=10**9
        ),
    ]
    probe = GoldenText(messages=(Message("user", "What is the capital of France?"),), expect="Paris")
    return Release(bundle="assistant@1.1.0", sha256="a" * 64, size_bytes=900_000_000, probe=probe, variants=variants)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
