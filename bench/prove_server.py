"""Prove the inference server: every claim with its bar and what was measured, non-zero where one falls short.

    make prove-server                                    everything: about half an hour on two quiet cores
    .venv/bin/python -m bench.prove_server --only behaviour --only footprint

The parts: `behaviour` (what tests show, by the files that show it), `tensors`, `text`, `footprint`, `soak` (each a
bench of its own, which says what it measures and how). Figures want a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from bench.proof import Proof, bench, pytest
from bench.quiet import Quiet
from bench.server_footprint import IDLE_MB, START_S
from bench.server_soak import GROWTH
from bench.server_tensors import MANY, TAIL, TIMES
from bench.server_text import FIRST_TOKEN, SPEED

PARTS = ("behaviour", "tensors", "text", "footprint", "soak")
UNIT, CONFORMANCE = "tests/unit/server", "tests/conformance"

# claim → files that show it; every test in them must pass and none may be skipped.
BEHAVIOUR: dict[str, tuple[str, ...]] = {
    "tritonclient over REST and gRPC, unmodified: every data type, both forms": (
        f"{CONFORMANCE}/test_tritonclient.py",
        f"{CONFORMANCE}/test_tritonclient_grpc.py",
    ),
    "a repository in Triton's layout: load, unload, versions, config.pbtxt, index": (
        f"{CONFORMANCE}/test_triton_repository.py",
        f"{UNIT}/test_repository.py",
        f"{UNIT}/test_library.py",
        f"{UNIT}/test_modelconfig.py",
    ),
    "the openai package, unmodified: chat, completions, streams": (f"{CONFORMANCE}/test_openai.py",),
    "whatever a client sends is answered, or refused as its own fault, over REST": (
        f"{UNIT}/test_oip_properties.py",
        f"{UNIT}/test_tensors.py",
        f"{UNIT}/test_classification.py",
        f"{UNIT}/test_generate.py",
        f"{UNIT}/test_openapi.py",
        f"{UNIT}/test_bad_input.py",
        f"{UNIT}/test_bad_connections.py",
    ),
    "the same over gRPC; its bounds, status codes and mutual TLS": (
        f"{UNIT}/test_grpc.py",
        f"{UNIT}/test_grpc_contents.py",
        f"{UNIT}/test_bad_grpc.py",
    ),
    "the real process: fuzzed, lied to beside honest callers, fed broken models": (f"{UNIT}/test_bad_process.py",),
    "a lane a model: bounds, priorities, deadlines; who left is not computed": (
        f"{UNIT}/test_workers.py",
        f"{UNIT}/test_scheduler.py",
    ),
    "dynamic batching: who shares a run, when it runs, whose error it is": (
        f"{UNIT}/test_batching.py",
        f"{UNIT}/test_workers.py",
    ),
    "a swap stands beside what is served and drops nobody; a model is held until its last request": (
        f"{UNIT}/test_dataplane.py",
        f"{UNIT}/test_models.py",
        f"{UNIT}/test_gated.py",
    ),
    "signals, sockets, certificates, drain, stop": (
        f"{UNIT}/test_process.py",
        f"{UNIT}/test_drain.py",
        f"{UNIT}/test_stop.py",
        f"{UNIT}/service/test_openai.py",
        f"{UNIT}/service/test_inference.py",
        f"{UNIT}/service/test_large_bodies.py",
        f"{UNIT}/service/test_bounds.py",
    ),
    "each client may ask so much, by whichever protocol, and the others do not notice": (f"{UNIT}/test_clients.py",),
    "mutual TLS: every wrong certificate, renewed and revoked ones while connections stand": (
        f"{UNIT}/test_tls.py",
        f"{UNIT}/test_tls_matrix.py",
        f"{UNIT}/test_tls_revoked.py",
    ),
    "a model in a process of its own answers the same, gives all memory back, and its end takes no other along": (
        f"{UNIT}/test_isolation.py",
    ),
    "frames of files and streams become detections; what is exceptional is forwarded as the policy allows": (
        "tests/unit/vision/test_sources.py",
        "tests/unit/vision/test_detector.py",
        "tests/unit/vision/test_nms.py",
        "tests/unit/vision/test_run.py",
        "tests/unit/vision/test_forward.py",
    ),
    "four backends and the way to write one": (
        f"{UNIT}/test_backends.py",
        f"{UNIT}/test_hailo.py",
        f"{UNIT}/test_writing_a_backend.py",
    ),
    "under heat, short memory and a weak supply it steps down, says so, and comes back": (
        f"{UNIT}/test_degradation.py",
        f"{UNIT}/test_degrading.py",
    ),
    "a workstation's models are loaded when they are asked for, within a budget of measured memory": (
        f"{UNIT}/test_residency.py",
    ),
    "each finished request is told of once, in metrics, log lines, traces and samples; what is personal is not": (
        f"{UNIT}/test_telemetry_parts.py",
        f"{UNIT}/test_traces.py",
        f"{UNIT}/test_redaction.py",
    ),
    "text goes to a cloud endpoint only as the model's policy allows: rate, spending, privacy": (
        f"{UNIT}/test_fallback.py",
        f"{UNIT}/test_fallback_decision.py",
        f"{UNIT}/test_fallback_files.py",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given several times")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the soak")
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments = parser.parse_args()
    proof = Proof()
    for part in arguments.only or PARTS:
        if part == "soak":
            soak(proof, arguments.minutes)
        else:
            {"behaviour": behaviour, "tensors": tensors, "text": text, "footprint": footprint}[part](proof)
    return proof.finish("The inference server", as_json=arguments.as_json)


def behaviour(proof: Proof) -> None:
    """Tests, by the files that hold them."""
    files = sorted({name for names in BEHAVIOUR.values() for name in names})
    results = pytest(files)
    for claim, names in BEHAVIOUR.items():
        short = ", ".join(name.removeprefix("tests/").removesuffix(".py") for name in names)
        proof.add_tests({f"{claim} ({short})": names}, results)


def tensors(proof: Proof) -> None:
    """A CNN and a perceptron through unmodified tritonclient and on the wire, beside onnxruntime alone."""
    found = bench("server_tensors")
    names = {"http": "REST, binary", "grpc": "gRPC"}
    proof.note("the cores while tensors were measured", str(Quiet(**found["quiet"])))
    for each in found["pictures"]:
        where = f"CNN over {names[each['protocol']]}, {each['concurrency']} callers"
        spent = f"CPU {_shown(each['raw_cpu_ms'])} ÷ {_shown(each['server_cpu_ms'])} ms a request"
        sketch = f"{each['sketch_share']['median']:.1%}: {_shown(each['sketch_cpu_ms'])} ms"
        proof.note(f"{where}: a bare sketch's share on the same libraries, computing on its loop", sketch)
        if each["bar"] is not None:
            share = each["share"]["median"]
            measured = f"{share:.1%}: {spent}; {each['per_s']['median']:.0f} requests/s"
            proof.add(f"{where}: share of onnxruntime alone", f"≥ {each['bar']:.0%}", measured, ok=share >= each["bar"])
        tail = each["tail_over_raw"]["median"]
        measured = f"{tail:.3f} ×: {_shown(each['tail'])} beside {_shown(each['raw_tail'])}"
        measured += f"; the sketch's {each['sketch_tail_over_raw']['median']:.2f} ×"
        proof.add(f"{where}: p99 ÷ p50 over onnxruntime's own", f"≤ {TAIL:g} ×", measured, ok=tail <= TAIL)
    slower = found["raw_ms_now"] / found["raw_ms_then"]
    for each in found["peers"]:
        measured = (
            f"{each['times_fastest']:g} × of {each['per_s_now']:g}/s ({each['per_s']:g}/s ÷ {slower:.2f}, not run here)"
        )
        measured += f"; in its own form {each['times']:g} ×; its CPU is {each['cpu_times']:g} × ours"
        claim = f"perceptron, {MANY} callers: requests/s over {each['name']}'s"
        proof.add(claim, f"≥ {TIMES:g} ×", measured, ok=each["ok"])
    for each in found["small"]:
        figures = f"{_shown(each['per_s'])}/s, server CPU {_shown(each['cpu_ms'])} ms, p99 {_shown(each['p99_ms'])} ms"
        proof.note(f"perceptron, {MANY} callers, {each['form']}", figures)


def text(proof: Proof) -> None:
    """A small language model, beside a bare loop."""
    found = bench("server_text")
    alone = found["alone"]
    ratio, first = alone["ratio"]["median"], alone["ttft_ratio"]["median"]
    measured = f"{ratio:.1%}: {_shown(alone['server_tokens_per_s'])} beside {_shown(alone['bare_tokens_per_s'])}"
    claim = "tokens/s over a bare onnxruntime-genai loop"
    proof.add(claim, f"≥ {SPEED:.0%}", measured, ok=ratio >= SPEED)
    measured = f"{first:.2f} × ({alone['ttft_ratio']['least']:.2f} to {alone['ttft_ratio']['greatest']:.2f})"
    proof.add("time to first token over the bare loop's", f"≤ {FIRST_TOKEN:g} ×", measured, ok=first <= FIRST_TOKEN)
    measured = f"{found['gain']['median']:.2f} ×: {_shown(found['together_per_s'])} beside {_shown(found['one_per_s'])}"
    measured += " tokens/s; they take turns (decision 30), 1.5 × would take batches"
    proof.note(f"{found['streams']} streams together over one", measured)


def footprint(proof: Proof) -> None:
    found = bench("server_footprint")
    idle, ready = found["idle_mb"]["median"], found["start_s"]["median"]
    measured = f"{idle:.0f} MB ({found['idle_without_grpc_mb']['median']:.0f} MB without gRPC)"
    proof.add("memory of a server without a model", f"≤ {IDLE_MB:g} MB", measured, ok=idle <= IDLE_MB)
    measured = f"{ready:.2f} s, of it {found['start_cpu_s']['median']:.2f} s of CPU"
    proof.add("from start to ready with a CNN of 14 MB", f"≤ {START_S:g} s", measured, ok=ready <= START_S)


def soak(proof: Proof, minutes: float) -> None:
    found = bench("server_soak", "--minutes", str(minutes))
    where = f"{found['concurrency']} callers, {found['minutes']:g} min, {found['swaps']} swaps"
    answered = sum(found["answered"].values())
    lost, wrong = found["failed"], found["wrong_numbers"] + found["wrong_version"]
    measured = f"{lost} of {answered + lost}, {found['refused']} refused at the door; {found['per_s']:g}/s"
    proof.add(f"{where}: requests that were taken and failed", "0", measured, ok=lost == 0 and answered > 0)
    measured = f"{found['wrong_numbers']} other numbers, {found['wrong_version']} a version not in service"
    both = all(found["answered"].values())
    proof.add(f"{where}: answers by a wrong version", "0", measured, ok=wrong == 0 and both)
    growth = found["growth"]
    measured = f"{found['rss_early_mb']:g} → {found['rss_late_mb']:g} MB"
    measured += "; the run was too short to tell" if growth is None else f", {growth:+.1%}"
    bar = f"< {GROWTH:.0%}"
    proof.add("memory, minute 1 to the end", bar, measured, ok=None if growth is None else growth < GROWTH)


def _shown(spread: dict[str, Any]) -> str:
    return f"{spread['median']:.3g}"


if __name__ == "__main__":
    sys.exit(main())
