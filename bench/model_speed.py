"""Tokens a second of the imported model, beside the yardstick where its folder is given (bench/README.md says how).

The same greedy generation for both: 64 prompt tokens, 192 new ones, end tokens held back. Runs are interleaved, the
order turns round every time, and a ratio compares runs that followed each other directly.

Where nothing else runs, one thread's tokens per CPU second are its tokens per second; where something does, only the
former repeat (within 3 %). So one thread is judged by CPU time. Several threads spin while they wait, which CPU time
counts: they are judged by wall time, and not at all on a busy machine.

    python bench/model_speed.py [--yardstick DIR] [--bundle DIR] [--threads 1,2] [--rounds 11] [--json]

Exits 1 where the import answers wrongly or is slower than the bar.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og

from hedgerow.models.genai import Generator
from hedgerow.models.importer import import_recipe
from hedgerow.registry.manifest import Message

PROMPT_TOKENS, NEW_TOKENS = 64, 192
BAR = 0.95
MAX_LOAD = 0.5  # programs running beside this one, from the load average
QUESTION, SENTENCE = "What is the capital of France?", "The capital of France is Paris."


@dataclass(frozen=True)
class Spread:
    """Median of the samples, with the first and third quartile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        low, _, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [samples[0]] * 3
        return cls(statistics.median(samples), low, high)

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}-{self.high:{spec}})"


def paired_ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Spread of ``ours[i] / theirs[i]``: runs that followed each other directly saw the same noise."""
    return Spread.of([mine / other for mine, other in zip(ours, theirs, strict=True)])


@dataclass(frozen=True)
class Run:
    """One generation: tokens a second over all of it, by the wall clock and by CPU time; milliseconds to the first."""

    tokens_per_s: float
    tokens_per_cpu_s: float
    first_token_ms: float


def load(folder: Path, threads: int) -> og.Model:
    config = og.Config(str(folder))
    options = {"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}
    config.overlay(json.dumps(options))
    return og.Model(config)


def generate(model: og.Model, prompt: np.ndarray, new_tokens: int = NEW_TOKENS) -> Run:
    length = len(prompt) + new_tokens
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = og.Generator(model, parameters)
    start, start_cpu = time.perf_counter(), time.process_time()
    generator.append_tokens(prompt)
    generator.generate_next_token()
    first = time.perf_counter()
    made = 1
    while not generator.is_done():
        generator.generate_next_token()
        made += 1
    end, end_cpu = time.perf_counter(), time.process_time()
    if made != new_tokens:
        raise SystemExit(f"{made} tokens were generated, not {new_tokens}: the runs cannot be compared")
    return Run(made / (end - start), made / (end_cpu - start_cpu), (first - start) * 1e3)


def measure(folders: list[Path], threads: int, rounds: int) -> list[list[Run]]:
    """``rounds`` runs of each folder, interleaved; the first, warming run of each is thrown away."""
    models = [load(folder, threads) for folder in folders]
    prompt = np.random.default_rng(0).integers(1000, 40000, PROMPT_TOKENS).astype(np.int32)
    for model in models:
        generate(model, prompt, 8)
    runs: list[list[Run]] = [[] for _ in models]
    for number in range(rounds):
        order = range(len(models)) if number % 2 == 0 else reversed(range(len(models)))
        for index in order:
            runs[index].append(generate(models[index], prompt))
    return runs


def summarize(name: str, threads: int, runs: list[Run], yardstick: list[Run] | None) -> dict[str, Any]:
    row: dict[str, Any] = {"model": name, "threads": threads}
    for field in ("tokens_per_s", "tokens_per_cpu_s", "first_token_ms"):
        row[field] = Spread.of([getattr(run, field) for run in runs])
    row["ratio"] = row["cpu_ratio"] = None
    if yardstick is not None:
        row["ratio"] = paired_ratios([run.tokens_per_s for run in runs], [run.tokens_per_s for run in yardstick])
        mine, other = ([run.tokens_per_cpu_s for run in side] for side in (runs, yardstick))
        row["cpu_ratio"] = paired_ratios(mine, other)
    return row


def verdict(row: dict[str, Any], *, busy: bool) -> str:
    """``ok`` or ``short`` of the bar; ``not judged`` without a yardstick or without a figure that means something."""
    judged = row["cpu_ratio"] if row["threads"] == 1 else None if busy else row["ratio"]
    if judged is None:
        return "not judged"
    return "ok" if judged.median >= BAR else "short"


def answers(folder: Path) -> str:
    generator = Generator(folder)
    return generator.greedy(generator.prompt([Message("user", QUESTION)]), max_tokens=24).text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", help="default: hedgerow model import smollm2")
    parser.add_argument("--yardstick", type=Path, help="output folder of onnxruntime_genai.models.builder")
    parser.add_argument("--threads", default="1,2", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--rounds", default=11, type=int)
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments = parser.parse_args()
    bundles = arguments.bundle or [import_recipe("smollm2")]
    folders = [*([arguments.yardstick] if arguments.yardstick else []), *bundles]

    busy = os.getloadavg()[0] > MAX_LOAD
    rows: list[dict[str, Any]] = []
    for threads in arguments.threads:
        runs = measure(folders, threads, arguments.rounds)
        for folder, found in zip(folders, runs, strict=True):
            ours = folder in bundles
            row = summarize(folder.name, threads, found, runs[0] if arguments.yardstick and ours else None)
            rows.append(row | {"verdict": verdict(row, busy=busy)})
    said = {folder.name: answers(folder) for folder in folders}
    correct = all(SENTENCE in said[folder.name] for folder in bundles)
    fast = all(row["verdict"] != "short" for row in rows)
    report(rows, said, as_json=arguments.as_json)
    if not arguments.as_json:
        load = " (the machine is busy)" if busy else ""
        print(f"speed, bar {BAR:.2f} of the yardstick: {'ok' if fast else 'short'}{load}")
        print(f"answer, bar {SENTENCE!r}: {'ok' if correct else 'short'}")
    return 0 if fast and correct else 1


def report(rows: list[dict[str, Any]], said: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        plain = [{key: asdict(v) if isinstance(v, Spread) else v for key, v in row.items()} for row in rows]
        print(json.dumps({"rows": plain, "answers": said}, indent=2))
        return
    for row in rows:
        print(
            f"{row['model'][:34]:34} threads {row['threads']}  tokens/s {row['tokens_per_s']:.1f}"
            f"  per CPU second {row['tokens_per_cpu_s']:.1f}  first token ms {row['first_token_ms']:.0f}"
        )
        if row["ratio"] is not None:
            print(f"{'':34} to yardstick {row['ratio']:.3f}  by CPU {row['cpu_ratio']:.3f}  {row['verdict']}")
    for name, text in said.items():
        print(f"{name[:34]:34} {QUESTION} → {text}")


if __name__ == "__main__":
    sys.exit(main())
