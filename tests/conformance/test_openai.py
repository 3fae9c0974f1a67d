"""The ``openai`` package, unmodified."""

from __future__ import annotations

import asyncio

import openai
import pytest

pytestmark = pytest.mark.conformance
ASK = {"model": "talker", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 24, "temperature": 0}


@pytest.fixture
def client(port: int):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert "talker" in names
    assert client.models.retrieve("talker").owned_by == "hedgerow"


def test_whole_and_streamed_answers_are_one(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ASK)
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert ends[-1] == whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24


def test_a_seed_repeats_and_stop_ends(client: openai.OpenAI) -> None:
    warm = {**ASK, "temperature": 1.2, "top_p": 0.9}
    first, again = (client.chat.completions.create(**warm, seed=7).choices[0].message.content for _ in range(2))
    assert first == again
    whole = client.chat.completions.create(**ASK).choices[0].message.content or ""
    middle = len(whole) // 2
    stop = whole[middle : middle + 2]
    assert stop
    ended = client.chat.completions.create(**ASK, stop=[stop]).choices[0]
    assert (ended.finish_reason, ended.message.content) == ("stop", whole[: whole.index(stop)])


def test_completions_whole_and_streamed_are_one(client: openai.OpenAI) -> None:
    ask = {"model": "talker", "prompt": "hello", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**ask)
    chunks = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text != ""
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (12, "length")
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**ask, echo=True)
    assert refused.value.param == "echo"


def test_what_is_not_served_is_the_packages_own_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="/v1/embeddings is not served here"):
        client.embeddings.create(model="talker", input="x")


def test_mistakes_are_the_packages_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**ASK, n=2)
    assert refused.value.param == "n"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(**{**ASK, "model": "nobody"})
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="the model's context holds 512"):
        client.chat.completions.create(**{**ASK, "messages": [{"role": "user", "content": "a" * 2000}]})


def test_several_at_once_say_what_each_says_alone(port: int) -> None:
    async def ask(client: openai.AsyncOpenAI, word: str) -> str | None:
        answer = await client.chat.completions.create(**{**ASK, "messages": [{"role": "user", "content": word}]})
        return answer.choices[0].message.content

    async def main() -> tuple[list[str | None], list[str | None]]:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused") as client:
            words = ["hello", "hell", "he", "llama", "yellow", "x"]
            alone = [await ask(client, word) for word in words]
            together = list(await asyncio.gather(*(ask(client, word) for word in words)))
            return alone, together

    alone, together = asyncio.run(main())
    assert alone == together
    assert len(set(alone)) > 1


def test_leaving_a_stream_frees_its_place(client: openai.OpenAI) -> None:
    """More streams than may run and wait together, each left after its first chunk: none may be refused."""
    for _ in range(40):
        with client.chat.completions.create(**{**ASK, "max_tokens": 400}, stream=True) as stream:
            next(iter(stream))
    assert client.chat.completions.create(**ASK).choices[0].finish_reason == "length"
