"""How long from a breach until every affected host serves the version before.

    .venv/bin/python -m bench.rollout_breach [-i INVENTORY] [--runs 3] [--json]    on a converged emulated fleet
    .venv/bin/python -m bench.rollout_breach --hosts 30 [--json]                   on one made for it (half an hour)

A version that differs from the one in service by its number alone goes to all hosts but one, which wait for an approval
with it in service. Then one of them gets too hot. Two times are taken: from the board's becoming hot, and from the
rollout's finding (``HostFell``), until the last affected host had answered that it serves the version before; the first
one has the looks in it that a fall needs. Each host's own report is asked for afterwards.

Ends with 1 where the median from the finding is above the bar: 15 s on the demo fleet, 60 s for more hosts in parallel.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec
from bench import breach_fleet
from bench.breach_fleet import BIN, run
from bench.proof import ROOT, machine

from hedgerow import inventory as inventories
from hedgerow import output, paths
from hedgerow.errors import HedgerowError
from hedgerow.fleet import access
from hedgerow.fleet.endpoint import DeviceClient
from hedgerow.identity.profiles import Profile
from hedgerow.inventory import Inventory
from hedgerow.registry import blobs
from hedgerow.registry import manifest as manifests
from hedgerow.registry.authority.session import store_of_stage
from hedgerow.registry.reference import Reference
from hedgerow.registry.verify import trusted
from hedgerow.rollout import store
from hedgerow.rollout.events import HostFell, HostUndone, State
from hedgerow.rollout.journal import Journal

BAR_S, BAR_MANY_S, MANY = 15.0, 60.0, 10
HOT_C, WELL_C = 86, 48
WITHIN_S = 900.0
Value = TypeVar("Value")


@dataclass(frozen=True)
class Breach:
    """One measured breach, in seconds; ``hosts`` were affected and served ``model`` afterwards."""

    hosts: int
    model: str
    from_heat_s: float
    from_finding_s: float


class Fleet:
    """A converged fleet and the versions that it is given."""

    def __init__(self, inventory: Inventory, folder: Path) -> None:
        self.inventory = inventory
        self.pis = [host.name for host in inventory.pis]
        self._folder = folder
        self._rollouts = store.folder(inventory.fleet)
        self._where = ("-i", str(inventory.path))
        self._numbers = itertools.count(int(time.time()))  # higher than those of any run before

    def serves(self) -> set[str | None]:
        """What all Pis together serve, as their reports say; None where one does not answer."""
        return {self._report(host) for host in self.pis}

    def next_version(self, reference: str) -> str:
        """Publish the same files under a number that the registry does not have."""
        served = Reference.parse(reference)
        registry = store_of_stage(self.inventory.fleet, self.inventory.registry_stage)
        manifest, _ = trusted(registry, served)
        major, minor, patch = (int(part) for part in served.version.partition("-")[0].split("."))
        version = f"{major}.{minor}.{patch + next(self._numbers)}"
        bundle = self._folder / version
        for file in manifest.files:
            (bundle / file.path).parent.mkdir(parents=True, exist_ok=True)
            with registry.open(blobs.path(file.sha256)) as blocks, (bundle / file.path).open("wb") as copy:
                copy.writelines(blocks)
        renamed = msgspec.structs.replace(manifest, version=version)
        (bundle / manifests.FILE_NAME).write_bytes(manifests.encode(renamed))
        run("hedgerow", "registry", "publish", str(bundle), "--yes", *self._where)
        run("ansible-playbook", *self._where, "playbooks/publish.yml")
        return f"{served.name}@{version}"

    def breach(self, log: Path) -> Breach:
        """Release, breach, wait until everybody is back.

        Raises:
            SystemExit: the rollout ended or stopped for another reason; its output is shown.
        """
        (before,) = self.serves()
        if before is None:
            sys.exit("the fleet does not answer; converge it first")
        bundle = self.next_version(before)
        policy = {
            "waves": [len(self.pis) - 1, 1],
            # What is measured begins when all have it: they may take their time to get it.
            "soak": {"passes": 2, "interval_s": 0.5, "deadline_s": 600},
            "gate": {"probes": {"count": 4, "baseline_s": 2}, "without": ["slower"]},
            "confirm_within_s": 900,
            "cooldown_s": 0,
            "approvals": [{"before_wave": 2, "by": ["nobody"], "unsigned": True}],
        }
        extra = json.dumps({"bundle": bundle, "rollout_policy": policy})
        command = [str(BIN / "ansible-playbook"), *self._where, "playbooks/rollout.yml", "-e", extra]
        known = set(store.ids(self._rollouts))
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--forks", str(len(self.pis))], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
            )
        try:
            new = _await(lambda: set(store.ids(self._rollouts)) - known, process, log)
            (rollout,) = new
            output.step(f"{rollout}: {len(self.pis) - 1} hosts are to have it")
            state = _await(lambda: self._waits(rollout), process, log)
            return self._measure(rollout, state, before, process)
        finally:
            process.terminate()
            process.wait()

    def _measure(self, rollout: str, state: State, before: str, process: subprocess.Popen[bytes]) -> Breach:
        affected = set(state.plan.waves[0])
        victim = state.plan.waves[0][0]
        heat = datetime.now(UTC)
        run("hedgerow", "emulate", "set", victim, f"temperature_c={HOT_C}", *self._where)
        try:
            process.wait(WITHIN_S)
        finally:
            run("hedgerow", "emulate", "set", victim, f"temperature_c={WELL_C}", *self._where)
        journal = Journal(self._rollouts / rollout).events()
        fell = [event for event in journal if isinstance(event, HostFell)]
        undone = {event.host: event for event in journal if isinstance(event, HostUndone)}
        if not fell or set(undone) != affected:
            sys.exit(f"{len(undone)} of {len(affected)} hosts went back; see: hedgerow rollout report {rollout}")
        if self.serves() != {before}:
            sys.exit(f"not every host serves {before}: {self.serves()}")
        last = max(datetime.fromisoformat(event.at) for event in undone.values())
        found = (last - datetime.fromisoformat(fell[0].at)).total_seconds()
        return Breach(len(affected), before, round((last - heat).total_seconds(), 2), round(found, 2))

    def _waits(self, rollout: str) -> State | None:
        """The journal's state once the first wave is through and the second waits for somebody."""
        state = store.read(self._rollouts, rollout)[1]
        return state if state.wave >= 1 and state.waiting and set(state.plan.waves[0]) <= set(state.holding) else None

    def _report(self, host: str) -> str | None:
        found = self.inventory.hosts[host]
        endpoint = access.endpoint(host, found.address, site=found.site, fleet=self.inventory.fleet)
        try:
            with DeviceClient(endpoint, access.context(self.inventory.fleet, Profile.OPERATOR), timeout_s=10) as client:
                return client.report().reference
        except HedgerowError:
            return None


def _await(what: Callable[[], Value | None], process: subprocess.Popen[bytes], log: Path) -> Value:
    deadline = time.monotonic() + WITHIN_S
    while not (value := what()):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the rollout did not come that far:\n{log.read_text(encoding='utf-8')[-4000:]}")
        time.sleep(0.1)
    return value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--inventory", type=Path, default=ROOT / "inventory/emulated", help="%(default)s")
    parser.add_argument("--hosts", type=int, help="make a fleet of so many Pis for it, and remove it")
    parser.add_argument("--runs", type=int, default=3, help="breaches to take the median of (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=paths.var_dir(), prefix="breach-")))
        if arguments.hosts:
            inventory = stack.enter_context(breach_fleet.converged(arguments.hosts, folder))
        else:
            inventory = inventories.load(arguments.inventory)
        fleet = Fleet(inventory, folder)
        runs = [fleet.breach(folder / f"{number}.log") for number in range(arguments.runs)]
    bar = BAR_S if len(fleet.pis) < MANY else BAR_MANY_S
    median = statistics.median(each.from_finding_s for each in runs)
    if arguments.json:
        said = {"machine": machine(), "runs": [asdict(each) for each in runs], "median_s": median, "bar_s": bar}
        output.print_json(said | {"ok": median <= bar})
    else:
        rows = [(each.hosts, each.model, f"{each.from_heat_s:.1f}", f"{each.from_finding_s:.1f}") for each in runs]
        headings = ("hosts", "back on", "from the heat, s", "from the finding, s")
        output.print_table(f"breach to all back: {median:.1f} s (bar {bar:g} s), on {machine()}", headings, rows)
    return 0 if median <= bar else 1


if __name__ == "__main__":
    sys.exit(main())
