"""The callers of the server's benches, in a process of their own; a question a line.

- ``http``, ``grpc``: tritonclient as it comes, a client a thread. It costs more CPU than the server does, so it says
  what a caller sees and how the server's own CPU goes, not how many requests a second the server can take.
- ``wire-json``, ``wire-binary``, ``wire-grpc``: requests made once and sent again and again from one event loop,
  answers counted and not looked into: the lightest caller that Python allows.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.http
import uvloop
from bench.server_models import values
from bench.server_process import percentile, questions, reply
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_TIMEOUT_S = 120.0
Ask = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def triton(protocol: str, address: str, model: str) -> tuple[Ask, Callable[[], None]]:
    """How to ask, and how to hang up. The answer's tensor is read: a caller wants it."""
    module = tritonclient.http if protocol == "http" else tritonclient.grpc
    timeouts = {"connection_timeout": _TIMEOUT_S, "network_timeout": _TIMEOUT_S} if protocol == "http" else {}
    client = module.InferenceServerClient(address, **timeouts)

    def ask(array: NDArray[np.float32]) -> NDArray[np.float32]:
        sent = module.InferInput("x", list(array.shape), "FP32")
        sent.set_data_from_numpy(array)
        got: NDArray[np.float32] = client.infer(model, [sent]).as_numpy("y")
        return got

    return ask, client.close


def with_triton(asked: dict[str, Any]) -> dict[str, Any]:
    """``concurrency`` threads, each asking again when its answer has come."""
    took: list[float] = []
    failures: list[BaseException] = []
    clients = [triton(asked["kind"], asked["address"], asked["model"]) for _ in range(asked["concurrency"])]
    ends = time.monotonic() + asked["seconds"]

    def call(number: int) -> None:
        ask, _ = clients[number]
        array = values(tuple(asked["shape"]), number)
        try:
            while (started := time.perf_counter()) and time.monotonic() < ends:
                ask(array)
                took.append((time.perf_counter() - started) * 1000)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever started the thread
            failures.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(asked["concurrency"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _, close in clients:
        close()
    if failures:
        raise failures[0]
    return {"took_ms": took}


class _Caller(asyncio.Protocol):
    """One connection that sends the same request again when its answer is whole."""

    def __init__(self, request: bytes, ends: float, took: list[float]) -> None:
        self._request = request
        self._ends = ends
        self._took = took
        self._got = bytearray()
        self._left = -1
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not one by name
        self._send()

    def _send(self) -> None:
        if time.monotonic() >= self._ends:
            self._transport.close()
            return
        self._started = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if self._left < 0 and (end := self._got.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._got[:end]).lower()
            if not head.startswith(b"http/1.1 200"):
                self.done.set_exception(RuntimeError(bytes(self._got).decode(errors="replace")))
                self._transport.close()
                return
            self._left = end + 4 + int(head.split(b"content-length:")[1].split(b"\r")[0])
        if self._left >= 0 and len(self._got) >= self._left:
            self._took.append((time.perf_counter() - self._started) * 1000)
            self._got.clear()
            self._left = -1
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            if exc is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(exc)


def http_request(model: str, array: NDArray[np.float32], *, binary: bool) -> bytes:
    """The bytes of a request over HTTP/1.1."""
    tensor: dict[str, Any] = {"name": "x", "shape": array.shape, "datatype": "FP32"}
    document: dict[str, Any] = {"inputs": [tensor]}
    headers = {"host": "localhost", "content-type": "application/json"}
    raw = b""
    if binary:
        raw = array.tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        document["parameters"] = {"binary_data_output": True}
        headers["content-type"] = "application/octet-stream"
    else:
        tensor["data"] = array.ravel().tolist()
    body = json.dumps(document).encode()
    if binary:
        headers["inference-header-content-length"] = str(len(body))
    headers["content-length"] = str(len(body) + len(raw))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /v2/models/{model}/infer HTTP/1.1\r\n{head}\r\n".encode() + body + raw


def grpc_request(model: str, array: NDArray[np.float32]) -> bytes:
    """The bytes of a ``ModelInferRequest``."""
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=array.shape)
    request = service_pb2.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()])
    written: bytes = request.SerializeToString()
    return written


def _always(caller: _Caller) -> Callable[[], _Caller]:
    return lambda: caller


async def over_http(asked: dict[str, Any], took: list[float], ends: float) -> None:
    host, _, port = asked["address"].rpartition(":")
    loop = asyncio.get_running_loop()
    callers = []
    for number in range(asked["concurrency"]):
        array = values(tuple(asked["shape"]), number)
        request = http_request(asked["model"], array, binary=asked["kind"] == "wire-binary")
        caller = _Caller(request, ends, took)
        await loop.create_connection(_always(caller), host, int(port))
        callers.append(caller)
    await asyncio.gather(*(caller.done for caller in callers))


async def over_grpc(asked: dict[str, Any], took: list[float], ends: float) -> None:
    async with grpc.aio.insecure_channel(asked["address"]) as channel:
        ask: Callable[..., Any] = channel.unary_unary(METHOD)

        async def call(number: int) -> None:
            request = grpc_request(asked["model"], values(tuple(asked["shape"]), number))
            while (started := time.perf_counter()) and time.monotonic() < ends:
                await ask(request, timeout=_TIMEOUT_S)
                took.append((time.perf_counter() - started) * 1000)

        await asyncio.gather(*(call(number) for number in range(asked["concurrency"])))


def on_the_wire(asked: dict[str, Any]) -> dict[str, Any]:
    took: list[float] = []
    speak = over_grpc if asked["kind"] == "wire-grpc" else over_http
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(speak(asked, took, time.monotonic() + asked["seconds"]))
    return {"took_ms": took}


def load(asked: dict[str, Any]) -> dict[str, Any]:
    """Requests a second, milliseconds, and the CPU that this process took a request."""
    began, cpu = time.monotonic(), time.process_time()
    took = sorted((with_triton if asked["kind"] in {"http", "grpc"} else on_the_wire)(asked)["took_ms"])
    if not took:
        raise SystemExit("no request was answered")
    return {
        "requests": len(took),
        "per_s": len(took) / (time.monotonic() - began),
        "p50_ms": percentile(took, 0.5),
        "p99_ms": percentile(took, 0.99),
        "cpu_ms": (time.process_time() - cpu) * 1000 / len(took),
    }


if __name__ == "__main__":
    for question in questions():
        if "probe" in question:  # one answer, to be compared
            ask, close = triton(question["kind"], question["address"], question["model"])
            reply({"y": ask(values(tuple(question["shape"]), question["probe"])).ravel().tolist()})
            close()
        else:
            reply(load(question))
