"""Tensors of gRPC's messages: whatever a caller puts into one is read, or refused as the caller's fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.server import tensors
from hedgerow.server.errors import BadRequest
from hedgerow.server.protocols.grpc import contents, messages, wire

FIELDS = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint_contents": st.integers(0, 2**32 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=5),
}


@st.composite
def requests(draw: st.DrawFn) -> messages.ModelInferRequest:
    request = messages.ModelInferRequest()
    for _ in range(draw(st.integers(0, 3))):
        tensor = request.inputs.add(
            name=draw(st.sampled_from(["x", "y", ""])),
            datatype=draw(st.sampled_from([*tensors.DTYPES, "FP8", ""])),
            shape=draw(st.lists(st.sampled_from([0, 1, 2, -1, 2**62]), max_size=20)),
        )
        for field in draw(st.lists(st.sampled_from(list(FIELDS)), max_size=2)):
            getattr(tensor.contents, field).extend(draw(st.lists(FIELDS[field], max_size=4)))
    request.raw_input_contents.extend(draw(st.lists(st.binary(max_size=16), max_size=3)))
    return request


@given(requests())
@settings(max_examples=300)
def test_whatever_is_sent_is_read_or_refused(request: messages.ModelInferRequest) -> None:
    try:
        arrays = contents.read(request)
    except BadRequest:
        return
    assert [list(array.shape) for array in arrays.values()] == [list(each.shape) for each in request.inputs]
    assert [tensors.datatype_of(array) for array in arrays.values()] == [each.datatype for each in request.inputs]


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("datatype", tensors.DTYPES)
def test_what_is_written_is_what_is_read(datatype: str, typed: Any) -> None:
    dtype = tensors.DTYPES[datatype]
    array = np.zeros((2, 1), dtype=dtype)
    if datatype == "BYTES":
        array[:, 0] = [b"", b"\xff"]
    answer = messages.ModelInferResponse()
    contents.write(answer, {"x": array}, typed=typed)
    assert bool(answer.raw_output_contents) == (not typed or datatype not in contents.TYPED)
    request = messages.ModelInferRequest(raw_input_contents=answer.raw_output_contents)
    request.inputs.add().MergeFromString(answer.outputs[0].SerializeToString())
    back = contents.read(request)["x"]
    assert back.dtype == dtype
    assert back.tolist() == array.tolist()


@given(requests(), st.lists(st.binary(max_size=40), max_size=3), st.data())
@settings(max_examples=200)
def test_a_message_cut_apart_says_what_the_whole_says(
    request: messages.ModelInferRequest, more: list[bytes], data: st.DataObject
) -> None:
    request.raw_input_contents.extend(more)
    request.model_name, request.parameters["priority"].int64_param = "m", -1
    written = request.SerializeToString()
    # Fields come in any order, and those of one message may be far apart.
    written = written + messages.ModelInferRequest(id="i", raw_input_contents=more).SerializeToString()
    rest, raw = wire.cut(written) or pytest.fail("it was not cut")
    whole = messages.ModelInferRequest.FromString(written)
    assert [bytes(each) for each in raw] == list(whole.raw_input_contents)
    del whole.raw_input_contents[:]
    assert messages.ModelInferRequest.FromString(rest) == whole
    short = written[: data.draw(st.integers(0, len(written)))]
    try:
        whole = messages.ModelInferRequest.FromString(short)
    except DecodeError:
        with pytest.raises(DecodeError):
            messages.ModelInferRequest.FromString((wire.cut(short) or (short,))[0])
    else:
        apart = wire.cut(short)
        assert apart is not None
        assert [bytes(each) for each in apart[1]] == list(whole.raw_input_contents)


@given(st.binary(max_size=64))
@settings(max_examples=300)
def test_any_bytes_are_what_protobuf_says_they_are(data: bytes) -> None:
    try:
        whole = messages.ModelInferRequest.FromString(data)
    except DecodeError:
        whole = None
    apart = wire.cut(data)
    if apart is None:  # groups, and what is no message
        return
    try:
        rest = messages.ModelInferRequest.FromString(apart[0])
    except DecodeError:
        assert whole is None
    else:
        assert whole is not None
        assert [bytes(each) for each in apart[1]] == list(whole.raw_input_contents)
        assert (rest.inputs, rest.id) == (whole.inputs, whole.id)


def test_a_large_tensor_lies_where_it_came() -> None:
    """No byte of it is copied by protobuf: the array is memory of the call's own bytes."""
    array = np.arange(50_000, dtype=np.float32)
    for pad in range(4):  # of four places, one is such that floats may begin there
        message = messages.ModelInferRequest(model_name="m" * (1 + pad), raw_input_contents=[array.tobytes()])
        message.inputs.add(name="x", datatype="FP32", shape=array.shape)
        data = message.SerializeToString()
        request = wire.parsed(data)
        (raw,) = request.raw_input_contents
        assert isinstance(raw, memoryview)
        assert raw.obj is data
        read = contents.read(request)["x"]
        assert read.flags.aligned
        assert np.array_equal(read, array)
    small = wire.parsed(messages.ModelInferRequest(raw_input_contents=[b"ab"]).SerializeToString())
    assert list(small.raw_input_contents) == [b"ab"]
    with pytest.raises(DecodeError):
        wire.parsed(data[:-1])
