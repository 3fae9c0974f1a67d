"""A question of the bundle's own: how it is put to a server, and whether the answer will do. Pure.

Text goes through the chat interface with greedy decoding, tensors through Open
Inference Protocol v2 (``POST /v2/models/<name>/infer``): the doors that
applications use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from hedgerow.registry.manifest import GoldenTensor, GoldenTensors, GoldenText, Manifest

Probe = GoldenText | GoldenTensors
ANSWER_HEADER = "x-hedgerow-answer"
FROM_THE_DEVICE = {ANSWER_HEADER: "device"}
"""Heads of every request of ours: an answer that a server had fetched elsewhere would say nothing about the device."""


class Question(msgspec.Struct, frozen=True):
    """An HTTP request: ``POST path`` with a JSON body."""

    path: str
    body: dict[str, Any]


def choose(manifest: Manifest) -> Probe:
    """The cheapest of the bundle's golden inputs: a question of ours must not hold up real ones."""
    return min(manifest.golden, key=_cost)


def _cost(golden: Probe) -> int:
    if isinstance(golden, GoldenText):
        # A token is about four characters of English; only the order of sizes matters here.
        return golden.max_tokens + sum(len(message.content) for message in golden.messages) // 4
    return sum(len(tensor.data) for tensor in golden.inputs)


def ask(probe: Probe, model: str, tensor_types: Mapping[str, str]) -> Question:
    """The request for ``probe``; an adapter is asked as ``model:adapter``.

    ``tensor_types`` maps input names to their protocol data types, else FP32.
    """
    if isinstance(probe, GoldenText):
        return Question(
            "/v1/chat/completions",
            {
                "model": model if probe.adapter is None else f"{model}:{probe.adapter}",
                "messages": [{"role": message.role, "content": message.content} for message in probe.messages],
                "max_tokens": probe.max_tokens,
                "temperature": 0,
            },
        )
    inputs = [
        {
            "name": each.name,
            "datatype": tensor_types.get(each.name, "FP32"),
            "shape": list(each.shape),
            "data": list(each.data),
        }
        for each in probe.inputs
    ]
    return Question(f"/v2/models/{model}/infer", {"inputs": inputs})


def wrong(probe: Probe, answer: Any) -> str | None:
    """Say what is wrong with the answer's JSON; None if it will do."""
    try:
        if isinstance(probe, GoldenText):
            return _wrong_text(probe, answer["choices"][0]["message"]["content"])
        outputs = {output["name"]: output for output in answer["outputs"]}
        found = (_wrong_tensor(probe, wanted, outputs[wanted.name]) for wanted in probe.outputs)
        return next((each for each in found if each is not None), None)
    except (KeyError, IndexError, TypeError) as error:
        return f"the answer lacks {error}"


def _wrong_text(probe: GoldenText, text: str) -> str | None:
    got, want = text.strip(), probe.expect.strip()
    fits = {"exact": got == want, "prefix": got.startswith(want), "contains": want in got}[probe.match]
    return None if fits else f"asked {probe.messages[-1].content!r}, it said {text!r}; wanted ({probe.match}) {want!r}"


def _wrong_tensor(probe: GoldenTensors, wanted: GoldenTensor, got: dict[str, Any]) -> str | None:
    if list(got["shape"]) != list(wanted.shape):
        return f"output {wanted.name} has shape {got['shape']}, not {list(wanted.shape)}"
    if len(got["data"]) != len(wanted.data):
        return f"output {wanted.name} has {len(got['data'])} values, not {len(wanted.data)}"
    for place, (have, want) in enumerate(zip(got["data"], wanted.data, strict=True)):
        if not _close(probe, have, want):
            return f"output {wanted.name}[{place}] is {have!r}, not {want!r} (atol {probe.atol:g}, rtol {probe.rtol:g})"
    return None


def _close(probe: GoldenTensors, have: Any, want: Any) -> bool:
    if not isinstance(want, int | float) or isinstance(want, bool):
        return bool(have == want)
    if not isinstance(have, int | float):
        return False
    if math.isnan(want):
        return math.isnan(have)
    return abs(have - want) <= probe.atol + probe.rtol * abs(want)
