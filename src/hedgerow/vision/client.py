"""Ask the inference server of this machine: Open Inference Protocol v2 over HTTP, tensors as bytes.

Source: KServe, "Open Inference Protocol"; Triton's "Binary Tensor Data Extension". Our own few lines, because
tritonclient's HTTP brings gevent and a compiled HTTP client to the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
import urllib3
from numpy.typing import NDArray

from hedgerow.server import tensors
from hedgerow.server.errors import BadRequest

_HEADER_LENGTH = "Inference-Header-Content-Length"
_UNAVAILABLE = frozenset({429, 502, 503, 504})
_OK = 200


class Unavailable(Exception):
    """The server is not there, or has no room: worth another try after ``retry_after_s`` seconds, if it says so."""

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """The server answers that the request is wrong, or answers what is no inference."""


class Spec(msgspec.Struct, frozen=True):
    """A tensor of the model; -1 is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Metadata(msgspec.Struct, frozen=True):
    """What the server says of a model."""

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]


@dataclass(frozen=True)
class Answer:
    """The outputs, and the version that made them."""

    version: str
    outputs: Mapping[str, NDArray[np.generic]]


class _OutputParameters(msgspec.Struct):
    binary_data_size: int


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: _OutputParameters


class _Response(msgspec.Struct):
    model_version: str
    outputs: list[_Output]


class ModelClient:
    """One model of one server; one connection, kept, for one thread."""

    def __init__(self, server: str, model: str, *, timeout_s: float) -> None:
        self._url = f"{server.rstrip('/')}/v2/models/{quote(model, '')}"
        self._timeout_s = timeout_s
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=1)

    def metadata(self) -> Metadata:
        """What the model takes and gives.

        Raises:
            Unavailable, Refused.
        """
        response = self._ask("GET", self._url)
        try:
            return msgspec.json.decode(response.data, type=Metadata)
        except msgspec.DecodeError as error:
            raise Refused(f"the server's metadata cannot be read: {error}") from error

    def infer(self, name: str, tensor: NDArray[np.generic]) -> Answer:
        """Run the model on its one input.

        Raises:
            Unavailable, Refused.
        """
        raw = tensors.to_buffer(tensor)
        head = msgspec.json.encode(
            {
                "inputs": [
                    {
                        "name": name,
                        "datatype": tensors.datatype_of(tensor),
                        "shape": tensor.shape,
                        "parameters": {"binary_data_size": len(raw)},
                    }
                ],
                "parameters": {"binary_data_output": True},
            }
        )
        # In two pieces, with the length of both: the server then writes the tensor once, to where the model reads it.
        headers = {
            _HEADER_LENGTH: str(len(head)),
            "Content-Length": str(len(head) + len(raw)),
            "Content-Type": "application/octet-stream",
            "X-Request-Timeout": f"{self._timeout_s:g}",
        }
        response = self._ask("POST", f"{self._url}/infer", body=iter((head, raw)), headers=headers)
        try:
            return _answer(response)
        except (msgspec.DecodeError, BadRequest, ValueError) as error:
            raise Refused(f"the server's answer cannot be read: {error}") from error

    def close(self) -> None:
        """Let the connection go."""
        self._pool.clear()

    def _ask(self, method: str, url: str, **arguments: Any) -> urllib3.BaseHTTPResponse:
        try:
            response = self._pool.request(
                method, url, timeout=self._timeout_s, retries=False, redirect=False, **arguments
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"the server does not answer: {type(error).__name__}") from error
        if response.status == _OK:
            return response
        text = f"the server answers {response.status}: {_reason(response.data)}"
        if response.status in _UNAVAILABLE:
            after = response.headers.get("Retry-After", "")
            raise Unavailable(text, float(after) if after.isdigit() else None)
        raise Refused(text)


def _answer(response: urllib3.BaseHTTPResponse) -> Answer:
    data = memoryview(response.data)
    length = int(response.headers[_HEADER_LENGTH])
    known = msgspec.json.decode(data[:length], type=_Response)
    outputs, place = {}, length
    for each in known.outputs:
        end = place + each.parameters.binary_data_size
        outputs[each.name] = tensors.from_bytes(data[place:end], each.datatype, each.shape, name=each.name)
        place = end
    return Answer(known.model_version, outputs)


def _reason(data: bytes) -> str:
    try:
        return str(msgspec.json.decode(data)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "no reason is given"
