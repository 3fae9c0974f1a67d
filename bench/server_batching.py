"""What dynamic batching brings: the same requests to two servers, one that batches and one that does not.

    .venv/bin/python bench/server_batching.py [--rounds 5] [--seconds 3] [--concurrency 1 4 16] [--delay-ms 0] [--json]

The model is a perceptron of three layers of 1,024 (12.6 MB of weights, one row a request): its time is that of reading
the weights, which a batch reads once. Both servers run all the time and take turns under load, so that what else runs
on the machine hits both. A round gives requests a second, p50 and p99, and the server's CPU a request; the ratio is of
the medians. Both must answer alike: the first answers are compared before anything is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hedgerow import output

WIDTH, LAYERS = 1024, 3
READY_S = 30.0
PATH = "/v2/models/perceptron/infer"
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Round:
    """One server under load for a while; milliseconds a request, CPU milliseconds a request."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float


@dataclass(frozen=True)
class Result:
    """Medians over all rounds at one concurrency; ``rows`` that a batch had on average."""

    concurrency: int
    plain: Round
    batched: Round
    rows: float
    ratio: float


def write_model(folder: Path) -> None:
    """``y = relu(x·W)`` three times over float32[n, 1024], same weights every time."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    weights, nodes = [], []
    for layer in range(LAYERS):
        matrix = (random.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes += [
            helper.make_node("MatMul", [f"h{layer}" if layer else "x", f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Relu", [f"m{layer}"], ["y" if layer == LAYERS - 1 else f"h{layer + 1}"]),
        ]
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH])] for name in "xy"]
    graph = helper.make_graph(nodes, "perceptron", *sides, weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )


class Server:
    """``hedgerow serve`` with one setting of batching."""

    def __init__(self, folder: Path, models: Path, *, max_batch: int, max_delay_ms: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        folder.mkdir()
        config = {
            "host": "bench", "serial": "0", "fleet": "bench", "site": "bench", "model": "perceptron",
            "models_dir": str(models), "activation_dir": str(folder), "https": None, "control_socket": None,
            "http": {"address": "127.0.0.1", "port": self.port},
            "batching": {"max_batch": max_batch, "max_delay_ms": max_delay_ms},
            "limits": {"queue": 256},
        }  # fmt: skip
        (folder / "server.yml").write_text(json.dumps(config))
        program = Path(sys.executable).parent / "hedgerow"
        self._child = subprocess.Popen([program, "serve", "--config", folder / "server.yml"], stderr=subprocess.DEVNULL)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health/ready")
                if connection.getresponse().status == http.HTTPStatus.OK:
                    return
            time.sleep(0.05)
        raise SystemExit("the server never became ready")

    def cpu_s(self) -> float:
        """CPU seconds of the process so far."""
        fields = Path(f"/proc/{self._child.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def batches(self) -> tuple[float, float]:
        """Rows and runs so far."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", "/metrics")
        found = {"sum": 0.0, "count": 0.0}
        for line in connection.getresponse().read().decode().splitlines():
            for kind in found:
                if line.startswith(f"hedgerow_server_batch_size_{kind}{{"):
                    found[kind] = float(line.rpartition(" ")[2])
        return found["sum"], found["count"]

    def close(self) -> None:
        self._child.terminate()
        self._child.wait()


def body_of(row: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """A request with its row as bytes, and its answer wanted so."""
    data = row.astype(np.float32).tobytes()
    tensor = {"name": "x", "shape": [1, WIDTH], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + data, {"inference-header-content-length": str(len(head))}


def ask(connection: http.client.HTTPConnection, request: tuple[bytes, dict[str, str]]) -> np.ndarray:
    """One answer's values."""
    connection.request("POST", PATH, *request)
    response = connection.getresponse()
    data = response.read()
    if response.status != http.HTTPStatus.OK:
        raise SystemExit(f"HTTP {response.status}: {data[:200]!r}")
    return np.frombuffer(data[int(response.headers["inference-header-content-length"]) :], np.float32)


def load(server: Server, concurrency: int, seconds: float) -> Round:
    """``concurrency`` callers, each asking again when its answer has come."""
    took: list[float] = []
    ends = time.monotonic() + seconds

    def call(seed: int) -> None:
        request = body_of(np.random.default_rng(seed).standard_normal(WIDTH))
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=READY_S)
        while (started := time.perf_counter()) and time.monotonic() < ends:
            ask(connection, request)
            took.append((time.perf_counter() - started) * 1000)
        connection.close()

    cpu, began = server.cpu_s(), time.monotonic()
    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(concurrency)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    lasted = time.monotonic() - began
    if not took:
        raise SystemExit("no request was answered")
    ordered = sorted(took)
    return Round(
        per_s=len(took) / lasted,
        p50_ms=ordered[len(ordered) // 2],
        p99_ms=ordered[int(len(ordered) * 0.99)],
        cpu_ms=(server.cpu_s() - cpu) * 1000 / len(took),
    )


def middle(rounds: list[Round]) -> Round:
    """The median of each figure."""
    names = ("per_s", "p50_ms", "p99_ms", "cpu_ms")
    return Round(**{name: round(statistics.median(getattr(each, name) for each in rounds), 3) for name in names})


@contextlib.contextmanager
def servers(delay_ms: float, max_batch: int) -> Iterator[tuple[Server, Server]]:
    """One that does not batch, and one that does; both ready."""
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        write_model(folder / "models" / "perceptron" / "1")
        (folder / "models" / "perceptron" / "current").symlink_to("1")
        pair = (
            Server(folder / "plain", folder / "models", max_batch=1, max_delay_ms=0),
            Server(folder / "batched", folder / "models", max_batch=max_batch, max_delay_ms=delay_ms),
        )
        for server in pair:
            stack.callback(server.close)
        for server in pair:
            server.wait_ready()
        yield pair


def compare(plain: Server, batched: Server) -> None:
    """Both must say the same.

    Raises:
        SystemExit: they do not.
    """
    request = body_of(np.random.default_rng(9).standard_normal(WIDTH))
    one, other = (ask(http.client.HTTPConnection("127.0.0.1", each.port), request) for each in (plain, batched))
    if not np.allclose(one, other, rtol=1e-4, atol=1e-5):
        raise SystemExit("the two servers answer differently")


def measure(plain: Server, batched: Server, concurrency: int, rounds: int, seconds: float) -> Result:
    """Both in turn, ``rounds`` times."""
    rows_before, runs_before = batched.batches()
    pairs = [(load(plain, concurrency, seconds), load(batched, concurrency, seconds)) for _ in range(rounds)]
    rows, runs = batched.batches()
    without, with_ = (middle([pair[side] for pair in pairs]) for side in (0, 1))
    share = (rows - rows_before) / max(1.0, runs - runs_before)
    return Result(concurrency, without, with_, round(share, 2), round(with_.per_s / without.per_s, 2))


def cells_of(result: Result) -> tuple[float, ...]:
    """A line of the table."""
    plain, batched = result.plain, result.batched
    speeds = (result.concurrency, plain.per_s, batched.per_s, result.ratio)
    return (*speeds, plain.p99_ms, batched.p99_ms, plain.cpu_ms, batched.cpu_ms, result.rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load, a server and round")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="that a first request waits for others")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with servers(arguments.delay_ms, arguments.max_batch) as (plain, batched):
        compare(plain, batched)
        results = [
            measure(plain, batched, concurrency, arguments.rounds, arguments.seconds)
            for concurrency in arguments.concurrency
        ]
    if arguments.json:
        output.print_json([asdict(each) for each in results])
        return
    columns = ("callers", "requests/s: plain", "batched", "ratio", "p99 ms: plain", "batched", "CPU ms: plain",
               "batched", "rows a batch")  # fmt: skip
    lines = [tuple(map(str, cells_of(each))) for each in results]
    output.print_table("dynamic batching", columns, lines)


if __name__ == "__main__":
    main()
