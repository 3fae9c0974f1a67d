"""Tensors of gRPC's messages: whatever a caller puts into one is read, or refused as the caller's fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.server import tensors
from hedgerow.server.errors import BadRequest
from hedgerow.server.protocols.grpc import contents, messages

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
