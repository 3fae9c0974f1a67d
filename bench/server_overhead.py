"""What the server costs on top of onnxruntime-genai: tokens a second over HTTP streaming beside a bare loop.

    .venv/bin/python -m bench.server_overhead [--bundle DIR] [--pairs 10] [--tokens 128] [--json]

The bare loop is the same bundle, interface of the package, options and thread count, in a process of its own. The two
take turns, so that what else runs on the machine hits both; each pair gives a ratio, and their median is held to 0.95.
A pair during which a hypervisor gave the cores to others is measured again (``quiet``). Tokens a second are those after
the first. The server's CPU a token counts its process, the bare loop's its own. The first token comes once an answer
and takes some milliseconds more or less each time, so five pairs of short answers follow each, for that alone.

At the end the server is asked for its liveness every 10 ms while it reads a long prompt: how long may a probe wait?
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.quiet import Quiet

from hedgerow import paths
from hedgerow.server.computing import default_threads

BAR = 0.95
PROMPT = "Write a long story about a lighthouse and the people who keep it."
LONG_PROMPT = "Tell me a story about a dog and a boat. " * 80
READY_S = 60.0
PROBE_EVERY_S = 0.01
# Answers for the first token's sake: after each pair, and tokens of each.
SHORT_PAIRS, SHORT_TOKENS = 5, 4


@dataclass(frozen=True)
class Generation:
    """One answer: seconds to the first token, tokens a second after it, CPU milliseconds a token, its tokens."""

    ttft_s: float
    tokens_per_s: float
    cpu_ms: float
    tokens: int


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(*(round(value, 3) for value in (statistics.median(values), min(values), max(values))))


@dataclass(frozen=True)
class Result:
    """All figures of a run."""

    bundle: str
    machine: str
    interface: str
    threads: int
    pairs: int
    tokens: int
    bare_tokens_per_s: Spread
    server_tokens_per_s: Spread
    ratio: Spread
    ttft_ratio: Spread
    bare_cpu_ms_a_token: Spread
    server_cpu_ms_a_token: Spread
    probe_ms_while_reading: Spread
    quiet: Quiet


class Bare:
    """The loop in a child process: a line of JSON in, a line of JSON out."""

    def __init__(self, bundle: Path) -> None:
        command = [sys.executable, "-m", "bench.server_overhead", "--bare", str(bundle)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.interface = str(self._read()["interface"])

    def generate(self, tokens: int) -> Generation:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"prompt": PROMPT, "tokens": tokens}) + "\n")
        self._child.stdin.flush()
        return Generation(**self._read())

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()

    def _read(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise SystemExit("the bare loop ended")
        document: dict[str, Any] = json.loads(line)
        return document


def bare_loop(bundle: Path) -> None:
    """The child's side."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime_genai as og

    config = og.Config(str(bundle))
    options = {"intra_op_num_threads": default_threads(), "session.intra_op.allow_spinning": "0"}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    model = og.Model(config)
    tokenizer = og.Tokenizer(model)
    loop = _with_engine
    try:
        list(loop(og, model, tokenizer.encode("two tokens or more"), 1))
    except RuntimeError:  # its graph is not for the engine: the server has found the same
        loop = _with_generator
    print(json.dumps({"interface": loop.__name__.removeprefix("_with_")}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        started, cpu = time.perf_counter(), time.process_time()
        messages = json.dumps([{"role": "user", "content": asked["prompt"]}])
        prompt = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
        stream = tokenizer.create_stream()
        times = []
        for token in loop(og, model, prompt, asked["tokens"]):
            stream.decode(token)
            times.append(time.perf_counter())
        print(json.dumps(asdict(_generation(started, times, time.process_time() - cpu, len(times)))), flush=True)


def _with_engine(og: Any, model: Any, prompt: Any, tokens: int) -> Iterator[int]:
    engine = og.Engine(model)
    events = engine.create_event_buffer(4)
    limits = og.RequestOptions()
    limits.set_max_session_tokens(len(prompt) + tokens)
    request = engine.create_request(options=limits)
    turn = og.TurnOptions(request)
    turn.set_max_generated_tokens(tokens)
    turn.set_do_sample(False)
    request.begin_turn(prompt, turn)
    ended = False
    while not ended:
        engine.run(events)
        for index in range(len(events)):
            flags = int(events[index].flags)
            if flags & int(og.EngineEventFlags.FAILED.value):
                raise RuntimeError(str(events[index].error_code))
            if flags & int(og.EngineEventFlags.TOKEN.value):
                yield int(events[index].token)
            ended = ended or bool(flags & int(og.EngineEventFlags.TURN_FINISHED.value))


def _with_generator(og: Any, model: Any, prompt: Any, tokens: int) -> Iterator[int]:
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + tokens, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
        yield int(generator.get_next_tokens()[0])


class Server:
    """``hedgerow serve`` as anyone starts it; a client that reads its stream and does little else."""

    def __init__(self, bundle: Path, repository: Path, *options: str) -> None:
        (repository / "assistant").mkdir()
        (repository / "assistant" / "1").symlink_to(bundle)
        self.port = _free_port()
        program = str(Path(sys.executable).parent / "hedgerow")
        address = f"127.0.0.1:{self.port}"
        command = [program, "serve", "--repository", str(repository), "--http", address, "--grpc", "none", *options]
        self._child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_S
        while not self._ready():
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise SystemExit("the server did not get ready")
            time.sleep(0.05)

    def generate(self, tokens: int, prompt: str = PROMPT) -> Generation:
        asked = {
            "model": "assistant",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        started, cpu = time.perf_counter(), self._cpu_s()
        connection.request("POST", "/v1/chat/completions", json.dumps(asked), {"content-type": "application/json"})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise SystemExit(f"the server answered {response.status}: {response.read().decode()}")
        times, usage = [], b""
        while line := response.readline():
            if b'"content":"' in line and b'"role"' not in line:
                times.append(time.perf_counter())
            elif b'"completion_tokens"' in line:
                usage = line
        connection.close()
        count = json.loads(usage.removeprefix(b"data: "))["usage"]["completion_tokens"]
        return _generation(started, times, self._cpu_s() - cpu, count)

    def probe(self) -> list[float]:
        """Milliseconds that liveness probes take while the server reads a long prompt."""
        taken: list[float] = []
        reading = threading.Thread(target=self.generate, args=(2, LONG_PROMPT))
        reading.start()
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        while reading.is_alive():
            started = time.perf_counter()
            connection.request("GET", "/health/live")
            connection.getresponse().read()
            taken.append((time.perf_counter() - started) * 1000)
            time.sleep(PROBE_EVERY_S)
        connection.close()
        return taken

    def close(self) -> None:
        self._child.terminate()
        self._child.wait()

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()

    def _cpu_s(self) -> float:
        # proc_pid_stat(5): utime and stime are fields 14 and 15; the name before them may hold spaces.
        fields = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(bundle: Path, pairs: int, tokens: int) -> Result:
    turns = itertools.count()
    with running(bundle) as (bare, server):
        bare.generate(8)
        server.generate(8)
        quiet = Quiet()
        runs, short = [], []
        for _ in range(pairs):
            runs.append(quiet.measure(lambda: _pair(bare, server, tokens, next(turns))))
            short += [quiet.measure(lambda: _pair(bare, server, SHORT_TOKENS, next(turns))) for _ in range(SHORT_PAIRS)]
        probes = server.probe()
        interface = bare.interface
    for alone, served in runs:
        if alone.tokens != served.tokens:
            raise SystemExit(f"the bare loop made {alone.tokens} tokens, the server {served.tokens}: no comparison")
    return Result(
        bundle=bundle.name,
        machine=machine(),
        interface=interface,
        threads=default_threads(),
        pairs=pairs,
        tokens=runs[0][0].tokens,
        bare_tokens_per_s=Spread.of([alone.tokens_per_s for alone, _ in runs]),
        server_tokens_per_s=Spread.of([served.tokens_per_s for _, served in runs]),
        ratio=Spread.of([served.tokens_per_s / alone.tokens_per_s for alone, served in runs]),
        ttft_ratio=Spread.of([served.ttft_s / alone.ttft_s for alone, served in short]),
        bare_cpu_ms_a_token=Spread.of([alone.cpu_ms for alone, _ in runs]),
        server_cpu_ms_a_token=Spread.of([served.cpu_ms for _, served in runs]),
        probe_ms_while_reading=Spread.of(probes),
        quiet=quiet,
    )


def _pair(bare: Bare, server: Server, tokens: int, turn: int) -> tuple[Generation, Generation]:
    """Who begins alternates, so that a machine that slows down or warms up favours neither."""
    if turn % 2 == 0:
        return bare.generate(tokens), server.generate(tokens)
    served = server.generate(tokens)
    return bare.generate(tokens), served


@contextmanager
def running(bundle: Path) -> Iterator[tuple[Bare, Server]]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(bundle, Path(folder))
        try:
            bare = Bare(bundle)
            try:
                yield bare, server
            finally:
                bare.close()
        finally:
            server.close()


def _generation(started: float, times: list[float], cpu_s: float, tokens: int) -> Generation:
    speed = (tokens - 1) / (times[-1] - times[0])
    return Generation(times[0] - started, speed, cpu_s / tokens * 1000, tokens)


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{len(os.sched_getaffinity(0))} × {model or platform.machine()}, load {os.getloadavg()[0]:.1f}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def newest_bundle() -> Path:
    found = [path.parent for path in (paths.cache_dir() / "bundles").glob("*/genai_config.json")]
    if not found:
        raise SystemExit("no bundle in var/cache/bundles: hedgerow model import smollm2")
    return max(found, key=lambda path: path.stat().st_mtime)


def _show(result: Result) -> None:
    print(
        f"{result.bundle}, {result.interface}, {result.threads} threads, {result.tokens} tokens, {result.pairs} pairs"
    )
    print(result.machine)
    print(result.quiet)
    for label, spread in (
        ("bare tokens/s", result.bare_tokens_per_s),
        ("server tokens/s", result.server_tokens_per_s),
        ("server ÷ bare", result.ratio),
        ("time to first token ÷ bare's", result.ttft_ratio),
        ("bare CPU ms a token", result.bare_cpu_ms_a_token),
        ("server CPU ms a token", result.server_cpu_ms_a_token),
        ("probe ms while reading a prompt", result.probe_ms_while_reading),
    ):
        print(f"  {label:<32} {spread.median:9.2f}   {spread.least:.2f} – {spread.greatest:.2f}")
    verdict = "ok" if result.ratio.median >= BAR else "short"
    print(f"{verdict}: {result.ratio.median:.3f} of the bare loop, bar {BAR}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, help="default: the newest in var/cache/bundles")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.bare is not None:
        bare_loop(asked.bare)
        return 0
    result = measure((asked.bundle or newest_bundle()).resolve(), asked.pairs, asked.tokens)
    if asked.json:
        print(json.dumps(asdict(result), indent=2))
    else:
        _show(result)
    return 0 if result.ratio.median >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
