"""Prove the whole path: figures, faults and bad inputs, one table, non-zero where one falls short.

    make prove-slice                       everything: about half an hour on two cores
    .venv/bin/python -m bench.prove_slice --only faults
    .venv/bin/python -m bench.prove_slice --yardstick DIR   (bench/README.md says how to make the yardstick)

The figures come from a fresh clone in a temporary folder, with nothing cached: what a new user gets. The embedded
default's fleet must not be running elsewhere on this machine, because both want its addresses.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.proof import ROOT, Proof, pytest, run

from hedgerow import output

PIS = 3
HOSTS = 4
ANSWER = "The capital of France is Paris."
# Where a warm run is interrupted, in seconds: while it looks, while it converges, while it releases.
INTERRUPTS_S = (3.0, 12.0, 22.0)

# claim → tests that show it; every one must pass and none may be skipped.
FAULTS: dict[str, tuple[str, ...]] = {
    "an unknown inventory key is named": ("tests/unit/inventory/test_checks.py::test_unknown_key",),
    "two hosts with one serial are named": ("tests/unit/inventory/test_rules.py::test_two_hosts_with_one_serial",),
    "a wrong HAT name is named": ("tests/unit/inventory/test_checks.py::test_wrong_hat",),
    "podman missing, or no rights: said plainly": ("tests/unit/emulator/test_checks.py",),
    "a truncated model file is refused": (
        "tests/faults/test_fetch.py::test_a_pack_that_is_too_short",
        "tests/faults/test_fetch.py::test_f23_a_file_that_changed_at_its_address_is_refused",
    ),
    "a wrong signature is refused; the old model keeps serving": (
        "tests/faults/test_fetch.py::test_a_registry_that_other_keys_signed",
        "tests/faults/test_fetch.py::test_a_wrong_signature_is_refused_and_the_old_model_keeps_serving",
    ),
    "a full disk leaves no half-written model": (
        "tests/faults/test_fetch.py::test_too_little_space_is_known_before_the_download",
        "tests/faults/test_fetch.py::test_a_disk_that_fills_up_meanwhile",
    ),
    "an activation or fetch killed at any step leaves one whole version": (
        "tests/faults/test_activation_killed.py",
        "tests/faults/test_fetch.py::test_killed_at_every_step_of_a_fetch",
        "tests/faults/test_real_server.py",
    ),
    "a publish killed at any step leaves a registry that devices accept": ("tests/faults/test_publish_killed.py",),
    "a taken port is named, with its owner": (
        "tests/unit/server/test_process.py::test_a_port_that_is_taken_says_by_whom",
        "tests/fleet/test_site_faults.py::test_a_taken_port_is_named_and_the_host_shown_as_failing",
    ),
    "a swap under load loses no request; profiles, drain and renewal hold": ("tests/unit/server/test_process.py",),
    "unmodified third-party clients are served": ("tests/conformance",),
    "first contact: an impostor's host key is refused": ("tests/fleet/test_first_contact.py",),
    "emulated hosts: killed, outdated, powered off, removed": ("tests/fleet/test_emulated_fleet.py",),
    "what a converged host must be": ("tests/host",),
    "a Pi switched off, a full disk, a taken port, a wrong signature on a live fleet": (
        "tests/fleet/test_site_faults.py",
    ),
    "a release that answers wrongly, heats a host, or loses its controller": ("tests/fleet/test_rollout.py",),
    "Mender: standalone install, commit and rollback": ("tests/fleet/test_mender.py",),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("figures", "faults"), help="one half of the proof")
    parser.add_argument("--yardstick", type=Path, help="output folder of onnxruntime-genai's own model builder")
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments = parser.parse_args()
    proof = Proof()
    if arguments.only in {None, "faults"}:
        prove_faults(proof)
    if arguments.only in {None, "figures"}:
        with fresh_clone() as clone:
            prove_figures(proof, clone, arguments.yardstick)
    return proof.finish("The whole path", as_json=arguments.as_json)


# ── figures ─────────────────────────────────────────────────────────────────


@contextmanager
def fresh_clone() -> Iterator[Path]:
    """A clone of HEAD with nothing cached; cleaned up with its own ``make clean``, which is itself a claim."""
    run(["git", "diff", "--quiet", "HEAD"], ROOT, why="commit first: the clone holds what is committed")
    run([str(ROOT / ".venv/bin/hedgerow"), "emulate", "down", "-i", "inventory/emulated"], ROOT)
    with tempfile.TemporaryDirectory(prefix="hedgerow-prove-", ignore_cleanup_errors=True) as folder:
        clone = Path(folder) / "hedgerow"
        run(["git", "clone", "--quiet", str(ROOT), str(clone)], ROOT)
        try:
            yield clone
        finally:
            if clone.exists():
                subprocess.run(["make", "clean"], cwd=clone, check=False, capture_output=True)


def prove_figures(proof: Proof, clone: Path, yardstick: Path | None) -> None:
    """Cold, warm and interrupted demos, a converge, the server, the model, and what cleaning leaves."""
    wall, text, code = timed_demo(clone)
    proof.add("make demo, cold", "≤ 600 s", f"{wall:.0f} s, exit code {code}", ok=code == 0 and wall <= 600)
    if code != 0:
        output.err.print(text[-4000:], markup=False, highlight=False)
        return
    took = json.loads((clone / "var/demo/timings.json").read_text())["steps_s"]
    for step, claim, bar in (
        ("boot", "four hosts booted", 20),
        ("bootstrap", "first contact with all four", 20),
        ("sweep", "a sweep of all four", 10),
    ):
        proof.add(claim, f"≤ {bar} s", f"{took[step]:.1f} s", ok=took[step] <= bar)
    answered = len(re.findall(re.escape(ANSWER), text))
    proof.add(f"every Pi answers “{ANSWER}”", f"{PIS} Pis", f"{answered} Pis", ok=answered == PIS)
    prove_interrupts(proof, clone)
    wall, text, code = timed_demo(clone)
    changed = [int(count) for count in re.findall(r"changed=(\d+)", text)]
    proof.add("make demo, warm", "≤ 120 s", f"{wall:.0f} s, exit code {code}", ok=code == 0 and wall <= 120)
    nothing = code == 0 and len(changed) >= HOSTS and not any(changed)
    proof.add("a second make demo changes nothing", "changed=0 everywhere", f"changed={sum(changed)}", ok=nothing)
    prove_converge(proof, clone)
    prove_server(proof, clone)
    prove_model(proof, clone, yardstick)
    prove_clean(proof, clone)


def timed_demo(clone: Path) -> tuple[float, str, int]:
    """Run ``make demo``; seconds, output, exit code."""
    started = time.monotonic()
    done = subprocess.run(
        ["make", "demo"], cwd=clone, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return time.monotonic() - started, done.stdout, done.returncode


def prove_interrupts(proof: Proof, clone: Path) -> None:
    """Ctrl-C at several points of a warm run: it ends by itself; the warm run timed next shows that it goes on."""
    codes = []
    for seconds in INTERRUPTS_S:
        process = subprocess.Popen(
            ["make", "demo"], cwd=clone, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
        codes.append(process.wait(timeout=60))
    ended = all(code != 0 for code in codes)
    points = ", ".join(f"{seconds:.0f}" for seconds in INTERRUPTS_S)
    proof.add(
        "Ctrl-C on a standing fleet, then make demo goes on",
        "ends by itself; the next run succeeds",
        f"interrupted after {points} s",
        ok=ended,
    )


def prove_converge(proof: Proof, clone: Path) -> None:
    done = bench(clone, "bench/converge.py", "--runs", "3")
    if done is None:
        proof.add("a converge that changes nothing", "measured", "the benchmark failed", ok=False)
        return
    counts = done["executions_per_host"]
    shown = ", ".join(f"{host} {count}" for host, count in sorted(counts.items()))
    proof.add("module executions a host, no change", "≤ 60", shown, ok=max(counts.values()) <= 60)
    low, high = done["wall_spread_s"]
    measured = f"{done['ratio']} ×: {done['wall_s']} s ({low} to {high}), unit {done['unit_cpu_s']} CPU-s"
    proof.add("its wall time over executions × unit CPU ÷ cores", "≤ 1.25 ×", measured, ok=done["ratio"] <= 1.25)


def prove_server(proof: Proof, clone: Path) -> None:
    done = bench(clone, "-m", "bench.server_overhead")
    claim, bar_text = "server's tokens/s over a bare loop, ten pairs", "≥ 95 %"
    if done is None:
        proof.add(claim, bar_text, "the benchmark failed", ok=False)
    else:
        ratio, server, bare = (done[key]["median"] for key in ("ratio", "server_tokens_per_s", "bare_tokens_per_s"))
        least, greatest = done["ratio"]["least"], done["ratio"]["greatest"]
        measured = f"{ratio:.1%} ({least:.1%} to {greatest:.1%}; {server:.0f} against {bare:.0f} tokens/s)"
        proof.add(claim, bar_text, measured, ok=ratio >= 0.95)


def prove_model(proof: Proof, clone: Path, yardstick: Path | None) -> None:
    claim, bar = "our import's tokens/s over the runtime's own builder", "≥ 95 %"
    if yardstick is None:
        proof.add(claim, bar, "no --yardstick: it needs PyTorch (bench/README.md has the figures)", ok=None)
        return
    done = subprocess.run(
        [str(clone / ".venv/bin/python"), "bench/model_speed.py", "--yardstick", str(yardstick)],
        cwd=clone, text=True, capture_output=True, check=False,
    )  # fmt: skip
    proof.add(claim, bar, " ".join(done.stdout.split()[-30:]), ok=done.returncode == 0)


def prove_clean(proof: Proof, clone: Path) -> None:
    """``make clean`` leaves no container, network, mount or file behind."""
    run(["make", "clean"], clone)
    left = [line for line in Path("/proc/mounts").read_text().splitlines() if str(clone) in line]
    left += [path for path in ("var", ".venv") if (clone / path).exists()]
    left += [link for link in subprocess.run(
        ["ip", "-brief", "address", "show", "to", "10.77.0.0/24"], text=True, capture_output=True, check=True
    ).stdout.splitlines() if link]  # fmt: skip
    left += subprocess.run(
        ["git", "status", "--porcelain", "--ignored"], cwd=clone, text=True, capture_output=True, check=True
    ).stdout.splitlines()
    proof.add("make clean leaves nothing behind", "0 things", f"{len(left)} things {left[:3] or ''}", ok=not left)


def bench(clone: Path, *script: str) -> dict[str, Any] | None:
    """Run one of our benchmarks; its JSON, None where it printed none."""
    done = subprocess.run(
        [str(clone / ".venv/bin/python"), *script, "--json"],
        cwd=clone, text=True, capture_output=True, check=False,
    )  # fmt: skip
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        output.err.print((done.stdout + done.stderr)[-3000:], markup=False, highlight=False)
        return None
    return result


# ── faults ──────────────────────────────────────────────────────────────────


def prove_faults(proof: Proof) -> None:
    """Run every test of ``FAULTS`` once, then a row a claim."""
    names = sorted({name for tests in FAULTS.values() for name in tests})
    fleet = [name for name in names if name.startswith(("tests/fleet", "tests/host"))]
    proof.add_tests(FAULTS, {**pytest(sorted(set(names) - set(fleet))), **on_molecule_fleet(fleet)})


def on_molecule_fleet(names: list[str]) -> dict[str, str]:
    """Boot and converge the Molecule fleet, run the tests on it, remove it."""
    if not names:
        return {}
    try:
        for action in ("create", "prepare", "converge"):
            run(["tools/molecule.sh", action, "-s", "site"], ROOT)
        return pytest(names, HEDGEROW_TEST_INVENTORY=str(ROOT / "molecule/site/inventory"))
    finally:
        run(["tools/molecule.sh", "destroy", "-s", "site"], ROOT)


if __name__ == "__main__":
    sys.exit(main())
