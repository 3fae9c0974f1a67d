"""Text models by tensors, as Triton's backends for language models take them.

Inputs: ``text_input`` (BYTES, one text, given to the model as it is), ``stream`` (BOOL, one value; true unless said
otherwise), ``sampling_parameters`` (BYTES, one JSON object) and ``exclude_input_in_output`` (BOOL; an answer never
repeats the input, so true alone). Sampling parameters may be the request's parameters as well. Output: ``text_output``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from hedgerow.server.backends import TensorSpec, TextRequest
from hedgerow.server.errors import BadRequest
from hedgerow.server.inference import InferResponse, ModelMetadata
from hedgerow.server.protocols import oip_generate
from hedgerow.server.protocols.grpc import callers, contents, requests

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hedgerow.server.config import Limits
    from hedgerow.server.pieces import Piece
    from hedgerow.server.protocols.grpc import wire

OUTPUT: Final = "text_output"
_INPUTS: Final = {
    "text_input": "BYTES",
    "stream": "BOOL",
    "sampling_parameters": "BYTES",
    "exclude_input_in_output": "BOOL",
}
_OTHERS: Final = {"timeout", "priority", requests.EMPTY_FINAL}


@dataclass(frozen=True)
class Asked:
    """``stream``: the answer in parts, as they come."""

    request: TextRequest
    stream: bool


def described(model: ModelMetadata) -> ModelMetadata:
    """The metadata of a text model with the tensors that its callers send."""
    return ModelMetadata(
        name=model.name,
        versions=model.versions,
        platform=model.platform,
        inputs=tuple(TensorSpec(name, datatype, (1,)) for name, datatype in _INPUTS.items()),
        outputs=(TensorSpec(OUTPUT, "BYTES", (1,)),),
    )


def read(request: wire.Request, limits: Limits, *, remaining_s: float | None) -> Asked:
    """What a caller wants of a text model; ``remaining_s`` is what the call's own deadline leaves.

    Raises:
        BadRequest: by the tensor's or parameter's name, or that of the call's metadata.
    """
    given = contents.read(request)
    for name, array in given.items():
        if name not in _INPUTS:
            raise BadRequest(f"a text model has no input '{name}'; it has: {', '.join(_INPUTS)}", field=name)
        if array.size != 1:
            raise BadRequest(f"input '{name}' has {array.size} values; 1 is wanted", field=name)
    if "text_input" not in given:
        raise BadRequest("input 'text_input' is missing", field="text_input")
    for output in request.outputs:
        if output.name != OUTPUT or output.parameters:
            raise BadRequest(f"a text model has the one output '{OUTPUT}', without parameters", field=output.name)
    if not _flag(given, "exclude_input_in_output"):
        raise BadRequest(
            "exclude_input_in_output is false; an answer never repeats the input", field="exclude_input_in_output"
        )
    how = _sampling(request, _text(given, "sampling_parameters"))
    wanted = oip_generate.text_request(
        _text(given, "text_input"), how, limits, requests.timeout_s(request, remaining_s=remaining_s)
    )
    wanted = dataclasses.replace(wanted, priority=requests.priority(request), device_only=callers.device_only())
    return Asked(wanted, how.stream is not False and _flag(given, "stream"))


def answer(model: str, version: str, pieces: list[Piece], *, identity: str) -> InferResponse:
    """Some pieces of an answer as one."""
    text = np.array(["".join(piece.text for piece in pieces).encode()], dtype=np.object_)
    return InferResponse(model, version, {OUTPUT: text}, identity or None)


def _sampling(request: wire.Request, as_json: str) -> oip_generate.Sampling:
    parameters = {name: requests.value(each) for name, each in request.parameters.items() if name not in _OTHERS}
    try:
        listed = msgspec.json.decode(as_json or "{}", type=dict[str, Any])
        for name in listed.keys() & parameters.keys():
            raise BadRequest(f"'{name}' is a parameter and in sampling_parameters; give one", field=name)
        # Callers of Triton's backends write numbers as text here, too.
        return msgspec.convert(listed | parameters, oip_generate.Sampling, strict=False)
    except msgspec.DecodeError as error:
        raise BadRequest(f"sampling parameters: {error}", field="sampling_parameters") from error
    except RecursionError as error:
        raise BadRequest("sampling parameters: nested too deep", field="sampling_parameters") from error


def _text(given: dict[str, NDArray[np.generic]], name: str) -> str:
    if name not in given:
        return ""
    if given[name].dtype != np.object_:
        raise BadRequest(f"input '{name}' is BYTES", field=name)
    try:
        text: str = given[name].reshape(-1)[0].decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"input '{name}' is no UTF-8: {error}", field=name) from error
    return text


def _flag(given: dict[str, NDArray[np.generic]], name: str) -> bool:
    """True unless it says otherwise."""
    if name not in given:
        return True
    if given[name].dtype != np.bool_:
        raise BadRequest(f"input '{name}' is BOOL", field=name)
    return bool(given[name].reshape(-1)[0])
