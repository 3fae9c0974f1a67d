"""Sixteen callers for ten minutes while the model is swapped every 20 s: what fails, is answered wrongly, or leaks.

    .venv/bin/python -m bench.server_soak [--minutes 10] [--every 20] [--concurrency 16] [--json]

Two CNNs of equal shape and other weights take turns: prepared beside the one in service and switched to, through the
control socket, as activation does it. Half of the callers are tritonclient over REST, half over gRPC. Bars:

- No request that was taken fails. One that is refused because the queue is full (429, RESOURCE_EXHAUSTED) was not
  taken; they are counted apart.
- Every answer holds the numbers of the version that it names, held to onnxruntime alone, and names the version that
  was in service while it was asked: not one that had gone before it was asked, nor one that came after it was
  answered.
- Memory in the last minute is less than 5 % over that in the second half of the first (medians of a sample a second,
  so that the moments in which two versions are loaded do not count). In a run of less than two minutes this is not
  judged.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench import server_models as models
from bench.proof import machine
from bench.server_process import Child, Server, questions, reply
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from hedgerow import output

GROWTH = 0.05
_VERSIONS = ("1.0.0", "2.0.0")
_INPUTS = 8
_JUDGED_FROM_S = 120.0
_REFUSED = {"429", "StatusCode.RESOURCE_EXHAUSTED"}
_MB = 1_000_000


@dataclass(frozen=True)
class Swap:
    """Monotonic seconds: asked for, and done."""

    version: str
    asked: float
    done: float


@dataclass(frozen=True)
class Result:
    """``wrong_numbers`` and ``wrong_version`` are answers; ``growth`` is a share, None where the run was too short."""

    machine: str
    minutes: float
    concurrency: int
    swaps: int
    answered: dict[str, int]
    refused: int
    failed: int
    failures: list[str]
    wrong_numbers: int
    wrong_version: int
    per_s: float
    rss_early_mb: float
    rss_late_mb: float
    rss_most_mb: float
    growth: float | None
    ok: bool


# ── the callers, in a process of their own ──────────────────────────────────


def callers(folder: Path) -> None:
    """The child's side: what was answered when, by which version, and whether with its numbers."""
    import onnxruntime

    inputs = [models.values(models.IMAGE, seed) for seed in range(_INPUTS)]
    expected: dict[str, list[NDArray[np.float32]]] = {}
    for version in _VERSIONS:
        session = onnxruntime.InferenceSession(str(folder / version / "model.onnx"), providers=["CPUExecutionProvider"])
        expected[version] = [np.asarray(session.run(["y"], {"x": each})[0]) for each in inputs]
    for asked in questions():
        reply(_call(asked, inputs, expected))


def _call(
    asked: dict[str, Any], inputs: list[NDArray[np.float32]], expected: dict[str, list[NDArray[np.float32]]]
) -> dict[str, Any]:
    answers: list[tuple[float, float, str]] = []
    failed: list[str] = []
    refused: list[str] = []
    wrong: list[str] = []
    ends = time.monotonic() + asked["seconds"]

    def call(number: int) -> None:
        import tritonclient.grpc
        import tritonclient.http

        module = (tritonclient.http, tritonclient.grpc)[number % 2]
        client = module.InferenceServerClient(asked["addresses"][number % 2])
        turn = number
        while (began := time.monotonic()) < ends:
            turn += 1
            array = inputs[turn % _INPUTS]
            sent = module.InferInput("x", list(array.shape), "FP32")
            sent.set_data_from_numpy(array)
            try:
                got = client.infer("cnn", [sent])
            except InferenceServerException as error:
                (refused if error.status() in _REFUSED else failed).append(str(error))
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, a caller has no answer
                failed.append(repr(error))
                continue
            said = got.get_response()
            version = said["model_version"] if isinstance(said, dict) else said.model_version
            answers.append((began, time.monotonic(), version))
            if not np.allclose(got.as_numpy("y"), expected[version][turn % _INPUTS], rtol=1e-4, atol=1e-4):
                wrong.append(version)
        client.close()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(asked["concurrency"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"answers": answers, "failed": failed, "refused": len(refused), "wrong": len(wrong)}


# ── the swaps and the verdict ───────────────────────────────────────────────


def swap(server: Server, version: str) -> Swap:
    which = {"name": "cnn", "version": version}
    server.tell("/control/v1/prepare", which)
    asked = time.monotonic()
    server.tell("/control/v1/switch", which)
    return Swap(version, asked, time.monotonic())


def misplaced(answers: list[tuple[float, float, str]], swaps: list[Swap]) -> int:
    """Answers that name a version which was not in service at any moment between question and answer.

    The first of ``swaps`` is the start.
    """
    served = [
        (each.version, each.asked, later.done if later is not None else float("inf"))
        for each, later in zip(swaps, [*swaps[1:], None], strict=True)
    ]
    return sum(
        not any(version == name and began <= until and ended >= since for name, since, until in served)
        for began, ended, version in answers
    )


def measure(minutes: float, every_s: float, concurrency: int) -> Result:
    seconds = minutes * 60
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as name:
        folder = Path(name)
        for seed, version in enumerate(_VERSIONS):
            models.write_cnn(folder / "models" / "cnn" / version, seed=seed)
            models.make_bundle(folder / "models" / "cnn" / version, models.IMAGE)
        models.serve(folder / "models", "cnn", _VERSIONS[0])
        with (
            Server(folder / "server", folder / "models", "cnn", threads=1) as server,
            Child("bench.server_soak", "--callers", str(folder / "models" / "cnn")) as child,
            ThreadPoolExecutor(1) as pool,
        ):
            server.wait_ready()
            began = time.monotonic()
            addresses = [f"127.0.0.1:{server.port}", f"127.0.0.1:{server.grpc_port}"]
            calling = pool.submit(child.ask, seconds=seconds, concurrency=concurrency, addresses=addresses)
            swaps = [Swap(_VERSIONS[0], 0.0, 0.0)]
            samples: list[tuple[float, int]] = []
            next_swap = began + every_s
            while not calling.done():
                samples.append((time.monotonic() - began, server.rss))
                if time.monotonic() >= next_swap:
                    swaps.append(swap(server, _VERSIONS[len(swaps) % 2]))
                    next_swap += every_s
                time.sleep(1)
            found = calling.result()
    answers = [(began, ended, version) for began, ended, version in found["answers"]]
    early, late = _medians(samples, seconds)
    growth = None if seconds < _JUDGED_FROM_S else round(late / early - 1, 4)
    wrong_version = misplaced(answers, swaps)
    good = not found["failed"] and not found["wrong"] and not wrong_version and len(answers) > 0 and len(swaps) > 1
    return Result(
        machine(), minutes, concurrency,
        swaps=len(swaps) - 1,
        answered={version: sum(each[2] == version for each in answers) for version in _VERSIONS},
        refused=found["refused"],
        failed=len(found["failed"]),
        failures=found["failed"][:3],
        wrong_numbers=found["wrong"],
        wrong_version=wrong_version,
        per_s=round(len(answers) / seconds, 1),
        rss_early_mb=round(early / _MB, 1),
        rss_late_mb=round(late / _MB, 1),
        rss_most_mb=round(max(rss for _, rss in samples) / _MB, 1),
        growth=growth,
        ok=good and (growth is None or growth < GROWTH),
    )  # fmt: skip


def _medians(samples: list[tuple[float, int]], seconds: float) -> tuple[float, float]:
    """Memory in the second half of the first minute, and in the last one; in a short run a quarter is a minute."""
    window = min(60.0, seconds / 4)
    lasted = samples[-1][0]
    early = [rss for at, rss in samples if window / 2 <= at <= window] or [samples[0][1]]
    late = [rss for at, rss in samples if at >= lasted - window]
    return statistics.median(early), statistics.median(late)


def show(result: Result) -> None:
    growth = "run too short to tell" if result.growth is None else f"{result.growth:+.1%}"
    answered = ", ".join(f"{count} by version {version}" for version, count in result.answered.items())
    rows = [
        ("answered", f"{answered}; {result.per_s:g} a second", "> 0"),
        ("swaps", str(result.swaps), "> 0"),
        ("taken and failed", " ".join([str(result.failed), *result.failures]), "0"),
        ("refused, the queue being full", str(result.refused), "none"),
        ("wrong numbers for the version named", str(result.wrong_numbers), "0"),
        ("a version that was not in service", str(result.wrong_version), "0"),
        ("memory early → late, MB", f"{result.rss_early_mb:g} → {result.rss_late_mb:g}", "none"),
        ("most memory, MB", f"{result.rss_most_mb:g}", "none"),
        ("its growth", growth, f"< {GROWTH:.0%}"),
    ]  # fmt: skip
    title = f"{result.minutes:g} min, {result.concurrency} callers; {result.machine}: {'ok' if result.ok else 'SHORT'}"
    output.print_table(title, ("what", "measured", "bar"), rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between swaps")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--callers", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.callers is not None:
        callers(asked.callers)
        return 0
    result = measure(asked.minutes, asked.every, asked.concurrency)
    if asked.json:
        output.print_json(asdict(result))
    else:
        show(result)
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
