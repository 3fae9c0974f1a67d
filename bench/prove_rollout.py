"""Prove the rolling update: every claim with its bar and what was measured, non-zero where one falls short.

    make prove-rollout                                   everything: about an hour and a half on two cores
    .venv/bin/python -m bench.prove_rollout --only figures

The parts: `decisions` (rules that need no host), `crashes` (the engine killed at every write and every call, resumed),
`figures` (plan, simulation, the engine's own cost), `fleet` (eight emulated Pis: good releases, bad ones, and what
breaks on the way), `breach` (how long until everybody is back: the demo fleet, which it makes if it is not up, and
thirty Pis, which it makes and removes).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

from bench.proof import ROOT, Proof, bench, pytest

BIN = ROOT / ".venv/bin"
DEMO = ("-i", "inventory/emulated")
PARTS = ("decisions", "crashes", "figures", "fleet", "breach")
UNIT = "tests/unit/rollout"

DECISIONS: dict[str, tuple[str, ...]] = {
    "waves are stratified, seeded and stable; sites keep their hosts": (
        f"{UNIT}/test_strata.py",
        f"{UNIT}/test_wave_entries.py",
        f"{UNIT}/test_site_batches.py",
        f"{UNIT}/test_spare.py",
    ),
    "freezes and windows hold in local time, with hard ends": (f"{UNIT}/test_schedule.py",),
    "the gate judges with stated statistics, never passes without data, and knows the environment": (f"{UNIT}/gate",),
    "budgets, approvals, stops and what goes back follow from the journal alone": (f"{UNIT}/test_decide.py",),
    "a bundle that was taken back is not rolled out again at once; held and quarantined hosts stay out": (
        f"{UNIT}/test_cooldown.py",
        f"{UNIT}/test_holds.py",
    ),
    "the playbook does what is decided: real ansible-playbook, devices in memory": (f"{UNIT}/test_playbook.py",),
    "evidence is sealed, and what was changed in it is named": (f"{UNIT}/test_evidence.py",),
    "whom the policy names is told, without a secret in any journal": (f"{UNIT}/test_notify.py",),
    "a silent host or a channel that hangs holds up nobody's way back": (
        f"{UNIT}/test_way_back.py",
        f"{UNIT}/test_messenger.py",
    ),
    "waves that do not wait see a slow leak, too": (f"{UNIT}/test_recheck.py",),
    "downloads run ahead, inside of their windows, and are verified and not repeated": (f"{UNIT}/test_staging.py",),
    "simulated rollouts forget nobody and keep their budgets": (f"{UNIT}/simulate",),
}
CRASHES = {"killed at every write and call, then resumed: the same final state": (f"{UNIT}/test_engine_killed.py",)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given several times")
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments = parser.parse_args()
    proof = Proof()
    for part in arguments.only or PARTS:
        parts = {"decisions": decisions, "crashes": crashes, "figures": figures, "fleet": fleet, "breach": breach}
        parts[part](proof)
    return proof.finish("The rolling update", as_json=arguments.as_json)


def decisions(proof: Proof) -> None:
    proof.add_tests(DECISIONS, pytest(sorted({test for tests in DECISIONS.values() for test in tests})))


def crashes(proof: Proof) -> None:
    proof.add_tests(CRASHES, pytest([name for tests in CRASHES.values() for name in tests]))


def figures(proof: Proof) -> None:
    """The benches' own bars; each compares side by side in one run."""
    plan = bench("rollout_plan")
    proof.add("a plan for 10 000 hosts", "≤ 2 s", f"{plan['plan']['median']:.2f} s", ok=plan["ok"])
    run = bench("rollout_simulate")
    proof.add("10 000 devices simulated, the real decisions", "≤ 10 s", f"{run['processor_s']:.1f} s", ok=run["ok"])
    cost = bench("rollout_overhead")
    took, bar = float(cost["median_ms"]), float(cost["bar_ms"])
    proof.add("the engine's own cost a host, over the mechanism's", f"≤ {bar:g} ms", f"{took:.0f} ms", ok=took <= bar)


def fleet(proof: Proof) -> None:
    """The scenario `rollout`: its tests count callers' requests, and look at every host after each."""
    claim = "good and bad releases, faults at every step, controller killed, on eight emulated Pis; no request fails"
    proof.add_scenario("rollout", claim)


def breach(proof: Proof) -> None:
    """From a breach to the last host that serves the version before."""
    was_up = subprocess.run([BIN / "hedgerow", "fleet", "table", *DEMO], cwd=ROOT, capture_output=True, check=False)
    subprocess.run([BIN / "hedgerow", "demo", "--inventory", DEMO[1]], cwd=ROOT, stdout=sys.stderr, check=True)
    try:
        add_breach(proof, "the demo fleet with its model", bench("rollout_breach", *DEMO))
    finally:
        if was_up.returncode != 0:
            subprocess.run([BIN / "hedgerow", "emulate", "down", *DEMO], cwd=ROOT, stdout=sys.stderr, check=True)
    add_breach(proof, "30 hosts in parallel", bench("rollout_breach", "--hosts", "30", "--runs", "1"))


def add_breach(proof: Proof, which: str, found: dict[str, Any]) -> None:
    claim = f"breach to all affected hosts serving the version before: {which}"
    hosts, heat = found["runs"][0]["hosts"], max(run["from_heat_s"] for run in found["runs"])
    measured = f"{found['median_s']:.1f} s for {hosts} hosts (from the board's becoming hot {heat:.1f} s at most)"
    proof.add(claim, f"≤ {found['bar_s']:g} s", measured, ok=found["ok"])


if __name__ == "__main__":
    sys.exit(main())
