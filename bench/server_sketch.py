"""The least that a server can be: raw ASGI on uvicorn and grpc.aio, ``np.frombuffer``, one run on the event loop.

It checks nothing, tells of nothing, serves one model, and answers nobody while it computes. What it takes above
onnxruntime alone is what these libraries take on the machine at hand: no server on them can take less.

    python -m bench.server_sketch MODEL.onnx HTTP_PORT GRPC_PORT
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from bench.server_process import READY_S, free_port, process_cpu_s


class Sketch:
    """It as a process, by the names that ``server_process.Server`` has."""

    def __init__(self, model: Path) -> None:
        self.port, self.grpc_port = free_port(), free_port()
        command = [sys.executable, "-m", "bench.server_sketch", str(model), str(self.port), str(self.grpc_port)]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.pid = self._child.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        self._child.wait()

    def wait_ready(self) -> float:
        """Seconds that it took."""
        started = time.monotonic()
        assert self._child.stdout is not None
        if not self._child.stdout.readline() or time.monotonic() - started > READY_S:
            raise SystemExit("the sketch did not get ready")
        return time.monotonic() - started

    @property
    def cpu_s(self) -> float:
        return process_cpu_s(self.pid)


async def serve(model: str, http_port: int, grpc_port: int) -> None:
    """The child's side."""
    import grpc
    import numpy as np
    import onnxruntime
    import uvicorn
    from tritonclient.grpc import service_pb2

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape

    def run(raw: Any) -> Any:
        return session.run(["y"], {"x": np.frombuffer(raw, np.float32).reshape(shape)})[0]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        head = int(dict(scope["headers"])[b"inference-header-content-length"])
        answer = run(memoryview(body)[head:])
        raw = answer.tobytes()
        output = {"name": "y", "datatype": "FP32", "shape": answer.shape, "parameters": {"binary_data_size": len(raw)}}
        said = json.dumps({"model_name": "m", "model_version": "1", "outputs": [output]}).encode()
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"inference-header-content-length", b"%d" % len(said)),
            (b"content-length", b"%d" % (len(said) + len(raw))),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": said + raw})

    async def infer(request: Any, _context: Any) -> Any:
        answer = run(request.raw_input_contents[0])
        said = service_pb2.ModelInferResponse(model_name="m", raw_output_contents=[answer.tobytes()])
        said.outputs.add(name="y", datatype="FP32", shape=answer.shape)
        return said

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    handler = grpc.unary_unary_rpc_method_handler(
        infer, service_pb2.ModelInferRequest.FromString, service_pb2.ModelInferResponse.SerializeToString
    )
    calls = {"ModelInfer": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", calls),))
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    await server.start()
    config = uvicorn.Config(
        app, host="127.0.0.1", port=http_port, loop="none", http="httptools", ws="none", lifespan="off",
        log_level="error", access_log=False,
    )  # fmt: skip
    serving = asyncio.create_task(uvicorn.Server(config).serve())
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", http_port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            break
    print("ready", flush=True)
    await serving


if __name__ == "__main__":
    import uvloop

    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
