"""Prove models and the signed registry: every claim with its bar and what was measured, non-zero where one falls short.

    make prove-registry                                    everything: about half an hour on two cores
    .venv/bin/python -m bench.prove_registry --only trust

The parts: `trust` (who must sign, rotation, the promotion log), `attacks` (each shown to fail), `stores` (folder and S3
behind one contract), `device` (plan, resume, cache, collect), `faults` (killed at every point), `models` (imports,
quantization, validation, proofs), `transfers` (bytes and seconds of a new version, beside other tools) and `publish`
(how long a release takes). The last two measure: run them on a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from bench.proof import Proof, Row, bench, pytest

PARTS = ("trust", "attacks", "stores", "device", "faults", "models", "transfers", "publish")
REGISTRY, MODELS, STORE = "tests/unit/registry", "tests/unit/models", "tests/unit/device/store"

TRUST: dict[str, tuple[str, ...]] = {
    "a release needs the word of its builder and of its approver": (
        f"{REGISTRY}/authority/test_ceremony.py",
        f"{REGISTRY}/client/test_trusted.py",
    ),
    "every role's keys rotate, root's too, across versions that a device missed": (
        f"{REGISTRY}/authority/test_rotation.py",
        f"{REGISTRY}/client/test_updater.py",
    ),
    "keys in a PKCS#11 token sign (SoftHSM2)": (f"{REGISTRY}/authority/test_tokens.py",),
    "what is to be signed can be carried to a machine without a network and back": (
        f"{REGISTRY}/authority/test_offline.py",
    ),
    "nobody signs what somebody else put in the store": (f"{REGISTRY}/authority/test_foreign.py",),
    "the promotion log tells who approved what, and shows where it was changed": (f"{REGISTRY}/authority/test_log.py",),
    "a wrong clock neither opens nor shuts for ever": (f"{REGISTRY}/client/test_times.py",),
}
ATTACKS: dict[str, tuple[str, ...]] = {
    "attacks fail, each by the rule of docs/attacks.md": ("tests/faults/test_attacks.py",)
}
STORES: dict[str, tuple[str, ...]] = {
    "folder and S3 keep one contract": (f"{REGISTRY}/stores/test_contract.py",),
    "S3 that throttles, fails, or is cut off: retried, or told with what to do": (
        f"{REGISTRY}/stores/test_s3_faults.py",
    ),
    "two publishers cannot overwrite each other": (
        f"{REGISTRY}/stores/test_publishers.py",
        f"{REGISTRY}/stores/test_lease.py",
    ),
    "what no signed release names goes, after a while, and nothing else": (
        f"{REGISTRY}/packing/test_sweep_and_copy.py",
    ),
    "a bundle leaves as a Triton model repository": (f"{REGISTRY}/packing/test_export.py",),
}
DEVICE: dict[str, tuple[str, ...]] = {
    "each part of a version comes from where it costs least, and the plan says why": (f"{STORE}/test_planner.py",),
    "a cut transfer goes on where it stopped, within its rate and window": (f"{STORE}/test_receive.py",),
    "a version is placed whole or not at all; a damaged part is fetched again; memory is bounded": (
        f"{STORE}/test_stage.py",
        f"{STORE}/test_disk.py",
    ),
    "what is active, pinned, being fetched or the way back is never collected": (f"{STORE}/test_collect.py",),
    "signed and packed on one side, fetched by a device's command on the other": (
        "tests/faults/test_stage_registry.py",
        "tests/faults/test_fetch.py",
    ),
    "of several builds in one version a device takes the one that is made for it": (f"{STORE}/test_variants.py",),
}
FAULTS: dict[str, tuple[str, ...]] = {
    "a device killed at 300 points and more has a whole model and goes on": ("tests/faults/test_stage_killed.py",),
    "a publisher killed at any write leaves what devices accept": (
        f"{REGISTRY}/authority/test_crash.py",
        "tests/faults/test_publish_killed.py",
    ),
}
MODEL_CLAIMS: dict[str, tuple[str, ...]] = {
    "GGUF repacked exactly: the graph computes what the checkpoint says": (f"{MODELS}/test_exact.py",),
    "Hugging Face, ONNX, TFLite, HEF and genai folders become bundles, the same twice": (
        f"{MODELS}/test_hugging_face.py",
        f"{MODELS}/test_onnx_import.py",
        f"{MODELS}/test_file_imports.py",
    ),
    "runtimes, adapters and applications take the same path": (f"{MODELS}/test_pack.py",),
    "quantization, validation, measurement and proofs": (f"{MODELS}/prove",),
    "a manifest says nothing that its schema does not": (
        f"{REGISTRY}/test_manifest.py",
        f"{REGISTRY}/test_manifest_2.py",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given several times")
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments = parser.parse_args()
    proof = Proof()
    shown = {"trust": TRUST, "attacks": ATTACKS, "stores": STORES, "device": DEVICE, "models": MODEL_CLAIMS}
    measured = {"faults": faults, "transfers": transfers, "publish": publish}
    for part in arguments.only or PARTS:
        if part in shown:
            proof.add_tests(shown[part], pytest(_files(shown[part])))
        else:
            measured[part](proof)
    return proof.finish("Models and the signed registry", as_json=arguments.as_json)


def faults(proof: Proof) -> None:
    """At every point, where the tests take a sample."""
    proof.add_tests(FAULTS, pytest(_files(FAULTS), HEDGEROW_ALL_POINTS="1"))


def transfers(proof: Proof) -> None:
    """The bench has the bars; two of its pairs need the real models that `make venv` does not fetch."""
    rows: list[dict[str, Any]] = bench("registry_deltas")["rows"]
    proof.rows += [Row(**row) for row in rows]


def publish(proof: Proof) -> None:
    """Wall time: on a busy machine it falls short and says nothing."""
    found = bench("registry_publish")
    steps = [step for step in found["steps"] if step["what"].startswith("publish")]
    worst = max(steps, key=lambda step: float(step["wall_s"]))
    said = f"{worst['wall_s']:.1f} s ({worst['what'].removeprefix('publish: ')}; {worst['cores']:.1f} cores had)"
    proof.add(f"publish of {found['mb']} MB", f"≤ {found['bar_s']:g} s", said, ok=found["ok"])


def _files(claims: dict[str, tuple[str, ...]]) -> list[str]:
    return sorted({test for tests in claims.values() for test in tests})


if __name__ == "__main__":
    sys.exit(main())
