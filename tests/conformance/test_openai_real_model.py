"""The ``openai`` package against the small real model, where its wheel is already in the cache."""

from __future__ import annotations

import threading
import time

import openai
import pytest
import server_support as support

from hedgerow.models.importer import import_recipe
from hedgerow.models.recipes import find_recipe
from hedgerow.models.wheel import read_lock
from hedgerow.paths import cache_dir, repository_root

pytestmark = [pytest.mark.conformance, pytest.mark.slow]
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
ASK = {"model": "assistant", "messages": FRANCE, "max_tokens": 12, "temperature": 0}
STORY = {"model": "assistant", "messages": [{"role": "user", "content": "Tell a long story."}], "max_tokens": 800}


@pytest.fixture(scope="module")
def process(tmp_path_factory, unit_ca):
    """A device's own server with two places and no queue to speak of; a context of 2,048 tokens."""
    locked = read_lock(repository_root() / "requirements" / "models.txt", find_recipe("smollm2").package)
    if not any((cache_dir() / "wheels").glob(f"*-{locked.version}-*.whl")):
        pytest.skip("the wheel is not in var/cache/wheels; run: hedgerow model import smollm2")
    folder = tmp_path_factory.mktemp("device")
    (folder / "models" / "assistant").mkdir(parents=True)
    (folder / "models" / "assistant" / "1.0.0").symlink_to(import_recipe("smollm2"))
    device = support.start_device(folder, unit_ca, limits={"generations": 1, "queue": 1})
    try:
        device.process.until(lambda: support.answers(device.http) == 200, "ready")
        yield device
    finally:
        device.process.close()


@pytest.fixture
def client(process):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{process.http}/v1", api_key="unused", max_retries=0) as client:
        yield client


def running(process) -> int:
    return process.control("status")[1]["inflight"]


def test_it_knows_the_capital_of_france(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ASK)
    assert "Paris" in (whole.choices[0].message.content or "")
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    assert chunks[-1].usage == whole.usage


def test_a_completion_goes_on_from_the_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="assistant", prompt="The capital of France is", max_tokens=4, temperature=0
    )
    assert "Paris" in answer.choices[0].text
    ended = client.completions.create(
        model="assistant", prompt="Count: one, two, three,", max_tokens=40, temperature=0, stop=["five", "six"]
    )
    assert "five" not in ended.choices[0].text
    assert ended.choices[0].finish_reason == "stop"


def test_a_seed_repeats(client: openai.OpenAI) -> None:
    warm = {**ASK, "temperature": 1.3, "top_p": 0.95}
    said = [client.chat.completions.create(**warm, seed=seed).choices[0].message.content for seed in (5, 5, 6)]
    assert said[0] == said[1] != said[2]


def test_who_leaves_stops_the_model_at_once(client: openai.OpenAI, process) -> None:
    """Its 800 tokens would take ten seconds; the next one has the model at once."""
    with client.chat.completions.create(**STORY, stream=True) as stream:
        next(iter(stream))
        assert running(process) == 1
    left = time.monotonic()
    support.wait(lambda: running(process) == 0)
    assert client.chat.completions.create(**ASK).choices[0].message.content
    assert time.monotonic() - left < 5


def test_a_client_whose_patience_ends_stops_the_model_too(client: openai.OpenAI, process) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**STORY, timeout=0.3)
    support.wait(lambda: running(process) == 0)


def test_over_the_bound_and_drained(client: openai.OpenAI, process) -> None:
    with client.chat.completions.create(**STORY, stream=True) as stream:
        next(iter(stream))
        results: list[object] = []
        waiting = threading.Thread(target=lambda: results.append(client.chat.completions.create(**ASK)))
        waiting.start()
        support.wait(lambda: running(process) == 2)
        with pytest.raises(openai.RateLimitError) as busy:
            client.chat.completions.create(**ASK)
        assert int(busy.value.response.headers["retry-after"]) >= 1
    waiting.join()
    assert len(results) == 1
    support.ask(support.UnixConnection(process.socket), "/control/v1/drain", {"within_s": 60})
    try:
        with pytest.raises(openai.InternalServerError) as drained:
            client.chat.completions.create(**ASK)
        assert (drained.value.status_code, drained.value.response.headers["retry-after"]) == (503, "5")
    finally:
        support.ask(support.UnixConnection(process.socket), "/control/v1/undrain", {})
    assert client.chat.completions.create(**ASK).choices
