"""What a converge that changes nothing costs: executions a host, CPU an execution, wall time.

    .venv/bin/python bench/converge.py [-i inventory/emulated] [--runs 3] [--json]

The limit is what the executions themselves cost. One execution's cost is measured in the same run, by asking
every host for ``ping`` several times; the bar is ``1.25 × executions × unit CPU ÷ cores``. Emulated hosts live on
this machine, so the machine's busy time covers controller and hosts together; nothing else should be running.

An execution is one program that a host ran for Ansible: the connection plugin in ``bench/plugins`` counts them.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from hedgerow.inventory import load

ROOT = Path(__file__).resolve().parent.parent
PINGS = 5
MAX_EXECUTIONS = 60
MAX_RATIO = 1.25


@dataclass(frozen=True)
class Run:
    """One timed command: seconds of wall time, CPU seconds of the whole machine, executions by host."""

    wall_s: float
    cpu_s: float
    executions: dict[str, int]
    output: str


@dataclass(frozen=True)
class Result:
    """Medians over the runs; ``limit_s`` is executions × unit CPU ÷ cores."""

    cores: int
    runs: int
    executions_per_host: dict[str, int]
    unit_cpu_s: float
    wall_s: float
    wall_spread_s: tuple[float, float]
    cpu_s: float
    limit_s: float
    ratio: float
    changed: int


def busy_seconds() -> float:
    """CPU time that all processes of this machine have used (proc_stat(5): user, nice, system, irq, softirq)."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return sum(fields[i] for i in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


def timed(command: list[str], names: dict[str, str]) -> Run:
    """Run an Ansible command with the counting connection; ``names`` maps an address to its host."""
    with tempfile.NamedTemporaryFile("r", suffix=".executions") as counts:
        env = {
            **os.environ,
            "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "bench/plugins/connection"),
            "HEDGEROW_EXECUTIONS": counts.name,
            "ANSIBLE_NOCOLOR": "1",
        }
        command = [*command, "-e", "ansible_connection=counting_ssh"]
        busy, started = busy_seconds(), time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, check=False)
        wall, cpu = time.monotonic() - started, busy_seconds() - busy
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}")
        return Run(wall, cpu, dict(collections.Counter(names[line] for line in counts.read().split())), done.stdout)


def measure(inventory: Path, runs: int) -> Result:
    """Measure ``runs`` converges beside as many batches of pings."""
    ansible = Path(sys.executable).with_name("ansible")
    converge = [str(ansible.with_name("ansible-playbook")), "-i", str(inventory), "playbooks/site.yml"]
    ping = [str(ansible), "-i", str(inventory), "pis:gateways", "-b", "-m", "ansible.builtin.ping"]
    names = {host.address: host.name for host in load(inventory).hosts.values()}
    timed(ping, names)  # connections are up
    timed(converge, names)  # whatever was to change has changed
    units: list[float] = []
    converges: list[Run] = []
    for _ in range(runs):
        pings = [timed(ping, names) for _ in range(PINGS)]
        units.append(sum(run.cpu_s for run in pings) / sum(sum(run.executions.values()) for run in pings))
        converges.append(timed(converge, names))
    walls = [run.wall_s for run in converges]
    executions = converges[-1].executions
    unit = statistics.median(units)
    cores = len(os.sched_getaffinity(0))
    limit = sum(executions.values()) * unit / cores
    return Result(
        cores=cores,
        runs=runs,
        executions_per_host=executions,
        unit_cpu_s=round(unit, 3),
        wall_s=round(statistics.median(walls), 1),
        wall_spread_s=(round(min(walls), 1), round(max(walls), 1)),
        cpu_s=round(statistics.median(run.cpu_s for run in converges), 1),
        limit_s=round(limit, 1),
        ratio=round(statistics.median(walls) / limit, 2),
        changed=sum(int(count) for count in re.findall(r"changed=(\d+)", converges[-1].output)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--inventory", type=Path, default=Path("inventory/emulated"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments = parser.parse_args()
    result = measure(arguments.inventory, arguments.runs)
    if arguments.as_json:
        print(json.dumps(asdict(result)))
    else:
        for host, count in sorted(result.executions_per_host.items()):
            print(f"{host:24} {count:4} executions (bar {MAX_EXECUTIONS})")
        low, high = result.wall_spread_s
        print(f"unit CPU {result.unit_cpu_s} s, {result.cores} cores: limit {result.limit_s} s")
        print(
            f"wall {result.wall_s} s ({low} to {high}), CPU {result.cpu_s} s, {result.ratio} × limit (bar {MAX_RATIO})"
        )
    within = max(result.executions_per_host.values()) <= MAX_EXECUTIONS and result.ratio <= MAX_RATIO
    return 0 if within and result.changed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
