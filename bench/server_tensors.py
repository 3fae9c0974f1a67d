"""What the server costs on top of onnxruntime: the same model in process and behind REST and gRPC, in turns.

    .venv/bin/python -m bench.server_tensors [--rounds 10] [--seconds 2] [--concurrency 1 4] [--json]

Two models, made here. A CNN (MobileNetV2's 3.5 M parameters, a picture of 602 KB a request) and a tiny perceptron,
where the model is nothing and the server is everything. Both sides use one thread a call, no spinning.

**CNN.** Each round loads in turn: onnxruntime alone (as many threads calling as there are callers), the server over
REST with binary tensors, the server over gRPC, and a bare sketch over both (``server_sketch``: what these libraries
leave to a server that does nothing else); callers are unmodified tritonclient in a process of its own, without TLS.
*Share of raw* is CPU of onnxruntime alone a request ÷ CPU of the server's process a request, the median of the
rounds: the caller's own CPU is in neither, and other load bends it less than it bends anything else. *Tail* is p99 ÷
p50, the server's over raw's of the same round; there the caller does count, as it takes its part of the same cores
between two requests. So it does in requests a second, which is shown and held to nothing. A while in which a hypervisor
gave the cores to others is measured again (``quiet``).

**Perceptron.** Requests a second at sixteen callers, with the lightest callers there are (``server_clients``), beside
``PEERS``: what other servers did on the machine of bench/README.md. Those were not run here. To compare across
machines and moments, their figures are divided by how much slower the CNN's raw run is now than it was then; it runs
in every round beside the perceptron, and each round is compared by itself. A caller takes part of the same cores here
as it did there. *Its CPU allows* is a second ÷ the server's CPU a request: what one core would answer if nothing else
ran on it, for the server's Python runs on one at a time.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bench import server_models as models
from bench.proof import VERDICTS, machine
from bench.quiet import Quiet
from bench.server_process import Child, Server, Spread, percentile, questions, reply
from bench.server_sketch import Sketch

from hedgerow import output

BARS = {("http", 1): 0.80, ("http", 4): 0.90, ("grpc", 1): 0.72, ("grpc", 4): 0.85}
TAIL = 1.0
TIMES = 3.0
MANY = 16
SHAPES = {"cnn": models.IMAGE, "mlp": models.ROW}
# Which callers a server can be asked with in its own fastest form.
PEERS = {
    "MLServer 1.7.1, JSON": ("wire-json", 1700, 0.6),
    "KServe 0.21, gRPC": ("wire-grpc", 1800, 0.8),
    "Triton (PyTriton 0.7), HTTP binary": ("wire-binary", 2000, 0.66),
}
"""The best of what was measured at sixteen callers: form of the request, requests a second, CPU ms a request."""
PEERS_RAW_MS = 5.5
"""The CNN in onnxruntime alone on that machine, one caller: CPU milliseconds a request."""
_RAW = "raw"
_SKETCH = "sketch-"
_SKETCHED = tuple(_SKETCH + kind for kind in ("http", "grpc"))
WIRE = ("wire-json", "wire-binary", "wire-grpc")


@dataclass(frozen=True)
class Load:
    """A while of load: CPU milliseconds a request of who answers (``cpu_ms``) and who asks (``caller_ms``)."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    caller_ms: float = 0.0

    @property
    def tail(self) -> float:
        return self.p99_ms / self.p50_ms


Rounds = dict[str, list[Load]]
"""What was measured in each round, by who was asked."""


@dataclass(frozen=True)
class Picture:
    """The CNN behind one protocol, at one concurrency."""

    protocol: str
    concurrency: int
    raw_cpu_ms: Spread
    server_cpu_ms: Spread
    caller_cpu_ms: Spread
    sketch_cpu_ms: Spread
    share: Spread
    sketch_share: Spread
    raw_per_s: Spread
    per_s: Spread
    p50_ms: Spread
    p99_ms: Spread
    raw_tail: Spread
    tail: Spread
    tail_over_raw: Spread
    sketch_tail_over_raw: Spread
    bar: float | None
    ok: bool


@dataclass(frozen=True)
class Small:
    """The perceptron in one form of request."""

    form: str
    per_s: Spread
    cpu_ms: Spread
    caller_cpu_ms: Spread
    p50_ms: Spread
    p99_ms: Spread
    allowed_per_s: int


@dataclass(frozen=True)
class Peer:
    """A peer beside us: its figure as measured, as it would be now, and ours in its form and in our fastest.

    ``times_allowed``: what our CPU a request in our fastest form allows ÷ its requests a second as they would be now.
    ``cpu_times``: its CPU a request as it would be now ÷ ours in its form.
    """

    name: str
    form: str
    per_s: float
    per_s_now: float
    times: float
    times_fastest: float
    times_allowed: float
    cpu_times: float
    ok: bool


@dataclass(frozen=True)
class Result:
    machine: str
    rounds: int
    seconds: float
    pictures: list[Picture]
    small: list[Small]
    raw_ms_then: float
    raw_ms_now: float
    peers: list[Peer]
    quiet: Quiet
    ok: bool


# ── onnxruntime alone, in a process of its own ──────────────────────────────


def raw(models_dir: Path) -> None:
    """The child's side."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    # As hedgerow.server.backends.onnx has them.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    files = {name: str(models_dir / name / "1" / "model.onnx") for name in SHAPES}
    sessions = {name: onnxruntime.InferenceSession(file, options) for name, file in files.items()}
    for asked in questions():
        session, shape = sessions[asked["model"]], SHAPES[asked["model"]]
        if "probe" in asked:
            (answer,) = session.run(["y"], {"x": models.values(shape, asked["probe"])})
            reply({"y": np.asarray(answer).ravel().tolist()})
            continue
        reply(_raw_load(session, shape, asked["concurrency"], asked["seconds"]))


def _raw_load(session: Any, shape: tuple[int, ...], concurrency: int, seconds: float) -> dict[str, float]:
    took: list[float] = []
    ends = time.monotonic() + seconds

    def call(number: int) -> None:
        array = models.values(shape, number)
        while (started := time.perf_counter()) and time.monotonic() < ends:
            session.run(["y"], {"x": array})
            took.append((time.perf_counter() - started) * 1000)

    began, cpu = time.monotonic(), time.process_time()
    threads = [threading.Thread(target=call, args=(number,)) for number in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent, lasted = time.process_time() - cpu, time.monotonic() - began
    took.sort()
    return asdict(Load(len(took) / lasted, percentile(took, 0.5), percentile(took, 0.99), spent * 1000 / len(took)))


# ── both in turn ────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Bench:
    """What runs all the time: onnxruntime alone, callers, a server a model."""

    alone: Child
    callers: Child
    servers: dict[str, Server]
    sketch: Sketch
    quiet: Quiet = field(default_factory=Quiet)

    def raw(self, model: str, concurrency: int, seconds: float) -> Load:
        ask = functools.partial(self.alone.ask, model=model, concurrency=concurrency, seconds=seconds)
        return Load(**self.quiet.measure(ask))

    def served(self, model: str, kind: str, concurrency: int, seconds: float) -> Load:
        return self.quiet.measure(functools.partial(self._served, model, kind, concurrency, seconds))

    def _served(self, model: str, kind: str, concurrency: int, seconds: float) -> Load:
        server, _ = self._server(model, kind)
        before = server.cpu_s
        found = self.callers.ask(**self._whom(model, kind), concurrency=concurrency, seconds=seconds)
        cpu_ms = (server.cpu_s - before) * 1000 / found["requests"]
        return Load(found["per_s"], found["p50_ms"], found["p99_ms"], cpu_ms, found["cpu_ms"])

    def compare(self) -> None:
        """All must give the same values before anything is measured.

        Raises:
            SystemExit: they do not.
        """
        for model in SHAPES:
            wanted = self.alone.ask(model=model, probe=7)["y"]
            for kind in ("http", "grpc", *(_SKETCHED if model == "cnn" else ())):
                got = self.callers.ask(**self._whom(model, kind), probe=7)["y"]
                if not np.allclose(wanted, got, rtol=1e-5, atol=1e-5):
                    raise SystemExit(f"{model} over {kind} answers otherwise than onnxruntime alone")

    def _server(self, model: str, kind: str) -> tuple[Server | Sketch, str]:
        """Who is asked, and how."""
        return (self.sketch, kind.removeprefix(_SKETCH)) if kind.startswith(_SKETCH) else (self.servers[model], kind)

    def _whom(self, model: str, kind: str) -> dict[str, Any]:
        server, protocol = self._server(model, kind)
        port = server.grpc_port if protocol.endswith("grpc") else server.port
        return {"kind": protocol, "address": f"127.0.0.1:{port}", "model": model, "shape": SHAPES[model]}


@contextmanager
def running() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        models.write_cnn(folder / "models" / "cnn" / "1")
        models.write_mlp(folder / "models" / "mlp" / "1")
        servers = {}
        for model in SHAPES:
            models.serve(folder / "models", model)
            servers[model] = stack.enter_context(Server(folder / model, folder / "models", model, threads=1))
        alone = stack.enter_context(Child("bench.server_tensors", "--raw", str(folder / "models")))
        callers = stack.enter_context(Child("bench.server_clients"))
        sketch = stack.enter_context(Sketch(folder / "models" / "cnn" / "1" / "model.onnx"))
        for server in servers.values():
            server.wait_ready()
        sketch.wait_ready()
        yield Bench(alone, callers, servers, sketch)


def pictures(bench: Bench, concurrency: int, rounds: int, seconds: float) -> list[Picture]:
    """The CNN behind both protocols."""
    found: Rounds = {kind: [] for kind in (_RAW, "http", "grpc", *_SKETCHED)}
    order = list(found)
    for _ in range(rounds):
        for kind in order:
            load = bench.raw if kind == _RAW else None
            found[kind].append(
                load("cnn", concurrency, seconds) if load else bench.served("cnn", kind, concurrency, seconds)
            )
        order = [*order[1:], order[0]]
    alone = found[_RAW]
    return [_picture(kind, concurrency, alone, found[kind], found[_SKETCH + kind]) for kind in ("http", "grpc")]


def _picture(protocol: str, concurrency: int, alone: list[Load], served: list[Load], sketched: list[Load]) -> Picture:
    pairs = list(zip(alone, served, strict=True))
    share = Spread.of([one.cpu_ms / other.cpu_ms for one, other in pairs])
    tail = Spread.of([other.tail / one.tail for one, other in pairs])
    bar = BARS.get((protocol, concurrency))
    return Picture(
        protocol, concurrency,
        raw_cpu_ms=Spread.of([each.cpu_ms for each in alone]),
        server_cpu_ms=Spread.of([each.cpu_ms for each in served]),
        caller_cpu_ms=Spread.of([each.caller_ms for each in served]),
        sketch_cpu_ms=Spread.of([each.cpu_ms for each in sketched]),
        share=share,
        sketch_share=Spread.of([one.cpu_ms / other.cpu_ms for one, other in zip(alone, sketched, strict=True)]),
        raw_per_s=Spread.of([each.per_s for each in alone]),
        per_s=Spread.of([each.per_s for each in served]),
        p50_ms=Spread.of([each.p50_ms for each in served]),
        p99_ms=Spread.of([each.p99_ms for each in served]),
        raw_tail=Spread.of([each.tail for each in alone]),
        tail=Spread.of([each.tail for each in served]),
        tail_over_raw=tail,
        sketch_tail_over_raw=Spread.of([other.tail / one.tail for one, other in zip(alone, sketched, strict=True)]),
        bar=bar,
        ok=(bar is None or share.median >= bar) and tail.median <= TAIL,
    )  # fmt: skip


def small(bench: Bench, rounds: int, seconds: float) -> Rounds:
    """The perceptron in every form of request, and through tritonclient for what a caller sees."""
    kinds = [*WIRE, "http", "grpc"]
    found: Rounds = {kind: [] for kind in (_RAW, *kinds)}
    for number in range(rounds):
        found[_RAW].append(bench.raw("cnn", 1, seconds))
        for kind in kinds if number % 2 == 0 else reversed(kinds):
            found[kind].append(bench.served("mlp", kind, MANY, seconds))
    return found


def _small(form: str, loads: list[Load]) -> Small:
    cpu_ms = Spread.of([load.cpu_ms for load in loads])
    return Small(
        form,
        per_s=Spread.of([load.per_s for load in loads]),
        cpu_ms=cpu_ms,
        caller_cpu_ms=Spread.of([load.caller_ms for load in loads]),
        p50_ms=Spread.of([load.p50_ms for load in loads]),
        p99_ms=Spread.of([load.p99_ms for load in loads]),
        allowed_per_s=round(1000 / cpu_ms.median),
    )


def beside_peers(rounds: Rounds) -> list[Peer]:
    """Medians of the rounds' ratios."""
    slower = [each.cpu_ms / PEERS_RAW_MS for each in rounds[_RAW]]
    # What each form answers, or would if a core were its own, were the machine as fast as the peers' was.
    per_s = {form: _median(load.per_s * by for load, by in zip(rounds[form], slower, strict=True)) for form in WIRE}
    allowed = {
        form: _median(1000 / load.cpu_ms * by for load, by in zip(rounds[form], slower, strict=True)) for form in WIRE
    }
    found = []
    for name, (form, theirs, cpu_ms) in PEERS.items():
        fastest = max(per_s.values()) / theirs
        found.append(
            Peer(
                name,
                form,
                per_s=theirs,
                per_s_now=round(theirs / _median(slower)),
                times=round(per_s[form] / theirs, 2),
                times_fastest=round(fastest, 2),
                times_allowed=round(max(allowed.values()) / theirs, 2),
                cpu_times=round(cpu_ms * allowed[form] / 1000, 2),
                ok=fastest >= TIMES,
            )
        )
    return found


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def measure(concurrencies: list[int], rounds: int, seconds: float) -> Result:
    with running() as bench:
        bench.compare()
        for kind in ("http", "grpc", *WIRE):
            bench.served("mlp", kind, 2, 0.5)
        for kind in ("http", "grpc", *_SKETCHED):
            bench.served("cnn", kind, 2, 0.5)
        shown = [each for many in concurrencies for each in pictures(bench, many, rounds, seconds)]
        perceptron = small(bench, rounds, seconds)
    now = Spread.of([each.cpu_ms for each in perceptron[_RAW]]).median
    peers = beside_peers(perceptron)
    ours = [_small(kind, loads) for kind, loads in perceptron.items() if kind != _RAW]
    ok = all(each.ok for each in shown) and all(each.ok for each in peers)
    return Result(machine(), rounds, seconds, shown, ours, PEERS_RAW_MS, now, peers, bench.quiet, ok)


def show(result: Result) -> None:
    title = f"CNN, 602 KB a request, {result.rounds} rounds of {result.seconds:g} s; {result.machine}; {result.quiet}"
    columns: tuple[str, ...] = (
        "door", "callers", "CPU ms: raw", "server", "caller", "share of raw", "a sketch's", "bar", "per s: raw",
        "server", "p50 ms", "p99 ms", "tail: raw", "server", "÷ (≤ 1)", "verdict",
    )  # fmt: skip
    output.print_table(title, columns, [_cells(each) for each in result.pictures])
    columns = ("caller, form", "requests/s", "server CPU ms", "its CPU allows", "caller CPU ms", "p50 ms", "p99 ms")
    rows = [
        (each.form, each.per_s, each.cpu_ms, f"{each.allowed_per_s}/s", each.caller_cpu_ms, each.p50_ms, each.p99_ms)
        for each in result.small
    ]
    output.print_table(f"perceptron, {MANY} callers", columns, rows)
    title = f"beside peers; the CNN alone took {result.raw_ms_then:g} ms there and takes {result.raw_ms_now:g} ms now"
    columns = (
        "peer",
        "per s there",
        "as if now",
        "ours in its form",
        "in our fastest",
        "bar",
        "our CPU allows",
        "its CPU ÷ ours",
        "verdict",
    )
    output.print_table(title, columns, [
        (each.name, f"{each.per_s:g}", f"{each.per_s_now:g}", f"{each.times:g} ×", f"{each.times_fastest:g} ×",
         f"≥ {TIMES:g} ×", f"{each.times_allowed:g} ×", f"{each.cpu_times:g} ×", VERDICTS[each.ok])
        for each in result.peers
    ])  # fmt: skip


def _cells(each: Picture) -> tuple[object, ...]:
    """Medians; ``--json`` has the spreads as well."""
    cpu = (each.raw_cpu_ms, each.server_cpu_ms, each.caller_cpu_ms)
    seen = (each.raw_per_s, each.per_s, each.p50_ms, each.p99_ms)
    tails = (each.raw_tail, each.tail, each.tail_over_raw)
    cpu_, seen_, tails_ = (tuple(f"{spread.median:.3g}" for spread in group) for group in (cpu, seen, tails))
    share = (str(each.share), f"{each.sketch_share.median:.3g}", "none" if each.bar is None else f"≥ {each.bar:g}")
    return (each.protocol, each.concurrency, *cpu_, *share, *seen_, *tails_, VERDICTS[each.ok])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load, each in turn")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--raw", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.raw is not None:
        raw(asked.raw)
        return 0
    result = measure(asked.concurrency, asked.rounds, asked.seconds)
    if asked.json:
        output.print_json(asdict(result))
    else:
        show(result)
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
