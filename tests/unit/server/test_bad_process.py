"""The real process under bad input: fuzzed by its own description, lied to beside honest callers, fed broken models.

Afterwards it answers as before, and has given back what it took.
"""

from __future__ import annotations

import gzip
import http.client
import json
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import schemathesis
import server_support as support
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import (
    allow_header_conformance,
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hedgerow.server.protocols import openapi
from hedgerow.server.protocols.grpc import messages, service

pytestmark = pytest.mark.slow

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    allow_header_conformance,
]
EXAMPLES = 15
ADD = "/v2/models/add/infer"
# What a library keeps for the next request (arenas, threads' stacks) is no leak; what grows with requests is.
ROOM_KB, ROOM_FILES = 128 * 1024, 16


@dataclass
class Server:
    process: support.Process
    repository: Path
    port: int
    grpc_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=support.PATIENCE_S)
        return support.ask(connection, path, body)

    def files(self) -> int:
        return len(list(Path(f"/proc/{self.process.child.pid}/fd").iterdir()))

    def memory_kb(self) -> int:
        lines = Path(f"/proc/{self.process.child.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])

    def golden(self) -> list[Any]:
        """What each model answers to the same input, by each protocol."""
        row = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
        text = {"text_input": "hello", "max_tokens": 4, "temperature": 0}
        chat = {
            "model": "talker",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 4,
            "temperature": 0,
        }
        answers = [self.ask(ADD, row), self.ask("/v2/models/talker/generate", text)]
        status, said = self.ask("/v1/chat/completions", chat)
        answers.append((status, said["choices"]))
        request = messages.ModelInferRequest(model_name="add", raw_input_contents=[struct.pack("<2f", 1, 2)])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            call = channel.unary_unary(f"/{service.NAME}/ModelInfer")
            answers.append(call(request.SerializeToString(), timeout=support.PATIENCE_S))
        assert [status for status, _ in answers[:3]] == [200] * 3
        return answers


@pytest.fixture(scope="module")
def process(tmp_path_factory, tiny_text):
    """``hedgerow serve`` with ``add``, ``same`` (FP32) and ``talker``."""
    folder = tmp_path_factory.mktemp("process")
    repository = folder / "models"
    support.write_add(repository / "add" / "1", 1.0)
    support.write_identity(repository / "same" / "1", support.TensorProto.FLOAT)
    (repository / "talker").mkdir()
    (repository / "talker" / "1").symlink_to(tiny_text["all"])
    port, grpc_port = support.free_port(), support.free_port()
    addresses = ("--http", f"127.0.0.1:{port}", "--grpc", f"127.0.0.1:{grpc_port}")
    started = support.Process(folder, "--repository", str(repository), *addresses)
    server = Server(started, repository, port, grpc_port)
    try:
        started.until(lambda: support.answers(port) == 200, "ready")
        yield server
    finally:
        started.close()
    assert not support.tells_of_an_exception((folder / "server.log").read_text())
    assert started.child.returncode == 0


@pytest.fixture
def server(process):
    """The same process for each test; each must leave it as it was."""
    before = process.golden()
    memory_kb, files = process.memory_kb(), process.files()
    yield process
    assert process.process.child.poll() is None, process.process.log
    assert process.golden() == before
    # Connections that are kept alive end by themselves.
    process.process.until(lambda: process.files() <= files + ROOM_FILES, f"back at {files} files")
    process.process.until(lambda: process.memory_kb() <= memory_kb + ROOM_KB, f"back at {memory_kb} KiB")


# ── what its description allows, and what it does not ───────────────────────


@pytest.mark.parametrize("method, path", [each for each in openapi.OPERATIONS if "unload" not in each[1]])
def test_answers_are_as_described_whatever_is_asked(server, method: str, path: str) -> None:
    """No 5xx, no status, content type or document that the description does not have."""
    operation = schemathesis.openapi.from_url(f"{server.url}{openapi.PATH}")[path][method.upper()]
    modes = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes))
    there = "talker" if path.startswith("/v1") or "generate" in path else "add"
    statuses: set[int] = set()

    @seed(1)
    @settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
    @given(cases, st.booleans())
    def ask(case: Any, exists: Any) -> None:
        # Often a model that is there: else all would end in "no such model".
        if exists:
            for name, value in (("model", there), ("version", "1")):
                if name in case.path_parameters:
                    case.path_parameters[name] = value
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = there
            if isinstance(case.body, dict) and path.startswith("/v1"):
                case.body["max_tokens"] = 2
        response = case.call(timeout=support.PATIENCE_S)
        case.validate_response(response, checks=CHECKS)
        statuses.add(response.status_code)

    ask()
    assert statuses


@pytest.mark.parametrize("method, path", [each for each in openapi.OPERATIONS if "unload" not in each[1]])
def test_what_is_asked_rightly_is_answered_as_described(server, method: str, path: str) -> None:
    """So that the document of each answer, too, is held to its description; a fuzzer seldom guesses a whole tensor."""
    operation = schemathesis.openapi.from_url(f"{server.url}{openapi.PATH}")[path][method.upper()]
    there = "talker" if path.startswith("/v1") or "generate" in path else "add"
    bodies = {
        "infer": {"id": "7", "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]},
        "generate": {"id": "7", "text_input": "hello", "max_tokens": 2},
        "generate_stream": {"text_input": "hello", "max_tokens": 2},
        "chat/completions": {"model": there, "messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
        "completions": {"model": there, "prompt": "a", "max_tokens": 2},
        "index": {"ready": True},
        "load": {},
    }
    named = {"model": there, "version": "1"}
    parameters = {name: value for name, value in named.items() if f"{{{name}}}" in path}
    case = operation.Case(path_parameters=parameters)
    if method == "post":
        case.body = bodies["chat/completions" if "chat" in path else path.rsplit("/", 1)[-1]]
        case.media_type = "application/json"
    response = case.call(timeout=support.PATIENCE_S)
    assert response.status_code == 200
    case.validate_response(response, checks=CHECKS)


# ── liars beside honest callers ─────────────────────────────────────────────


def honest_rest(server: Server, tag: int, chance: random.Random) -> bool:
    """One inference in one of REST's forms; whether the answer is the one to ``tag``."""
    values = np.full(chance.choice([1, 100, 20_000]), tag, np.float32)
    tensor: dict[str, Any] = {"name": "x", "shape": [values.size], "datatype": "FP32"}
    headers: dict[str, str] = {}
    if chance.random() < 0.5:
        tensor["data"] = values.tolist()
        body = json.dumps({"id": str(tag), "inputs": [tensor]}).encode()
    else:
        tensor["parameters"] = {"binary_data_size": values.nbytes}
        head = json.dumps({"id": str(tag), "inputs": [tensor]}).encode()
        headers["inference-header-content-length"] = str(len(head))
        body = head + values.tobytes()
    if chance.random() < 0.3:
        headers["content-encoding"] = "gzip"
        body = gzip.compress(body, 1)
    chunked = chance.random() < 0.3
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=support.PATIENCE_S)
    sent: Any = iter([body[:50], body[50:]]) if chunked else body
    connection.request("POST", "/v2/models/same/infer", sent, headers, encode_chunked=chunked)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    if response.status == 429:  # it was said, and nobody else's data with it
        return True
    return answer["id"] == str(tag) and answer["outputs"][0]["data"] == values.tolist()


def honest_grpc(channel: grpc.Channel, tag: int, chance: random.Random) -> bool:
    values = np.full(chance.choice([1, 100, 20_000]), tag, np.float32)
    request = messages.ModelInferRequest(model_name="same", id=str(tag))
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[values.size])
    if chance.random() < 0.5:
        tensor.contents.fp32_contents.extend(values.tolist())
    else:
        request.raw_input_contents.append(values.tobytes())
    try:
        data = channel.unary_unary(f"/{service.NAME}/ModelInfer")(
            request.SerializeToString(), timeout=support.PATIENCE_S
        )
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    answer = messages.ModelInferResponse.FromString(data)
    raw = answer.raw_output_contents
    found = np.frombuffer(raw[0], np.float32) if raw else np.array(answer.outputs[0].contents.fp32_contents, np.float32)
    return answer.id == str(tag) and np.array_equal(found, values)


LIES = [
    b"content-length: 400000\r\n\r\n" + b"\x7f" * 70_000,
    b"content-length: 400000\r\ninference-header-content-length: 10\r\n\r\n" + b"\x7f" * 399_999,
    b"transfer-encoding: chunked\r\n\r\nffff\r\n" + b"\x7f" * 1000,
    b"content-encoding: gzip\r\ncontent-length: 1000\r\n\r\n" + gzip.compress(b"\x7f" * 5_000_000)[:900],
    b"inference-header-content-length: 99\r\ncontent-length: 3\r\n\r\n\x7f\x7f\x7f",
    b"content-length: 0\r\n\r\n",
]


def lie(server: Server, chance: random.Random) -> None:
    """A body that is not what it says, and no waiting for what comes of it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=support.PATIENCE_S) as caller:
        try:
            caller.sendall(b"POST /v2/models/same/infer HTTP/1.1\r\nhost: x\r\n" + chance.choice(LIES))
            if chance.random() < 0.5:
                caller.shutdown(socket.SHUT_WR)
                caller.recv(100)
        except OSError:  # the server has hung up already
            pass


def test_each_caller_gets_his_own_whatever_others_send(server) -> None:
    wrong: list[object] = []
    done = threading.Event()

    def calls(number: int, channel: grpc.Channel) -> None:
        chance = random.Random(number)
        try:
            for turn in range(15):
                tag = number * 1000 + turn
                right = honest_grpc(channel, tag, chance) if number % 2 else honest_rest(server, tag, chance)
                if not right:
                    wrong.append(tag)
        except Exception as error:  # noqa: BLE001 - whatever a caller sees is the finding
            wrong.append(error)

    def lies(number: int) -> None:
        chance = random.Random(number)
        while not done.is_set():
            lie(server, chance)

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        callers = [threading.Thread(target=calls, args=(number, channel)) for number in range(6)]
        liars = [threading.Thread(target=lies, args=(number,)) for number in range(3)]
        for thread in (*callers, *liars):
            thread.start()
        for thread in callers:
            thread.join()
        done.set()
        for thread in liars:
            thread.join()
    assert wrong == []


def test_callers_who_hang_hold_nobody_up_and_are_let_go(server) -> None:
    hanging = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    for number, caller in enumerate(hanging):
        caller.sendall(
            [b"POST " + ADD.encode() + b" HTTP/1.1\r\ncontent-length: 60000000\r\n\r\n{", b"GET /"][number % 2]
        )
    assert server.ask("/health/live")[0] == 200
    assert server.golden()
    for caller in hanging:
        caller.close()


# ── models that are broken ──────────────────────────────────────────────────


def spoilt(data: bytes, chance: random.Random) -> bytes:
    """A file with some of it gone or changed."""
    damaged = bytearray(data)
    kind = chance.randrange(4)
    if kind == 0:
        return bytes(damaged[: chance.randrange(len(damaged))])
    if kind == 1:
        return chance.randbytes(len(damaged))
    for _ in range(chance.choice([1, 4, 16])):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    return bytes(damaged) if kind == 2 else bytes(damaged) + b"\0" * 100


def test_the_old_version_answers_while_broken_ones_are_loaded(server) -> None:
    """Whatever ONNX Runtime says of a file, and however often."""
    file = server.repository / "add" / "1" / "model.onnx"
    whole = file.read_bytes()
    config = file.parents[1] / "config.pbtxt"
    chance = random.Random(7)
    row = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    refused = 0
    for turn in range(40):
        temporary = file.with_name("next")
        temporary.write_bytes(spoilt(whole, chance) if turn % 4 else whole)
        temporary.rename(file)
        if turn % 4 == 0:
            config.write_text(["", "a {" * 5000, "\0", 'name: "other"', "max_batch_size: " + "9" * 5000][turn // 4 % 5])
        elif config.exists():
            config.unlink()
        status, said = server.ask("/v2/repository/models/add/load", {})
        assert status in {200, 400}, said
        refused += status == 400
        if status == 400:
            assert said["error"]
            # A damaged file that can be loaded is a model like any other; one that cannot has changed nothing.
            assert server.ask(ADD, row)[0] in {200, 400}
    assert refused > 15
    config.unlink(missing_ok=True)
    file.write_bytes(whole)
    assert server.ask("/v2/repository/models/add/load", {})[0] == 200
    for junk in (whole[:-10], b"", b"junk"):
        time.sleep(0.01)  # a file's time is what tells that it has changed
        file.write_bytes(junk)
        assert server.ask("/v2/repository/models/add/load", {})[0] == 400
        assert server.ask(ADD, row)[1]["outputs"][0]["data"] == [2.0, 3.0]
    file.write_bytes(whole)
    assert server.ask("/v2/repository/models/add/load", {})[0] == 200
