from __future__ import annotations

import math

import pytest

from hedgerow.registry.manifest import GoldenTensor, GoldenTensors, GoldenText, Message
from hedgerow.rollout.gate import probe as probes

TENSORS = GoldenTensors(
    inputs=(GoldenTensor("x", (1, 2), (1.0, 2.0)),), outputs=(GoldenTensor("y", (2,), (3.0, 4.0)),), atol=0.1, rtol=0.01
)


def text(match: str) -> GoldenText:
    return GoldenText(messages=(Message("user", "Capital?"),), expect="Paris", match=match, max_tokens=8)


def says(content: str) -> dict[str, object]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


@pytest.mark.parametrize(
    "match, content, fits",
    [
        ("contains", "It is Paris.", True),
        ("contains", "It is Lyon.", False),
        ("prefix", " Paris, of course", True),
        ("prefix", "It is Paris", False),
        ("exact", "Paris\n", True),
        ("exact", "Paris.", False),
    ],
)
def test_text(match: str, content: str, *, fits: bool) -> None:
    wrong = probes.wrong(text(match), says(content))
    assert (wrong is None) == fits
    assert fits or repr(content) in str(wrong)


def output(*data: object, shape: tuple[int, ...] = (2,)) -> dict[str, object]:
    return {"outputs": [{"name": "y", "datatype": "FP32", "shape": list(shape), "data": list(data)}]}


@pytest.mark.parametrize(
    "answer, says",
    [
        (output(3.05, 4.13), None),
        (output(3.0, 4.2), "y[1] is 4.2, not 4.0"),
        (output(3.0, math.nan), "y[1] is nan"),
        (output(3.0, "4"), "y[1] is '4'"),
        (output(3.0, 4.0, shape=(1, 2)), "shape [1, 2], not [2]"),
        (output(3.0), "has 1 values, not 2"),
        ({"outputs": []}, "lacks 'y'"),
        ({"error": "no"}, "lacks 'outputs'"),
    ],
)
def test_tensors(answer: object, says: str | None) -> None:
    wrong = probes.wrong(TENSORS, answer)
    assert wrong is None if says is None else says in str(wrong)


def test_questions() -> None:
    assert probes.ask(text("exact"), "assistant", {}) == probes.Question(
        "/v1/chat/completions",
        {
            "model": "assistant",
            "messages": [{"role": "user", "content": "Capital?"}],
            "max_tokens": 8,
            "temperature": 0,
        },
    )
    assert probes.ask(TENSORS, "vision", {"x": "FP32"}) == probes.Question(
        "/v2/models/vision/infer",
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]},
    )
