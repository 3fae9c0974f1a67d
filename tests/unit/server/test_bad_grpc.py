"""Messages of gRPC that are nearly right: whatever is wrong with one is its sender's fault, and so is its status."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import server_support as support
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hedgerow.server import backends, tensors
from hedgerow.server.config import Address, Limits
from hedgerow.server.models import Slot
from hedgerow.server.protocols.grpc import messages, service
from hedgerow.server.protocols.grpc.port import GrpcPort

pytestmark = pytest.mark.slow

Request = messages.ModelInferRequest
FAULTS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    # Of a call whose own deadline was over, by the parameter ``timeout``.
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
MANY = settings(max_examples=200, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
FEW = settings(MANY, max_examples=60)
CALLS = [name for name in service.TWINS if name != "ModelStreamInfer"]


@pytest.fixture(scope="module")
def channel(tmp_path_factory, tiny_text) -> Iterator[grpc.Channel]:
    """To a server of ``add``, ``same`` (BYTES), and a real decoder as ``assistant``; none of them is harmed."""
    folder = tmp_path_factory.mktemp("models")
    support.write_add(folder / "add", 1.0)
    support.write_identity(folder / "same", support.TensorProto.STRING)

    def prepare(plane: Any) -> None:
        for name, where in (("add", folder / "add"), ("same", folder / "same"), ("assistant", tiny_text["all"])):
            plane._slots[name] = Slot(name, support.served(backends.load(where, threads=1), name))

    limits = Limits(body_bytes=1 << 20, max_tokens=4)
    server = support.InProcess(
        prepare, folder, limits, grpc=lambda plane: GrpcPort(plane, Address("127.0.0.1", 0), limits, None, None)
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel
        golden = messages.ModelInferResponse.FromString(call(channel, "ModelInfer", add().SerializeToString())[1])
    server.close()
    assert struct.unpack("<2f", golden.raw_output_contents[0]) == (2.0, 3.0)


def call(channel: grpc.Channel, name: str, data: bytes) -> tuple[grpc.StatusCode, bytes, str]:
    try:
        answer = channel.unary_unary(f"/{service.NAME}/{name}")(data, timeout=support.PATIENCE_S)
    except grpc.RpcError as error:
        return error.code(), b"", error.details()
    return grpc.StatusCode.OK, answer, ""


def blamed(channel: grpc.Channel, name: str, data: bytes) -> grpc.StatusCode:
    """The status of a call, which must not blame the server, and says why in words."""
    code, _, text = call(channel, name, data)
    assert code in FAULTS | {grpc.StatusCode.OK}, (code, text)
    assert code is grpc.StatusCode.OK or text
    return code


def add() -> Any:
    request = Request(model_name="add", id="7", raw_input_contents=[struct.pack("<2f", 1, 2)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    request.outputs.add(name="y").parameters["classification"].int64_param = 0
    return request


def typed() -> Any:
    request = Request(model_name="add", model_version="1.0.0")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 2])
    request.parameters["priority"].int64_param = 1
    return request


def words() -> Any:
    request = Request(model_name="same")
    request.inputs.add(name="x", datatype="BYTES", shape=[2])
    request.raw_input_contents.append(struct.pack("<I3sI2s", 3, b"abc", 2, b"de"))
    return request


def text() -> Any:
    request = Request(model_name="assistant")
    for name, value in (("text_input", b"hello"), ("sampling_parameters", b'{"max_tokens": 2, "temperature": 0.5}')):
        request.inputs.add(name=name, datatype="BYTES", shape=[1]).contents.bytes_contents.append(value)
    request.parameters["seed"].int64_param = 3
    return request


VALID = [add, typed, words, text]


# ── bytes ───────────────────────────────────────────────────────────────────


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid message with some bytes changed, cut, doubled or put in."""
    data = bytearray(draw(st.sampled_from(VALID))().SerializeToString())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        some = draw(st.integers(0, 8))
        match draw(st.sampled_from(["change", "cut", "double", "insert", "truncate"])):
            case "change":
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del data[place : place + some]
            case "double":
                data[place:place] = data[place : place + some]
            case "insert":
                data[place:place] = draw(st.binary(max_size=8))
            case "truncate":
                del data[place:]
    return bytes(data)


@MANY
@given(damaged())
def test_a_message_that_is_damaged(channel, data: bytes) -> None:
    blamed(channel, "ModelInfer", data)


@FEW
@given(st.lists(damaged(), min_size=1, max_size=4))
def test_a_stream_of_them_says_of_each_what_is_wrong_or_ends(channel, data: list[bytes]) -> None:
    stream = channel.stream_stream(f"/{service.NAME}/ModelStreamInfer")
    answers: list[Any] = []
    code = grpc.StatusCode.OK
    try:
        for each in stream(iter(data), timeout=support.PATIENCE_S):
            answers.append(messages.ModelStreamInferResponse.FromString(each))  # noqa: PERF401 - those before an end
    except grpc.RpcError as error:
        code = error.code()
    assert code in {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
    assert code is not grpc.StatusCode.OK or len(answers) >= len(data)
    assert not [each for each in answers if "failed" in each.error_message]


@pytest.mark.parametrize("name", CALLS)
def test_bytes_that_are_no_message(channel, name: str) -> None:
    @FEW
    @given(st.binary(max_size=40))
    @example(b"\xff")
    @example(b"\x0a\x01\xff")  # a name that is no UTF-8
    @example(b"\x0a\xff\xff\xff\xff\x0f")  # of 4 GiB
    def ask(data: bytes) -> None:
        blamed(channel, name, data)

    ask()


# ── fields ──────────────────────────────────────────────────────────────────

names = st.one_of(
    st.sampled_from(["add", "same", "assistant", "x", "y", "", "1.0.0", "timeout", "priority", "temperature", "stop"]),
    st.text(max_size=5),
    st.sampled_from(["n" * 70_000, "\U0001f600" * 5000, "\0", "a\r\nb", "../add", "n" * 256]),
)
numbers = st.one_of(st.integers(-3, 3), st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63)]))
documents = st.sampled_from(
    [
        *(b"", b"{", b"[]", b"{}", b"\xff", b"null", b'{"x": 1}', b'{"max_tokens": 1, "max_tokens": 2}'),
        *(b"[" * 50_000, b'{"stop":' * 50_000, b'{"max_tokens": ' + b"9" * 4000),
        *(b'{"temperature": NaN}', b'{"temperature": 1e-300}'),
    ]
)
bytes_ = st.one_of(st.binary(max_size=20), documents, st.just(struct.pack("<I", 2**32 - 1) + b"abc"))


@st.composite
def parameter(draw: st.DrawFn) -> Any:
    made = messages.InferParameter()
    match draw(st.integers(0, 5)):
        case 0:
            made.bool_param = draw(st.booleans())
        case 1:
            made.int64_param = draw(numbers)
        case 2:
            made.string_param = draw(st.one_of(names, st.sampled_from(["nan", "inf", "1e-320", "9" * 5000, "true"])))
        case 3:
            made.double_param = draw(st.floats())
        case 4:
            made.uint64_param = draw(st.sampled_from([0, 1, 2**64 - 1]))
    return made


def _shape(request: Any, draw: st.DrawFn) -> None:
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend(draw(st.lists(numbers, max_size=18)))


def _twice(request: Any, draw: st.DrawFn) -> None:
    request.inputs.add().CopyFrom(request.inputs[0])


def _class(request: Any, draw: st.DrawFn) -> None:
    request.outputs.add(name=draw(names)).parameters["classification"].CopyFrom(draw(parameter()))


CHANGES = [
    lambda request, draw: setattr(request, "model_name", draw(names)),
    lambda request, draw: setattr(request, "model_version", draw(names)),
    lambda request, draw: setattr(request, "id", draw(names)),
    lambda request, draw: request.parameters[draw(names)].CopyFrom(draw(parameter())),
    lambda request, draw: setattr(request.inputs[-1], "name", draw(names)),
    lambda request, draw: setattr(request.inputs[0], "datatype", draw(st.sampled_from([*tensors.DTYPES, "", "FP8"]))),
    lambda request, draw: request.inputs[0].parameters[draw(names)].CopyFrom(draw(parameter())),
    lambda request, draw: request.inputs[-1].contents.bytes_contents.append(draw(bytes_)),
    lambda request, draw: request.raw_input_contents.append(draw(bytes_)),
    _shape,
    _twice,
    _class,
]


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """A valid request in which some fields say something else."""
    request = draw(st.sampled_from(VALID))()
    for change in draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3)):
        change(request, draw)
    return request


@MANY
@given(changed())
def test_a_request_that_says_something_else(channel, request_: Any) -> None:
    blamed(channel, "ModelInfer", request_.SerializeToString())


@pytest.mark.parametrize("name", ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
@pytest.mark.parametrize("model", ["n" * 70_000, "\U0001f600" * 5000, "\0", "../add", "n" * 256])
def test_a_model_that_nobody_serves_whatever_its_name(channel, name: str, model: str) -> None:
    request = getattr(messages, f"{name}Request")(name=model)
    wanted = grpc.StatusCode.OK if name == "ModelReady" else grpc.StatusCode.NOT_FOUND
    assert blamed(channel, name, request.SerializeToString()) is wanted


@pytest.mark.parametrize("model", ["n" * 70_000, "n" * 256, "\0", "..", ""])
def test_a_model_that_is_in_no_repository(channel, model: str) -> None:
    load = messages.RepositoryModelLoadRequest(model_name=model)
    unload = messages.RepositoryModelUnloadRequest(model_name=model)
    for request in (load, unload):
        name = type(request).__name__.removesuffix("Request")
        assert blamed(channel, name, request.SerializeToString()) is grpc.StatusCode.NOT_FOUND


# ── the transport ───────────────────────────────────────────────────────────


def test_calls_that_there_are_not(channel) -> None:
    for path in (f"/{service.NAME}/Nothing", "/another.Service/ModelInfer", f"/{service.NAME}/modelinfer"):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path)(b"", timeout=support.PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_metadata_is_bounded(channel) -> None:
    infer = channel.unary_unary(f"/{service.NAME}/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        infer(add().SerializeToString(), timeout=support.PATIENCE_S, metadata=[("large", "x" * 100_000)])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_field_of_a_newer_protocol_is_passed_over(channel) -> None:
    """As every reader of protocol buffers does; JSON's unknown fields are refused."""
    unknown = b"\xfa\x3f\x03abc"
    assert call(channel, "ModelInfer", add().SerializeToString() + unknown)[0] is grpc.StatusCode.OK


def test_of_a_field_that_stands_twice_the_last_counts(channel) -> None:
    twice = Request(model_name="nobody").SerializeToString() + add().SerializeToString()
    assert call(channel, "ModelInfer", twice)[0] is grpc.StatusCode.OK
