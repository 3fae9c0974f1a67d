"""``tritonclient.http``, unmodified."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

pytestmark = pytest.mark.conformance

ARRAYS = {
    "bool": np.array([True, False, True]),
    "uint8": np.array([0, 255], dtype=np.uint8),
    "uint16": np.array([0, 65535], dtype=np.uint16),
    "uint32": np.array([0, 2**32 - 1], dtype=np.uint32),
    "uint64": np.array([0, 2**64 - 1], dtype=np.uint64),
    "int8": np.array([-128, 127], dtype=np.int8),
    "int16": np.array([-(2**15), 2**15 - 1], dtype=np.int16),
    "int32": np.array([-(2**31), 2**31 - 1], dtype=np.int32),
    "int64": np.array([-(2**63), 2**63 - 1], dtype=np.int64),
    "fp16": np.array([0.5, -2.25], dtype=np.float16),
    "fp32": np.array([0.1, -3.4e38], dtype=np.float32),
    "fp64": np.array([1e300, -0.1], dtype=np.float64),
    "bytes": np.array([b"a", b"", "Grüße".encode()], dtype=np.object_),
}


@pytest.fixture
def client(port: int):
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client


def test_what_is_there(client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("add")
    assert client.is_model_ready("add", "1")
    assert not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("add")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]


# tritonclient itself has no JSON form of FP16 to send.
@pytest.mark.parametrize(
    "kind, binary_in", [(kind, form) for kind in ARRAYS for form in (True, False) if form or kind != "fp16"]
)
@pytest.mark.parametrize("binary_out", [True, False])
def test_every_data_type_in_both_forms(client, kind: str, binary_in, binary_out) -> None:
    array = ARRAYS[kind]
    sent = triton.InferInput("x", list(array.shape), np_to_triton_dtype(array.dtype))
    sent.set_data_from_numpy(array, binary_data=binary_in)
    wanted = triton.InferRequestedOutput("y", binary_data=binary_out)
    got = client.infer(f"same-{kind}", [sent], outputs=[wanted], request_id="seven")
    assert got.get_response()["id"] == "seven"
    received = got.as_numpy("y")
    if kind == "bytes" and not binary_out:
        received = np.array([text.encode() for text in received], dtype=np.object_)
    assert received.dtype == array.dtype
    assert np.array_equal(received, array)


def test_bf16_which_numpy_has_not(client) -> None:
    array = np.array([1.5, -2.0, 0.10009765625], dtype=ml_dtypes.bfloat16)
    sent = triton.InferInput("x", [3], "BF16")
    sent.set_data_from_numpy(array)
    assert np.array_equal(client.infer("same-bf16", [sent]).as_numpy("y"), array)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_no_rows(client, binary_in, binary_out) -> None:
    sent = triton.InferInput("x", [0, 2], "FP32")
    sent.set_data_from_numpy(np.zeros((0, 2), np.float32), binary_data=binary_in)
    wanted = triton.InferRequestedOutput("y", binary_data=binary_out)
    assert client.infer("add", [sent], outputs=[wanted]).as_numpy("y").shape == (0, 2)


@pytest.mark.parametrize("kind", [kind for kind in ARRAYS if kind != "fp16"])
@pytest.mark.parametrize("binary", [True, False])
def test_empty_tensors_of_every_type(client, kind: str, binary) -> None:
    array = ARRAYS[kind][:0]
    sent = triton.InferInput("x", [0], np_to_triton_dtype(ARRAYS[kind].dtype))
    sent.set_data_from_numpy(array, binary_data=binary)
    got = client.infer(f"same-{kind}", [sent], outputs=[triton.InferRequestedOutput("y", binary_data=binary)])
    assert got.as_numpy("y").shape == (0,)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("rows", [1, 30_000])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed_in_both_directions(client, coding: str, rows: int, binary) -> None:
    array = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    sent = triton.InferInput("x", [rows, 2], "FP32")
    sent.set_data_from_numpy(array, binary_data=binary)
    got = client.infer(
        "add",
        [sent],
        outputs=[triton.InferRequestedOutput("y", binary_data=binary)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    assert np.array_equal(got.as_numpy("y"), array + 1)


@pytest.mark.parametrize("rows", [1, 300_000])
def test_a_large_tensor_and_its_answer(client, rows: int) -> None:
    array = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    sent = triton.InferInput("x", [rows, 2], "FP32")
    sent.set_data_from_numpy(array)
    assert np.array_equal(client.infer("add", [sent]).as_numpy("y"), array + 1)


@pytest.mark.parametrize("binary", [True, False])
def test_the_best_classes(client, binary) -> None:
    sent = triton.InferInput("x", [2, 2], "FP32")
    sent.set_data_from_numpy(np.array([[1, 2], [5, 4]], np.float32))
    wanted = triton.InferRequestedOutput("y", binary_data=binary, class_count=1)
    found = client.infer("add", [sent], outputs=[wanted]).as_numpy("y")
    assert [each.decode() if binary else each for each in found.ravel()] == ["3.000000:1", "6.000000:0"]


def test_priority_and_timeout_are_taken(client) -> None:
    sent = triton.InferInput("x", [1, 2], "FP32")
    sent.set_data_from_numpy(np.ones((1, 2), np.float32))
    assert client.infer("add", [sent], priority=1, timeout=20_000_000).as_numpy("y").tolist() == [[2.0, 2.0]]


def test_a_models_configuration(client) -> None:
    config = client.get_model_config("add", "1")
    assert (config["name"], config["max_batch_size"]) == ("add", 0)
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2]}]


def test_without_asking_for_outputs(client) -> None:
    sent = triton.InferInput("x", [1, 2], "FP32")
    sent.set_data_from_numpy(np.ones((1, 2), np.float32))
    assert client.infer("add", [sent]).as_numpy("y").tolist() == [[2.0, 2.0]]


def test_several_at_once(client, port: int) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{port}", concurrency=8) as many:
        pending = []
        for number in range(16):
            sent = triton.InferInput("x", [1, 2], "FP32")
            sent.set_data_from_numpy(np.full((1, 2), number, np.float32))
            pending.append(many.async_infer("add", [sent]))
        assert [each.get_result().as_numpy("y")[0, 0] for each in pending] == [number + 1 for number in range(16)]


@pytest.mark.parametrize(
    "model, version, shape, says",
    [
        ("nobody", "", [1, 2], "model 'nobody' is not served here"),
        ("add", "9", [1, 2], "is served in version 1, not 9"),
        ("add", "", [2, 1], r"input 'x' has shape \[-1, 2\], not \[2, 1\]"),
    ],
)
def test_mistakes_are_said_in_the_clients_own_error(client, model: str, version: str, shape, says: str) -> None:
    sent = triton.InferInput("x", shape, "FP32")
    sent.set_data_from_numpy(np.ones(shape, np.float32))
    with pytest.raises(InferenceServerException, match=says):
        client.infer(model, [sent], model_version=version)
