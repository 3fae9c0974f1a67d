"""Text: tokens a second and first token beside a bare onnxruntime-genai loop, and four streams beside one.

    .venv/bin/python -m bench.server_text [--bundle DIR] [--pairs 10] [--tokens 128] [--streams 4] [--rounds 5] [--json]

The first part is ``server_overhead`` with the bar of the first token added: the median of pairs, server ÷ bare. The
second asks one server for one answer and for several at once, in turns: tokens of all streams a second, from the
first request to the last token. Streams take turns at the model here and are not batched
(``docs/decisions/0030-scheduling.md`` says why), so several are to cost nothing, and gain nothing: the bar of 1.5 ×
belongs to a library that batches, and holds none here.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import server_overhead as overhead
from bench.server_process import Spread

from hedgerow import output

SPEED, FIRST_TOKEN = overhead.BAR, 1.15


@dataclass(frozen=True)
class Result:
    """``alone`` is the first part. Tokens a second are of all streams."""

    alone: overhead.Result
    streams: int
    one_per_s: Spread
    together_per_s: Spread
    gain: Spread
    fastest_over_slowest: Spread
    ok: bool


def together(server: overhead.Server, streams: int, tokens: int) -> tuple[float, float]:
    """Tokens a second of all, and the fastest stream over the slowest."""
    started = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        found = list(pool.map(lambda _: server.generate(tokens), range(streams)))
    lasted = time.perf_counter() - started
    speeds = [each.tokens_per_s for each in found]
    return sum(each.tokens for each in found) / lasted, max(speeds) / min(speeds)


def measure(bundle: Path, pairs: int, tokens: int, streams: int, rounds: int) -> Result:
    alone = overhead.measure(bundle, pairs, tokens)
    with overhead.running(bundle) as (_, server):
        together(server, streams, 8)
        found = []
        for number in range(rounds):
            first, second = (1, streams) if number % 2 == 0 else (streams, 1)
            by_count = {count: together(server, count, tokens) for count in (first, second)}
            found.append((by_count[1], by_count[streams]))
    return Result(
        alone,
        streams,
        one_per_s=Spread.of([one[0] for one, _ in found]),
        together_per_s=Spread.of([several[0] for _, several in found]),
        gain=Spread.of([several[0] / one[0] for one, several in found]),
        fastest_over_slowest=Spread.of([several[1] for _, several in found]),
        ok=alone.ratio.median >= SPEED and alone.ttft_ratio.median <= FIRST_TOKEN,
    )


def show(result: Result) -> None:
    alone = result.alone
    several = f"{result.streams} streams"
    rows = [
        ("tokens/s: bare", str(Spread(**asdict(alone.bare_tokens_per_s))), "none"),
        ("tokens/s: server", str(Spread(**asdict(alone.server_tokens_per_s))), "none"),
        ("server ÷ bare", str(Spread(**asdict(alone.ratio))), f"≥ {SPEED:g}"),
        ("first token, server ÷ bare", str(Spread(**asdict(alone.ttft_ratio))), f"≤ {FIRST_TOKEN:g}"),
        ("CPU ms a token: bare", str(Spread(**asdict(alone.bare_cpu_ms_a_token))), "none"),
        ("CPU ms a token: server", str(Spread(**asdict(alone.server_cpu_ms_a_token))), "none"),
        ("tokens/s: one stream", str(result.one_per_s), "none"),
        (f"tokens/s: {several}", str(result.together_per_s), "none"),
        (f"{several} ÷ one", str(result.gain), "none: turns, no batches"),
        (f"fastest of {several} ÷ slowest", str(result.fastest_over_slowest), "none"),
    ]
    title = f"{alone.bundle}, {alone.interface}, {alone.threads} threads, {alone.tokens} tokens; {alone.machine}"
    output.print_table(title, ("what", "measured", "bar"), rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="default: the newest in var/cache/bundles")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    bundle = (asked.bundle or overhead.newest_bundle()).resolve()
    result = measure(bundle, asked.pairs, asked.tokens, asked.streams, asked.rounds)
    if asked.json:
        output.print_json(asdict(result))
    else:
        show(result)
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
