"""NVIDIA's tritonclient over gRPC, unmodified, against a real server process."""

from __future__ import annotations

import queue
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="module")
def client(grpc_port):
    client = triton.InferenceServerClient(f"127.0.0.1:{grpc_port}")
    yield client
    client.close()


def tensor(name: str, array: np.ndarray, datatype: str) -> triton.InferInput:
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def failing(call, *arguments, **named) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **named)
    return caught.value.status(), caught.value.message()


# ── the server and its models ───────────────────────────────────────────────


def test_health_and_metadata(client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("add")
    assert not client.is_model_ready("nothing")
    assert not client.is_model_ready("add", "7")
    server = client.get_server_metadata(as_json=True)
    assert server["name"] == "hedgerow"
    model = client.get_model_metadata("add", as_json=True)
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "2"]}]
    assert model["outputs"] == [{"name": "y", "datatype": "FP32", "shape": ["-1", "2"]}]
    assert model["versions"] == ["1"]


def test_the_configuration_that_perf_analyzer_asks_for(client) -> None:
    config = client.get_model_config("add").config
    assert (config.name, config.backend, config.max_batch_size) == ("add", "onnxruntime", 0)
    assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [("x", 11, [-1, 2])]
    assert not config.model_transaction_policy.decoupled
    text = client.get_model_config("talker").config
    assert text.model_transaction_policy.decoupled
    assert {each.name: each.data_type for each in text.input}["text_input"] == 13


def test_statistics_count_what_was_asked(client) -> None:
    def counted() -> tuple[int, int]:
        (found,) = client.get_inference_statistics("add").model_stats
        return found.inference_count, found.inference_stats.success.count

    before = counted()
    client.infer("add", [tensor("x", np.zeros((3, 2), dtype=np.float32), "FP32")])
    after = counted()
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)  # no batch without max_batch_size
    names = {each.name for each in client.get_inference_statistics().model_stats}
    assert {"add", "talker", "same-fp32"} <= names
    assert failing(client.get_inference_statistics, "nothing")[0] == "StatusCode.NOT_FOUND"


def test_a_model_is_unloaded_and_loaded_again(client) -> None:
    def state() -> str:
        (found,) = [each for each in client.get_model_repository_index().models if each.name == "same-uint8"]
        return found.state

    assert state() == "READY"
    client.unload_model("same-uint8")
    try:
        assert state() == "UNAVAILABLE"
        assert not client.is_model_ready("same-uint8")
        assert client.is_model_ready("add")
        listed = client.get_model_repository_index(as_json=True)["models"]
        assert {"name": "add", "version": "1", "state": "READY"} in listed
    finally:
        client.load_model("same-uint8")
    assert client.is_model_ready("same-uint8")
    assert failing(client.load_model, "nothing")[0] == "StatusCode.NOT_FOUND"
    assert failing(client.unload_model, "nothing")[0] == "StatusCode.NOT_FOUND"
    code, message = failing(client.load_model, "add", config="{}")
    assert (code, "'config'" in message) == ("StatusCode.INVALID_ARGUMENT", True)


# ── tensors ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "datatype, values",
    [
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("FP16", [0.5, -65504.0]),
        ("FP32", [1.5, np.inf]),
        ("FP64", [1e300, np.nan]),
    ],
)
@pytest.mark.parametrize("rows", [2, 0])
def test_each_data_type_comes_back_as_it_went(client, datatype: str, values: list[Any], rows: int) -> None:
    from tritonclient.utils import triton_to_np_dtype

    array = np.array(values[:rows], dtype=triton_to_np_dtype(datatype))
    answer = client.infer(f"same-{datatype.lower()}", [tensor("x", array, datatype)])
    back = answer.as_numpy("y")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("items", [[b"", b"a", "grüß".encode()], []])
def test_bytes(client, items: list[bytes]) -> None:
    array = np.empty(len(items), dtype=np.object_)
    array[:] = items
    assert client.infer("same-bytes", [tensor("x", array, "BYTES")]).as_numpy("y").tolist() == items


def test_bf16(client) -> None:
    array = np.array([1.0, -2.5], dtype=ml_dtypes.bfloat16)
    assert client.infer("same-bf16", [tensor("x", array, "BF16")]).as_numpy("y").tolist() == [1.0, -2.5]


def test_id_outputs_and_classes(client) -> None:
    array = np.array([[1.0, 5.0]], dtype=np.float32)
    answer = client.infer(
        "add",
        [tensor("x", array, "FP32")],
        request_id="mine-1",
        model_version="1",
        outputs=[triton.InferRequestedOutput("y", class_count=1)],
        priority=1,
        client_timeout=30,
    )
    assert answer.get_response().id == "mine-1"
    assert answer.as_numpy("y").tolist() == [[b"6.000000:1"]]


def test_typed_values_are_answered_with_typed_values(grpc_port) -> None:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def ask(model: str, datatype: str, field: str, values: list[Any]) -> Any:
            request = service_pb2.ModelInferRequest(model_name=model)
            given = request.inputs.add(name="x", datatype=datatype, shape=[len(values)])
            getattr(given.contents, field).extend(values)
            answer = stub.ModelInfer(request)
            assert list(answer.raw_output_contents) == []
            return list(getattr(answer.outputs[0].contents, field))

        assert ask("same-fp32", "FP32", "fp32_contents", [1.5, -2.0]) == [1.5, -2.0]
        assert ask("same-bool", "BOOL", "bool_contents", [True, False]) == [True, False]
        assert ask("same-uint8", "UINT8", "uint_contents", [0, 255]) == [0, 255]
        assert ask("same-int64", "INT64", "int64_contents", [-(2**63)]) == [-(2**63)]
        assert ask("same-fp64", "FP64", "fp64_contents", [1e300]) == [1e300]
        assert ask("same-bytes", "BYTES", "bytes_contents", [b"a", b""]) == [b"a", b""]
        with pytest.raises(grpc.RpcError, match=r"does not hold UINT8 values") as caught:
            ask("same-uint8", "UINT8", "uint_contents", [256])
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_messages(client, algorithm: str) -> None:
    array = np.zeros((4000, 2), dtype=np.float32)
    answer = client.infer("add", [tensor("x", array, "FP32")], compression_algorithm=algorithm)
    assert answer.as_numpy("y").sum() == 8000


# ── what is refused ─────────────────────────────────────────────────────────


def test_a_clients_faults_have_their_codes(client) -> None:
    good = tensor("x", np.zeros((1, 2), dtype=np.float32), "FP32")
    assert failing(client.infer, "nothing", [good])[0] == "StatusCode.NOT_FOUND"
    assert failing(client.infer, "add", [good], model_version="7")[0] == "StatusCode.NOT_FOUND"
    assert failing(client.get_model_metadata, "nothing")[0] == "StatusCode.NOT_FOUND"
    assert failing(client.get_model_config, "nothing")[0] == "StatusCode.NOT_FOUND"
    for given, said in (
        ([tensor("x", np.zeros((1, 3), dtype=np.float32), "FP32")], "shape"),
        ([tensor("x", np.zeros((1, 2), dtype=np.int32), "INT32")], "INT32"),
        ([tensor("z", np.zeros((1, 2), dtype=np.float32), "FP32")], "no input 'z'"),
        ([good, good], "twice"),
        ([], "missing"),
    ):
        code, message = failing(client.infer, "add", given)
        assert (code, said in message) == ("StatusCode.INVALID_ARGUMENT", True), message
    code, message = failing(client.infer, "add", [good], outputs=[triton.InferRequestedOutput("q")])
    assert (code, "no output 'q'" in message) == ("StatusCode.INVALID_ARGUMENT", True)


def test_a_parameter_that_is_not_supported_is_refused_by_name(client) -> None:
    good = tensor("x", np.zeros((1, 2), dtype=np.float32), "FP32")
    code, message = failing(client.infer, "add", [good], parameters={"colour": "red"})
    assert (code, "'colour'" in message) == ("StatusCode.INVALID_ARGUMENT", True)
    code, message = failing(client.infer, "add", [good], sequence_id=7, sequence_start=True)
    assert (code, "'sequence_" in message) == ("StatusCode.INVALID_ARGUMENT", True)


def test_what_the_protocol_has_and_this_server_has_not(client) -> None:
    assert failing(client.get_system_shared_memory_status)[0] == "StatusCode.UNIMPLEMENTED"


# ── streams ─────────────────────────────────────────────────────────────────


class Stream:
    """A tritonclient stream whose answers are waited for one by one."""

    def __init__(self, client: triton.InferenceServerClient) -> None:
        self._client = client
        self._answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: self._answers.put((result, error)))

    def next(self) -> tuple[Any, Any]:
        return self._answers.get(timeout=30)

    def texts(self, count: int) -> dict[str, list[Any]]:
        """The answers of ``count`` requests by id, each to its final one."""
        found: dict[str, list[Any]] = {}
        left = count
        while left:
            result, error = self.next()
            assert error is None, error
            response = result.get_response()
            found.setdefault(response.id, []).append(result)
            left -= response.parameters["triton_final_response"].bool_param
        return found


@pytest.fixture
def stream(grpc_port):
    client = triton.InferenceServerClient(f"127.0.0.1:{grpc_port}")
    yield client, Stream(client)
    client.stop_stream(cancel_requests=True)
    client.close()


def text(value: str) -> triton.InferInput:
    return tensor("text_input", np.array([value.encode()], dtype=np.object_), "BYTES")


def whole(results: list[Any]) -> str:
    return "".join(result.as_numpy("text_output")[0].decode() for result in results)


def test_tokens_come_one_after_the_other_and_are_the_same_as_at_once(stream) -> None:
    client, answers = stream
    parameters = {"max_tokens": 60, "temperature": 0.0}
    client.async_stream_infer("talker", [text("once upon")], request_id="a", parameters=parameters)
    parts = answers.texts(1)["a"]
    assert len(parts) > 1  # what is ready together comes together
    assert parts[-1].get_response().parameters["finish_reason"].string_param in {"stop", "length"}
    once = np.array([False])
    client.async_stream_infer(
        "talker", [text("once upon"), tensor("stream", once, "BOOL")], request_id="b", parameters=parameters
    )
    (one,) = answers.texts(1)["b"]
    assert whole([one]) == whole(parts)
    answer = client.infer("talker", [text("once upon")], parameters=parameters)
    assert answer.as_numpy("text_output")[0].decode() == whole(parts)


def test_requests_of_one_stream_take_turns(stream) -> None:
    client, answers = stream
    for name in "ab":
        client.async_stream_infer(
            "talker", [text("once upon")], request_id=name, parameters={"max_tokens": 40, "temperature": 0.0}
        )
    found = answers.texts(2)
    assert whole(found["a"]) == whole(found["b"])


def test_tensors_are_answered_in_order_and_a_fault_ends_no_stream(stream) -> None:
    client, answers = stream
    for number in range(20):
        width = 3 if number == 7 else 2
        given = tensor("x", np.full((1, width), number, dtype=np.float32), "FP32")
        client.async_stream_infer("add", [given], request_id=str(number))
    for number in range(20):
        result, error = answers.next()
        if number == 7:
            assert "shape" in error.message()
        else:
            assert (result.get_response().id, result.as_numpy("y")[0, 0]) == (str(number), number + 1.0)
    client.async_stream_infer("nothing", [text("x")], request_id="late")
    assert "not served" in answers.next()[1].message()


@pytest.mark.parametrize(
    "parameters, said",
    [({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 10**6}, "max_tokens"), ({"beams": 3}, "beams")],
)
def test_what_is_wrong_with_a_text_request_is_named(stream, parameters: dict[str, int], said: str) -> None:
    client, answers = stream
    client.async_stream_infer("talker", [text("x")], parameters=parameters)
    assert said in answers.next()[1].message()


def test_sampling_parameters_as_other_servers_take_them(stream) -> None:
    client, answers = stream
    listed = np.array([b'{"max_tokens": "3", "temperature": "0"}'], dtype=np.object_)
    client.async_stream_infer(
        "talker",
        [text("once upon"), tensor("sampling_parameters", listed, "BYTES")],
        request_id="a",
        enable_empty_final_response=True,
    )
    last = answers.texts(1)["a"][-1].get_response()
    assert last.parameters["finish_reason"].string_param in {"stop", "length"}
