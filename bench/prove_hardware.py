"""Prove the hardware roles: every claim with its bar and what was measured, non-zero where one falls short.

    make prove-hardware                                  everything: about an hour and a half on two cores
    .venv/bin/python -m bench.prove_hardware --only roles
    .venv/bin/python -m bench.prove_hardware --only vm

The parts: `failures` (what docs/failures.md claims), `roles` (every role's scenario on shared hosts, timed), `upgrade`
(one version lock, the next, and back), `site` (the whole site, its host and fleet tests), `vm` (a virtual machine with
a kernel of its own). What only a board can show is not in this table: docs/real-boards.md lists it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections import Counter

from bench.proof import ROOT, Proof, pytest

BIN = ROOT / ".venv/bin"
ROLES_S = 25 * 60
_VERDICT = re.compile(r"^\| F\d+ \|.*?\| \*\*(.+?)\*\*", re.MULTILINE)
_FAILURE_TEST = re.compile(r"`(tests/[\w/]+\.py::test_f\d\d_\w+)`")
PARTS = ("failures", "roles", "upgrade", "site", "vm")

# Claims about pure decisions and single parts: tests that need no host.
DECISIONS: dict[str, tuple[str, ...]] = {
    "a broken or unknown combination of versions is refused by name of the rule": ("tests/unit/release",),
    "config.txt and cmdline.txt: no foreign line lost, tokens compared": ("tests/unit/converge/test_boot.py",),
    "a boot trial interrupted at any write leaves old or new": ("tests/unit/device/test_boot_trial.py",),
    "one writer a path, unit and user; options equal defaults; no plain secret; every template validated": (
        "tests/policy",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given several times")
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments = parser.parse_args()
    proof = Proof()
    for part in arguments.only or PARTS:
        {"failures": failures, "roles": roles, "upgrade": upgrade, "site": site, "vm": machine}[part](proof)
    return proof.finish("Boards and their stack", as_json=arguments.as_json)


def failures(proof: Proof) -> None:
    """The 48 failures: what the table claims, and that the tests named there pass."""
    text = (ROOT / "docs/failures.md").read_text(encoding="utf-8")
    verdicts = Counter(_VERDICT.findall(text))
    shown = ", ".join(f"{count} {verdict.lower()}" for verdict, count in verdicts.items())
    proof.add("failures of the field that have an answer", "all 48 named", shown, ok=sum(verdicts.values()) == 48)
    names = sorted(set(_FAILURE_TEST.findall(text)))
    plain = [name for name in names if name.startswith(("tests/unit", "tests/faults", "tests/policy"))]
    claim = "tests named after a failure that need no host"
    proof.add_tests({claim: tuple(plain)}, pytest(plain))
    proof.add_tests(DECISIONS, pytest(sorted({test for tests in DECISIONS.values() for test in tests})))


def roles(proof: Proof) -> None:
    """Every role: check, converge, idempotence, verify, other input, verify, on hosts that are booted once."""
    names = make("roles", ["tools/changed_roles.py", "--all"]).split()
    seconds, text, code = molecule("test", "--shared-state", *(word for name in names for word in ("-s", name)))
    done = [name for name in names if f"{name} ➜ verify: Executed: Successful" in text]
    measured = f"{len(done)} of {len(names)} scenarios, {seconds / 60:.1f} min"
    if code != 0:
        measured += f"; stopped in {names[len(done)] if len(done) < len(names) else 'the clean-up'}"
    proof.add("every role's scenario on shared hosts", "all, ≤ 25 min", measured, ok=code == 0 and seconds <= ROLES_S)


def upgrade(proof: Proof) -> None:
    seconds, _, code = molecule("test", "-s", "upgrade")
    claim = "one version lock → the next → back, in rings, gated after each host"
    proof.add(claim, "all steps", f"exit code {code}, {seconds / 60:.1f} min", ok=code == 0)


def site(proof: Proof) -> None:
    seconds, text, code = molecule("test", "-s", "site")
    passed = ", ".join(re.findall(r"\d+ passed[^\n=]*", text)[-1:])
    proof.add("the whole site, host tests, firewall, boot trial and lifecycle on emulated hosts", "all pass",
              f"exit code {code}, {passed.strip()}, {seconds / 60:.1f} min", ok=code == 0)  # fmt: skip


def machine(proof: Proof) -> None:
    """The virtual machine: AppArmor, sysctl, nftables, reboot, power cut, trial boot, LUKS, aarch64 wheels."""
    started = time.monotonic()
    done = subprocess.run(["make", "test-vm"], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False)  # fmt: skip
    sys.stderr.write(done.stdout[-3000:])
    passed = ", ".join(re.findall(r"\d+ passed[^\n=]*", plain(done.stdout)))
    minutes = (time.monotonic() - started) / 60
    proof.add("the virtual machine with a kernel of its own", "all pass",
              f"exit code {done.returncode}, {passed.strip()}, {minutes:.1f} min", ok=done.returncode == 0)  # fmt: skip


def make(what: str, arguments: list[str]) -> str:
    done = subprocess.run([str(BIN / "python"), *arguments], cwd=ROOT, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"cannot list {what}:\n{done.stderr}")
    return done.stdout


def molecule(*arguments: str) -> tuple[float, str, int]:
    """Run Molecule; seconds, its output without colour, exit code."""
    started = time.monotonic()
    done = subprocess.run(["tools/molecule.sh", *arguments], cwd=ROOT, text=True,
                          env=os.environ | {"HEDGEROW_SITE_TESTS": "fleet"},  # the nightly ones, too
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # fmt: skip
    if done.returncode != 0:
        sys.stderr.write(plain(done.stdout)[-6000:])
    return time.monotonic() - started, plain(done.stdout), done.returncode


def plain(text: str) -> str:
    """Molecule colours what it prints, asked or not."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


if __name__ == "__main__":
    sys.exit(main())
