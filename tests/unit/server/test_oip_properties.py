"""Whatever a client sends to infer is answered as its own fault or with an answer, and with its own data alone."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import struct

import httpx
import numpy as np
import pytest
import server_support as support
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.server import backends, run, tensors
from hedgerow.server.config import Limits
from hedgerow.server.dataplane import DataPlane
from hedgerow.server.errors import ServingError
from hedgerow.server.models import Slot
from hedgerow.server.protocols import oip, oip_infer

pytestmark = pytest.mark.slow

NUMBERS = sorted(set(tensors.DTYPES) - {"BYTES", "BOOL", "BF16"})
MANY = settings(max_examples=300)
SOME = settings(max_examples=150)

sizes = st.one_of(st.integers(0, 4), st.sampled_from([-1, 2**31, 2**63, 2**70]))
shapes = st.lists(sizes, max_size=4)
datatypes = st.one_of(st.sampled_from(list(tensors.DTYPES)), st.text(max_size=6))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**66), 2**66), st.floats(), st.text(max_size=5), st.just(10**400)
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
parameters = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "classification", "priority", "timeout", "x"]),
    scalars,
    max_size=2,
)


# ── tensors ─────────────────────────────────────────────────────────────────


def fault_of(work) -> int:
    """The status of the error that ``work`` ends with, 200 where it has none."""
    try:
        work()
    except ServingError as error:
        return error.status
    return 200


@MANY
@given(raw=st.binary(max_size=64), datatype=datatypes, shape=shapes)
def test_bytes_are_a_tensor_or_the_callers_fault(raw: bytes, datatype: str, shape: list[int]) -> None:
    status = fault_of(lambda: tensors.from_bytes(memoryview(raw), datatype, shape, name="x"))
    if status != 200:
        assert status == 400
        return
    array = tensors.from_bytes(memoryview(raw), datatype, shape, name="x")
    assert list(array.shape) == shape
    assert tensors.datatype_of(array) == datatype
    assert tensors.to_bytes(array) == raw


@MANY
@given(elements=st.lists(st.binary(max_size=6), max_size=5), cut=st.integers(0, 40), lie=st.integers(0, 2**32 - 1))
def test_bytes_whose_lengths_lie(elements: list[bytes], cut: int, lie: int) -> None:
    raw = b"".join(struct.pack("<I", len(each)) + each for each in elements)
    assert tensors.from_bytes(memoryview(raw), "BYTES", [len(elements)], name="x").tolist() == elements
    for wrong in (raw[:cut], struct.pack("<I", lie) + raw[4:], raw + struct.pack("<I", lie)):
        read = functools.partial(tensors.from_bytes, memoryview(wrong), "BYTES", [len(elements)], name="x")
        status = fault_of(read)
        assert status == 400 or tensors.to_bytes(read()) == wrong


@MANY
@given(value=values, datatype=datatypes, shape=shapes)
def test_json_is_a_tensor_or_the_callers_fault(value: object, datatype: str, shape: list[int]) -> None:
    text = json.dumps(value)
    for data in (text.encode(), text.encode("utf-16"), text.encode() + b"]"):
        read = functools.partial(tensors.from_json, data, datatype, shape, name="x")
        status = fault_of(read)
        assert status == 400 or (list(read().shape), tensors.datatype_of(read())) == (shape, datatype)


@MANY
@given(data=st.data(), datatype=st.sampled_from(NUMBERS), shape=st.lists(st.integers(0, 3), max_size=3))
def test_what_goes_in_comes_out_in_every_form(data, datatype: str, shape: list[int]) -> None:
    dtype = tensors.DTYPES[datatype]
    raw = data.draw(st.binary(min_size=200, max_size=220)).ljust(8 * 27, b"\0")[: 27 * dtype.itemsize]
    array = np.frombuffer(raw, dtype)[: int(np.prod(shape))].reshape(shape)
    there = tensors.from_bytes(memoryview(tensors.to_bytes(array)), datatype, shape, name="x")
    assert there.tobytes() == array.tobytes()
    # As it is: to cast a signalling NaN to a wider type is a warning.
    if np.isfinite(array).all():
        text = json.dumps(tensors.to_json(array, name="x")).encode()
        assert tensors.from_json(text, datatype, shape, name="x").tobytes() == array.tobytes()


# ── whole bodies ────────────────────────────────────────────────────────────

inputs = st.fixed_dictionaries(
    {"name": st.sampled_from(["x", "q", ""]), "shape": shapes, "datatype": datatypes},
    optional={"data": values, "parameters": parameters, "extra": scalars},
)
documents = st.fixed_dictionaries(
    {"inputs": st.one_of(st.lists(inputs, max_size=3), scalars)},
    optional={
        "id": scalars,
        "parameters": st.one_of(parameters, scalars),
        "outputs": st.lists(
            st.fixed_dictionaries({"name": st.sampled_from(["y", "q"])}, optional={"parameters": parameters}),
            max_size=2,
        ),
        "extra": scalars,
    },
)
heads = st.one_of(st.none(), st.integers(0, 400), st.just(2**64))


def read_body(data: memoryview, head: int | None) -> dict[str, object]:
    asked = oip_infer.parse(data, head, json_limit=10_000)
    laid = oip_infer.slices(asked, data[len(data) if head is None else head :])
    assert [each.name for each, _ in laid] == [each.name for each in asked.inputs]
    return oip_infer.to_arrays(laid)


@MANY
@given(document=documents, binary=st.binary(max_size=40), head=heads)
def test_a_body_is_a_request_or_the_callers_fault(document, binary: bytes, head: int | None) -> None:
    text = json.dumps(document).encode()
    for place in (head, len(text)):
        assert fault_of(lambda place=place: read_body(memoryview(text + binary), place)) in {200, 400, 413}


# ── the whole interface ─────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """``ask(body, headers)`` → the answer of a server that adds 1 to FP32 and gives back BYTES."""
    folder = tmp_path_factory.mktemp("models")
    support.write_add(folder / "add", 1.0)
    support.write_identity(folder / "same", support.TensorProto.STRING)
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:

        async def start() -> tuple[DataPlane, httpx.AsyncClient]:
            limits = Limits(body_bytes=100_000)
            plane = DataPlane(folder, limits=limits)
            for name in ("add", "same"):
                model = support.served(backends.load(folder / name, threads=1), name)
                plane._slots[name] = Slot(name, model)
            transport = httpx.ASGITransport(run.Application(oip.routes(plane, limits)))
            return plane, httpx.AsyncClient(transport=transport, base_url="http://test")

        plane, client = runner.run(start())
        stack.callback(lambda: runner.run(plane.close()))
        stack.callback(lambda: runner.run(client.aclose()))
        yield lambda path, body, headers=None: runner.run(client.post(path, content=body, headers=headers))


@SOME
@given(
    document=documents,
    binary=st.binary(max_size=40),
    head=st.one_of(st.none(), st.sampled_from(["0", "-1", "x", "9" * 30, "²"]), st.just("exact")),
    where=st.tuples(
        st.sampled_from(["add", "same", "nobody", "%ff", "a/../b"]), st.sampled_from([None, "gzip", "deflate", "br"])
    ),
)
def test_no_body_is_the_servers_fault(ask, document, binary: bytes, head, where) -> None:
    model, coding = where
    text = json.dumps(document).encode()
    headers = {}
    if head is not None:
        headers["inference-header-content-length"] = (str(len(text)) if head == "exact" else head).encode()
    if coding is not None:
        headers["content-encoding"] = coding
    response = ask(f"/v2/models/{model}/infer", text + binary, headers)
    assert response.status_code in {200, 400, 404, 413, 415}
    if response.status_code != 200:
        assert isinstance(response.json()["error"], str)


@SOME
@given(elements=st.lists(st.binary(max_size=5), max_size=4))
def test_bytes_that_are_no_text_are_refused_or_given_back(ask, elements: list[bytes]) -> None:
    raw = b"".join(struct.pack("<I", len(each)) + each for each in elements)
    described = {"name": "x", "shape": [len(elements)], "datatype": "BYTES"}
    head = json.dumps({"inputs": [{**described, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    response = ask("/v2/models/same/infer", head + raw, {"inference-header-content-length": str(len(head))})
    try:
        wanted = [each.decode() for each in elements]
    except UnicodeDecodeError:
        assert response.status_code == 400
        return
    assert response.json()["outputs"][0]["data"] == wanted


@SOME
@given(body=st.one_of(st.binary(max_size=200), values.map(lambda value: json.dumps(value).encode())))
def test_what_is_no_request_at_all(ask, body: bytes) -> None:
    response = ask("/v2/models/add/infer", body)
    assert (response.status_code, isinstance(response.json()["error"], str)) == (400, True)
