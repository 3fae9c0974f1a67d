"""What a process of its own for each model costs: the same models in the server's process and apart, in turns.

    .venv/bin/python -m bench.server_isolation [--rounds 10] [--seconds 1] [--bundle DIR] [--tokens 64] [--json]

Ratios are apart ÷ inside, the median of rounds. CPU a request is of all of a server's processes. Text is the newest
bundle of ``var/cache/bundles``, or the one given; how long a liveness probe takes is measured while a long prompt is
read. Memory is what a server and its processes have with one CNN loaded, shared pages in parts (PSS). Then the model's
process is killed, and asked until it answers again. Nothing has a bar: it is off by default, and this says what turning
it on takes.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import server_models as models
from bench import server_overhead as overhead
from bench.proof import machine
from bench.quiet import Quiet
from bench.server_clients import triton
from bench.server_process import Child, Server, Spread, process_cpu_s, tree
from tritonclient.utils import InferenceServerException

from hedgerow import output

WHERE = INSIDE, APART = ("inside", "apart")


@dataclass(frozen=True)
class Caller:
    """Callers of one kind (``server_clients``), and the model with its input's shape."""

    kind: str
    concurrency: int
    model: str
    shape: tuple[int, ...]


LOADS = (
    Caller("http", 1, "cnn", models.IMAGE),
    Caller("http", 4, "cnn", models.IMAGE),
    Caller("wire-binary", 16, "mlp", models.ROW),
)
_MB = 1_000_000
_AGAIN_S, _POLL_S = 60.0, 0.01


@dataclass(frozen=True)
class Load:
    """One kind of load. CPU is milliseconds a request, ``per_s`` requests a second, ``p50_ms`` what a caller waits."""

    name: str
    inside_cpu_ms: float
    apart_cpu_ms: float
    cpu_ratio: Spread
    inside_per_s: float
    apart_per_s: float
    per_s_ratio: Spread
    p50_ratio: Spread


@dataclass(frozen=True)
class Text:
    """Tokens a second, the first token, and a probe's worst time in milliseconds."""

    bundle: str
    inside_per_s: Spread
    apart_per_s: Spread
    ratio: Spread
    ttft_ratio: Spread
    inside_probe_ms: Spread
    apart_probe_ms: Spread


@dataclass(frozen=True)
class Result:
    """Memory in megabytes (10⁶ bytes); ``again_s``: from the kill to the next answer."""

    machine: str
    loads: list[Load]
    text: Text | None
    inside_mb: float
    apart_mb: float
    again_s: float
    quiet: Quiet


def pss(pid: int) -> int:
    """Bytes of a process and all that came of it."""
    total = 0
    for each in tree(pid):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{each}/smaps_rollup").read_text(), re.MULTILINE)
        total += 1024 * int(found[1]) if found else 0
    return total


@dataclass(frozen=True)
class Asking:
    """Slices of ``seconds`` for each of ``rounds``, by ``callers``, while the cores are ours."""

    callers: Child
    rounds: int
    seconds: float
    quiet: Quiet

    def once(self, server: Server, load: Caller) -> dict[str, float]:
        """A slice: what the callers say, and ``cpu_ms`` a request of all processes."""
        before = {pid: process_cpu_s(pid) for pid in tree(server.pid)}
        said = self.callers.ask(
            kind=load.kind,
            address=f"127.0.0.1:{server.port}",
            model=load.model,
            shape=load.shape,
            concurrency=load.concurrency,
            seconds=self.seconds,
        )
        spent = sum(process_cpu_s(pid) - cpu_s for pid, cpu_s in before.items())
        return {"per_s": said["per_s"], "p50_ms": said["p50_ms"], "cpu_ms": 1000 * spent / said["requests"]}

    def compare(self, servers: dict[str, Server], load: Caller) -> Load:
        """Both under one kind of load."""
        for server in servers.values():  # past what is only done once
            self.once(server, load)
        pairs: list[dict[str, dict[str, float]]] = []
        for number in range(self.rounds):
            order = WHERE if number % 2 == 0 else WHERE[::-1]
            pairs.append(
                {each: self.quiet.measure(functools.partial(self.once, servers[each], load)) for each in order}
            )

        def median(where: str, what: str) -> float:
            return round(statistics.median(pair[where][what] for pair in pairs), 3)

        def ratio(what: str) -> Spread:
            return Spread.of([pair[APART][what] / pair[INSIDE][what] for pair in pairs])

        return Load(
            f"{load.model}, {load.kind}, {load.concurrency} callers",
            median(INSIDE, "cpu_ms"),
            median(APART, "cpu_ms"),
            ratio("cpu_ms"),
            median(INSIDE, "per_s"),
            median(APART, "per_s"),
            ratio("per_s"),
            ratio("p50_ms"),
        )


def measure_loads(rounds: int, seconds: float, quiet: Quiet) -> tuple[list[Load], dict[str, float], float]:
    """The loads, both memories with the CNN loaded, and how long it takes until a killed one answers again."""
    found: list[Load] = []
    memory: dict[str, float] = {}
    again_s = 0.0
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        models.write_cnn(folder / "models" / "cnn" / "1")
        models.write_mlp(folder / "models" / "mlp" / "1")
        asking = Asking(stack.enter_context(Child("bench.server_clients")), rounds, seconds, quiet)
        for model in ("cnn", "mlp"):
            models.serve(folder / "models", model)
            servers = {
                where: stack.enter_context(
                    Server(folder / f"{model}-{where}", folder / "models", model, threads=1, isolate=where == APART)
                )
                for where in WHERE
            }
            for where, server in servers.items():
                server.wait_ready()
                if model == "cnn":
                    memory[where] = round(pss(server.pid) / _MB, 1)
            found += [asking.compare(servers, load) for load in LOADS if load.model == model]
            if model == "cnn":
                again_s = _killed(servers[APART])
    return found, memory, again_s


def _killed(server: Server) -> float:
    """Seconds until the model answers again, whose process is killed."""
    ask, hang_up = triton("http", f"127.0.0.1:{server.port}", "cnn")
    picture = models.values(models.IMAGE, 1)
    ask(picture)
    os.kill(tree(server.pid)[-1], signal.SIGKILL)
    started = time.monotonic()
    while time.monotonic() - started < _AGAIN_S:
        try:
            ask(picture)
        except InferenceServerException:
            time.sleep(_POLL_S)
        else:
            hang_up()
            return round(time.monotonic() - started, 2)
    raise SystemExit("the model did not come back")


def measure_text(bundle: Path, rounds: int, tokens: int, quiet: Quiet) -> Text:
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as name, ExitStack() as stack:
        servers: dict[str, overhead.Server] = {}
        for where in WHERE:
            home = Path(name) / where
            home.mkdir()
            servers[where] = overhead.Server(bundle, home, *(["--isolate"] if where == APART else []))
            stack.callback(servers[where].close)
            servers[where].generate(8)
        pairs = []
        for number in range(rounds):
            order = WHERE if number % 2 == 0 else WHERE[::-1]
            pairs.append({where: quiet.measure(functools.partial(servers[where].generate, tokens)) for where in order})
        probes = {where: server.probe() for where, server in servers.items()}
    return Text(
        bundle.name,
        Spread.of([pair[INSIDE].tokens_per_s for pair in pairs]),
        Spread.of([pair[APART].tokens_per_s for pair in pairs]),
        Spread.of([pair[APART].tokens_per_s / pair[INSIDE].tokens_per_s for pair in pairs]),
        Spread.of([pair[APART].ttft_s / pair[INSIDE].ttft_s for pair in pairs]),
        Spread.of(probes[INSIDE]),
        Spread.of(probes[APART]),
    )


def show(result: Result) -> None:
    rows = []
    for each in result.loads:
        rows += [
            (
                f"{each.name}: CPU ms a request",
                f"{each.inside_cpu_ms:g}",
                f"{each.apart_cpu_ms:g}",
                str(each.cpu_ratio),
            ),
            (f"{each.name}: requests/s", f"{each.inside_per_s:g}", f"{each.apart_per_s:g}", str(each.per_s_ratio)),
            (f"{each.name}: p50", "", "", str(each.p50_ratio)),
        ]
    text = result.text
    if text is not None:
        rows += [
            ("tokens/s", str(text.inside_per_s), str(text.apart_per_s), str(text.ratio)),
            ("first token", "", "", str(text.ttft_ratio)),
            ("liveness probe ms while a prompt is read", str(text.inside_probe_ms), str(text.apart_probe_ms), ""),
        ]
    ratio = f"{result.apart_mb / result.inside_mb:.3g}"
    rows.append(("memory with a CNN of 14 MB, MB", f"{result.inside_mb:g}", f"{result.apart_mb:g}", ratio))
    rows.append(("from its kill to its next answer, s", "", f"{result.again_s:g}", ""))
    title = f"{result.machine}; {result.quiet}"
    output.print_table(title, ("", "inside", "apart", "apart ÷ inside"), rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    quiet = Quiet()
    loads, memory, again_s = measure_loads(given.rounds, given.seconds, quiet)
    bundle = given.bundle or overhead.newest_bundle()
    text = measure_text(bundle.resolve(), given.rounds, given.tokens, quiet)
    result = Result(machine(), loads, text, memory[INSIDE], memory[APART], again_s, quiet)
    if given.json:
        output.print_json(asdict(result))
    else:
        show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
