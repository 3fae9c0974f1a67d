"""Input that is wrong as clients seldom are, and attackers often: the caller is told, and nothing else happens."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from typing import Any

import httpx
import pytest
import server_support as support
from server_support import served

from hedgerow.server import backends
from hedgerow.server.config import Limits
from hedgerow.server.models import Slot

INFER, SAME = "/v2/models/add/infer", "/v2/models/same/infer"
CHAT, COMPLETE, GENERATE = "/v1/chat/completions", "/v1/completions", "/v2/models/assistant/generate"
INDEX = "/v2/repository/index"
X = '{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}'
LIMITS = Limits(body_bytes=1 << 20, json_bytes=1 << 18, max_tokens=4)
# Longer than Python writes numbers, and than a float holds; both are JSON.
HUGE, LARGE = "9" * 5000, "9" * 400
DEEP = 100_000


@pytest.fixture(scope="module")
def client(tmp_path_factory, tiny_text):
    """A server of ``add``, of ``same`` (BYTES as they came), and of a real decoder as ``assistant``."""
    folder = tmp_path_factory.mktemp("models")
    support.write_add(folder / "add", 1.0)
    support.write_identity(folder / "same", support.TensorProto.STRING)

    def prepare(plane: Any) -> None:
        for name, where in (("add", folder / "add"), ("same", folder / "same"), ("assistant", tiny_text["all"])):
            plane._slots[name] = Slot(name, served(backends.load(where, threads=1), name))

    server = support.InProcess(prepare, folder, LIMITS)
    with httpx.Client(base_url=server.url, timeout=support.PATIENCE_S) as client:
        yield client
        answer = client.post(INFER, content=f'{{"inputs": [{X}]}}').json()
    server.close()
    assert answer["outputs"][0]["data"] == [2.0, 3.0]


def refused(response: httpx.Response) -> str:
    """The text of an error that is the caller's fault."""
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    text = error if isinstance(error, str) else error["message"]
    assert 0 < len(text) <= 4001
    return text


def infer(inputs: str = X, more: str = "") -> str:
    return f'{{"inputs": [{inputs}]{more}}}'


def tensor(shape: str = "[1, 2]", data: str = '"data": [1, 2]', name: str = "x", datatype: str = "FP32") -> str:
    return f'{{"name": "{name}", "shape": {shape}, "datatype": "{datatype}", {data}}}'


# ── numbers ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [HUGE, LARGE, str(2**63), "-1", "1e999", "NaN", "Infinity", "-Infinity", "1.5"])
@pytest.mark.parametrize(
    "body",
    [
        infer(more=', "parameters": {"timeout": N}'),
        infer(more=', "parameters": {"priority": N}'),
        infer(more=', "outputs": [{"name": "y", "parameters": {"classification": N}}]'),
        infer(tensor("[N, N]")),
        infer(tensor("[0, N]", '"data": []')),
        infer(tensor("[" + ", ".join(["N"] * 16) + "]")),
        infer(tensor(data='"parameters": {"binary_data_size": N}')),
        infer(tensor(data='"data": [1, N]', datatype="INT8")),
        infer(tensor(data='"data": [N, N]', datatype="UINT64")),
    ],
)
def test_numbers_that_are_none(client, body: str, number: str) -> None:
    refused(client.post(INFER, content=body.replace("N", number)))


@pytest.mark.parametrize("number", [HUGE, LARGE, "-1", "0", "1e999", "NaN"])
def test_counts_of_tokens_that_are_none(client, number: str) -> None:
    for path, body in (
        (COMPLETE, '{"model": "assistant", "prompt": "a", "max_tokens": N}'),
        (GENERATE, '{"text_input": "a", "max_tokens": N}'),
    ):
        refused(client.post(path, content=body.replace("N", number)))


@pytest.mark.parametrize("temperature", ["1e-300", "1e-45", "1e-38", "1e-6", "0", "2"])
@pytest.mark.parametrize("top_p", ["1e-300", "1e-45", "1"])
@pytest.mark.parametrize("seed", ["", f', "seed": {LARGE}', ', "seed": -1'])
def test_the_least_that_may_be_asked_for_is_answered(client, temperature: str, top_p: str, seed: str) -> None:
    """With a seed and without, because the runtime has two ways to generate."""
    how = f'"max_tokens": 1, "temperature": {temperature}, "top_p": {top_p}{seed}'
    assert client.post(GENERATE, content=f'{{"text_input": "a", {how}}}').status_code == 200


def test_what_is_not_finite_is_a_value_and_null_in_json(client) -> None:
    raw = struct.pack("<2f", math.nan, -math.inf)
    head = infer(tensor(data='"parameters": {"binary_data_size": 8}'))
    headers = {"inference-header-content-length": str(len(head))}
    answer = client.post(INFER, content=head.encode() + raw, headers=headers).json()
    assert answer["outputs"][0]["data"] == [None, None]
    head = infer(tensor(data='"parameters": {"binary_data_size": 8}'), ', "parameters": {"binary_data_output": true}')
    headers = {"inference-header-content-length": str(len(head))}
    values = struct.unpack("<2f", client.post(INFER, content=head.encode() + raw, headers=headers).content[-8:])
    assert (math.isnan(values[0]), values[1]) == (True, -math.inf)


# ── depth, and keys ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}"), ("[", ""), ('{"a":', "")])
@pytest.mark.parametrize(
    "path, body",
    [
        (INFER, "N"),
        (INFER, '{"inputs": N}'),
        (INFER, infer(tensor(data='"data": N'))),
        (INFER, infer(tensor(data='"parameters": N'))),
        (INFER, infer(more=', "unknown": N')),
        (INFER, infer(tensor("N"))),
        (CHAT, '{"model": "assistant", "messages": N}'),
        (CHAT, '{"model": "assistant", "unknown": N}'),
        (COMPLETE, '{"model": "assistant", "prompt": N}'),
        (GENERATE, '{"text_input": "a", "parameters": N}'),
        (GENERATE, '{"text_input": "a", "stop": N}'),
        (INDEX, "N"),
    ],
)
def test_json_that_is_nested_without_an_end(client, path: str, body: str, opening: str, closing: str) -> None:
    depth = 10_000 if path == INDEX else LIMITS.json_bytes // 8
    refused(client.post(path, content=body.replace("N", opening * depth + closing * depth)))


def test_of_a_key_that_stands_twice_the_last_counts(client) -> None:
    """As in the parsers of other languages; each of them is held to its type."""
    body = infer(
        tensor(), f', "id": "first", "id": "last", "inputs": [{tensor(data="""  "data": [5, 6], "data": [7, 8]""")}]'
    )
    answer = client.post(INFER, content=body).json()
    assert (answer["id"], answer["outputs"][0]["data"]) == ("last", [8.0, 9.0])
    refused(client.post(INFER, content=infer(more=', "id": 3, "id": "last"')))
    refused(client.post(INFER, content=infer(more=', "inputs": 3, "inputs": []')))


@pytest.mark.parametrize(
    "path, body",
    [
        (INFER, infer(more=', "id": "a"' * 10_000)),
        (
            CHAT,
            '{"model": "assistant", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]'
            + ', "n": 1' * 9000
            + "}",
        ),
    ],
)
def test_many_of_one_key_are_as_one(client, path: str, body: str) -> None:
    assert client.post(path, content=body).status_code == 200


@pytest.mark.parametrize(
    "path, body",
    [
        (INFER, infer(more=', "KEY": 1')),
        (INFER, infer(tensor(name="KEY"))),
        (INFER, infer(tensor(datatype="KEY"))),
        (INFER, infer(more=', "outputs": [{"name": "KEY"}]')),
        (CHAT, '{"model": "assistant", "messages": [], "KEY": 1}'),
        (GENERATE, '{"text_input": "a", "KEY": 1}'),
        (INDEX, '{"KEY": 1}'),
    ],
)
@pytest.mark.parametrize("key", ["k" * 50_000, "at `$.", "`" * 1000, "\\u0000", "\\ud83d\\ude00" * 1000])
def test_names_that_are_no_names_are_quoted_in_part(client, path: str, body: str, key: str) -> None:
    refused(client.post(path, content=body.replace("KEY", key)))


# ── text ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wrong", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\x80"])
@pytest.mark.parametrize(
    "path, body",
    [
        (INFER, b'{"inputs": [], "id": "N"}'),
        (INFER, b'{"inputs": [], "N": 1}'),
        (INFER, b'{"inputs": [{"name": "N"}]}'),
        (SAME, b'{"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["N"]}]}'),
        (CHAT, b'{"model": "N"}'),
        (COMPLETE, b'{"model": "assistant", "prompt": "N"}'),
        (COMPLETE, b'{"model": "assistant", "prompt": "a", "stop": ["N"]}'),
        (GENERATE, b'{"text_input": "N"}'),
        (INDEX, b'{"N": 1}'),
    ],
)
def test_what_is_not_utf8(client, path: str, body: bytes, wrong: bytes) -> None:
    refused(client.post(path, content=body.replace(b"N", wrong)))


@pytest.mark.parametrize("half", ["\\ud800", "\\udc80", "\\ud800\\u0041"])
def test_halves_of_characters(client, half: str) -> None:
    refused(client.post(COMPLETE, content=f'{{"model": "assistant", "prompt": "{half}"}}'))
    refused(client.post(SAME, content=infer(tensor("[1]", f'"data": ["{half}"]', datatype="BYTES"))))


@pytest.mark.parametrize(
    "path, body",
    [
        (COMPLETE, {"model": "assistant", "prompt": "a\0b"}),
        (GENERATE, {"text_input": "a\0b"}),
        (CHAT, {"model": "assistant", "messages": [{"role": "user", "content": "a\0b"}]}),
    ],
)
def test_a_prompt_that_the_tokenizer_would_cut_short(client, path: str, body: dict[str, Any]) -> None:
    assert "NUL" in refused(client.post(path, json=body))


def test_bytes_may_hold_what_text_may_not(client) -> None:
    answer = client.post(SAME, content=infer(tensor("[1]", '"data": ["a\\u0000b"]', datatype="BYTES")))
    assert answer.json()["outputs"][0]["data"] == ["a\0b"]


# ── size ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [INFER, CHAT, COMPLETE, GENERATE])
@pytest.mark.parametrize("pack", [None, "gzip", "deflate"])
def test_json_has_its_own_limit_packed_or_not(client, path: str, pack: str | None) -> None:
    """Values and prompts in JSON take many times their memory, so less of it is taken than of tensors."""
    body = b'{"prompt": "' + b"a" * (LIMITS.json_bytes + 1)
    headers = {} if pack is None else {"content-encoding": pack}
    packed = {None: bytes, "gzip": gzip.compress, "deflate": zlib.compress}[pack](body)
    response = client.post(path, content=packed, headers=headers)
    assert (response.status_code, str(LIMITS.json_bytes) in response.text) == (413, True)


@pytest.mark.parametrize("path", [INFER, CHAT, COMPLETE, GENERATE, INDEX])
@pytest.mark.parametrize(
    "coding, body, status",
    [
        ("gzip", gzip.compress(gzip.compress(b"[" * 50_000_000, 9), 9), 400),
        ("gzip", gzip.compress(b"[" * 50_000_000, 1), 413),
        ("deflate", zlib.compress(b"[" * 50_000_000, 1), 413),
        ("gzip", gzip.compress(b"{}")[:-4], 400),
        ("br", b"{}", 415),
        ("gzip, gzip", b"{}", 415),
    ],
    ids=["twice", "gzip", "deflate", "short", "br", "list"],
)
def test_packed_bodies_on_every_route(client, path: str, coding: str, body: bytes, status: int) -> None:
    if path == INDEX and len(body) > 64 * 1024:
        status = 413
    assert client.post(path, content=body, headers={"content-encoding": coding}).status_code == status


# ── names of models ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["n" * 256, "n" * 5000, "%00", "%ff", "..", "%2e%2e", ".", "~", "con:", "%F0%9F%98%80" * 64]
)
@pytest.mark.parametrize("action", ["load", "unload"])
def test_models_that_are_in_no_repository(client, name: str, action: str) -> None:
    response = client.post(f"/v2/repository/models/{name}/{action}")
    assert response.status_code in {400, 404}
    assert len(response.json()["error"]) <= 4001


@pytest.mark.parametrize("name", ["n" * 50_000, "%00", "%ff", "%F0%9F%98%80"])
def test_models_that_nobody_serves(client, name: str) -> None:
    for path in (
        f"/v2/models/{name}",
        f"/v2/models/{name}/stats",
        f"/v2/models/add/versions/{name}",
        f"/v1/models/{name}",
    ):
        assert client.get(path).status_code == 404
    for path in (f"/v2/models/{name}/infer", f"/v2/models/add/versions/{name}/infer"):
        assert client.post(path, content=infer()).status_code == 404
    assert client.post(f"/v2/models/{name}/generate", content='{"text_input": "a"}').status_code == 404


def test_who_says_no_length_gets_what_the_server_allows(client) -> None:
    """The protocols' own defaults are longer than what this server allows."""
    chat = {"model": "assistant", "messages": [{"role": "user", "content": "a"}]}
    for path, body in (
        (CHAT, chat),
        (COMPLETE, {"model": "assistant", "prompt": "a"}),
        (GENERATE, {"text_input": "a"}),
    ):
        assert client.post(path, json=body).status_code == 200
