"""Open Inference Protocol v2 over REST: health, metadata, ready, infer with JSON and with binary tensors.

Source: KServe, "Open Inference Protocol" (REST); binary tensors: Triton, "Binary Tensor Data Extension". A parameter
or field that is not supported is refused by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from hedgerow import __version__
from hedgerow.server import tensors
from hedgerow.server.errors import BadRequest, NotFound, Overloaded, ServingError
from hedgerow.server.protocols.http import body, decode, json_response, retry_headers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hedgerow.server.backends import TensorSpec
    from hedgerow.server.config import Limits
    from hedgerow.server.dataplane import DataPlane

PROTOCOL = "oip"
_HEADER_LENGTH = "inference-header-content-length"
_BINARY = "application/octet-stream"


class TensorParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one tensor: the size of its bytes behind the JSON, or whether its answer should be bytes."""

    binary_data_size: int | None = None
    binary_data: bool | None = None


class InputTensor(Struct, frozen=True, forbid_unknown_fields=True):
    """One input; ``data`` unless the values follow as bytes."""

    name: str
    shape: list[int]
    datatype: str
    parameters: TensorParameters = TensorParameters()
    data: msgspec.Raw = msgspec.Raw()


class WantedOutput(Struct, frozen=True, forbid_unknown_fields=True):
    """One requested output."""

    name: str
    parameters: TensorParameters = TensorParameters()


class InferParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Of the whole request."""

    binary_data_output: bool = False


class InferRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON part."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: InferParameters = InferParameters()
    outputs: list[WantedOutput] = []


def routes(plane: DataPlane, limits: Limits) -> list[Route]:
    async def server(_: Request) -> Response:
        return json_response({"name": "hedgerow", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(_: Request) -> Response:
        return PlainTextResponse("")

    async def ready(_: Request) -> Response:
        return PlainTextResponse("", 200 if plane.ready() else 503)

    async def metadata(request: Request) -> Response:
        name, version = _which(request)
        served = plane.served(name, version)
        inputs, outputs = plane.tensor_specs(name, version)
        return json_response(
            {
                "name": served.name,
                "versions": [served.version],
                "platform": served.backend.platform,
                "inputs": [_described(spec) for spec in inputs],
                "outputs": [_described(spec) for spec in outputs],
            }
        )

    async def model_ready(request: Request) -> Response:
        name, version = _which(request)
        try:
            plane.served(name, version)
        except NotFound:
            return PlainTextResponse("", 404)
        except Overloaded:
            return PlainTextResponse("", 503)
        return PlainTextResponse("", 200 if plane.ready(name) else 503)

    async def infer(request: Request) -> Response:
        name, version = _which(request)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise BadRequest("compressed bodies are not supported", field="Content-Encoding")
        asked, arrays = _read(await body(request, limit=limits.body_bytes), request.headers.get(_HEADER_LENGTH))
        served, results = await plane.infer(
            name, version, arrays, [each.name for each in asked.outputs], protocol=PROTOCOL
        )
        return _answer(asked, served.name, served.version, results)

    paths = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        *(Route(path, _guarded(metadata)) for path in paths),
        *(Route(f"{path}/ready", _guarded(model_ready)) for path in paths),
        *(Route(f"{path}/infer", _guarded(infer), methods=["POST"]) for path in paths),
    ]


def _guarded(handler: Any) -> Any:
    async def endpoint(request: Request) -> Response:
        try:
            response: Response = await handler(request)
        except ServingError as error:
            response = json_response({"error": error.text}, status=error.status)
            response.headers.update(retry_headers(error))
        return response

    return endpoint


def _which(request: Request) -> tuple[str, str | None]:
    return request.path_params["model"], request.path_params.get("version")


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _read(data: bytes, header_length: str | None) -> tuple[InferRequest, dict[str, NDArray[np.generic]]]:
    """Split the body into its JSON and the tensors' bytes behind it."""
    view = memoryview(data)
    length = len(data)
    if header_length is not None:
        if not header_length.isdigit() or int(header_length) > len(data):
            raise BadRequest(f"{_HEADER_LENGTH} is {header_length!r}; the body has {len(data)} bytes")
        length = int(header_length)
    asked = decode(view[:length], InferRequest)
    place = length
    arrays: dict[str, NDArray[np.generic]] = {}
    for tensor in asked.inputs:
        size = tensor.parameters.binary_data_size
        if tensor.name in arrays:
            raise BadRequest(f"input '{tensor.name}' stands twice", field=tensor.name)
        if (size is None) == (not tensor.data):
            which = "neither data nor" if size is None else "both data and"
            raise BadRequest(f"input '{tensor.name}' has {which} binary_data_size", field=tensor.name)
        if size is None:
            arrays[tensor.name] = tensors.from_json(tensor.data, tensor.datatype, tensor.shape, name=tensor.name)
            continue
        if size < 0 or place + size > len(data):
            raise BadRequest(
                f"input '{tensor.name}' wants {size} bytes; {len(data) - place} are left", field=tensor.name
            )
        raw = view[place : place + size]
        arrays[tensor.name] = tensors.from_bytes(raw, tensor.datatype, tensor.shape, name=tensor.name)
        place += size
    if place != len(data):
        raise BadRequest(f"{len(data) - place} bytes behind the last tensor belong to none")
    return asked, arrays


def _answer(asked: InferRequest, name: str, version: str, results: Any) -> Response:
    binary = {each.name: each.parameters.binary_data for each in asked.outputs}
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for output, array in results.items():
        entry = {"name": output, "datatype": tensors.datatype_of(array), "shape": list(array.shape)}
        wanted = binary.get(output)
        if asked.parameters.binary_data_output if wanted is None else wanted:
            blob = tensors.to_bytes(array)
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            entry["data"] = tensors.to_json(array)
        described.append(entry)
    answer = {"model_name": name, "model_version": version, "outputs": described}
    if asked.id is not None:
        answer["id"] = asked.id
    if not blobs:
        return json_response(answer)
    head = msgspec.json.encode(answer)
    return Response(b"".join((head, *blobs)), media_type=_BINARY, headers={_HEADER_LENGTH: str(len(head))})
