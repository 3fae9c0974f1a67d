"""What the server takes before anybody asks it: memory without a model, and how long it takes to be ready.

    .venv/bin/python -m bench.server_footprint [--starts 5] [--json]

Memory is the resident set of the process (shared libraries included), HTTP and gRPC listening, no version active,
once it answers that it lives and then two seconds later: the greater of both. Start to ready is from the process's
start until ``/health/ready`` says so, with a CNN of 14 MB to load; files are in the page cache after the first start.
Median of all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path

from bench import server_models as models
from bench.proof import machine
from bench.server_process import Server, Spread

from hedgerow import output

IDLE_MB, START_S = 100.0, 3.0
_SETTLES_S = 2.0
_MB = 1_000_000


@dataclass(frozen=True)
class Result:
    """Megabytes (10⁶ bytes) and seconds. ``with_model_mb``: once the CNN is loaded and nobody has asked it."""

    machine: str
    idle_mb: Spread
    idle_without_grpc_mb: Spread
    with_model_mb: Spread
    start_s: Spread
    start_cpu_s: Spread
    ok: bool


def idle_mb(folder: Path, **settings: object) -> float:
    """Of a server that has nothing to serve."""
    with Server(folder, folder.parent / "none", "nothing", **settings) as server:
        server.wait(lambda: server.get("/health/live")[0] == HTTPStatus.OK)
        at_once = server.rss
        time.sleep(_SETTLES_S)
        return max(at_once, server.rss) / _MB


def measure(starts: int) -> Result:
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as name:
        folder = Path(name)
        (folder / "none").mkdir()
        models.write_cnn(folder / "models" / "cnn" / "1")
        models.serve(folder / "models", "cnn")
        idle, plain, loaded, ready, spent = [], [], [], [], []
        for number in range(starts):
            idle.append(idle_mb(folder / f"idle-{number}"))
            plain.append(idle_mb(folder / f"plain-{number}", grpc=None))
            with Server(folder / f"cnn-{number}", folder / "models", "cnn") as server:
                ready.append(server.wait_ready())
                spent.append(server.cpu_s)
                loaded.append(server.rss / _MB)
    ok = Spread.of(idle).median <= IDLE_MB and Spread.of(ready).median <= START_S
    return Result(
        machine(),
        idle_mb=Spread.of(idle),
        idle_without_grpc_mb=Spread.of(plain),
        with_model_mb=Spread.of(loaded),
        start_s=Spread.of(ready),
        start_cpu_s=Spread.of(spent),
        ok=ok,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    result = measure(asked.starts)
    if asked.json:
        output.print_json(asdict(result))
    else:
        rows = [
            ("idle, no model, MB", str(result.idle_mb), f"≤ {IDLE_MB:g}"),
            ("the same without gRPC, MB", str(result.idle_without_grpc_mb), "none"),
            ("CNN of 14 MB loaded, MB", str(result.with_model_mb), "none"),
            ("start to ready, s", str(result.start_s), f"≤ {START_S:g}"),
            ("CPU of it, s", str(result.start_cpu_s), "none"),
        ]
        output.print_table(f"footprint; {result.machine}", ("what", "measured", "bar"), rows)
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
