"""Log lines: one a request, and nothing in them that a caller wrote, whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import subprocess
import sys
import threading
import time
import types
import uuid

import grpc
import httpx
import msgspec
import pytest
import server_support as support
from server_support import Script, served

from hedgerow.identity.profiles import Profile
from hedgerow.server.config import Address, Limits
from hedgerow.server.dataplane import DataPlane
from hedgerow.server.models import Slot
from hedgerow.server.protocols.grpc import messages
from hedgerow.server.protocols.grpc.port import GrpcPort
from hedgerow.server.redaction import Redactor
from hedgerow.server.telemetry import logs
from hedgerow.server.telemetry.caller import Caller
from hedgerow.server.telemetry.config import Logs
from hedgerow.server.telemetry.config import Telemetry as Settings
from hedgerow.server.telemetry.finished import Finished
from hedgerow.server.telemetry.service import Telemetry

CANARY = "canary-Quetzalcoatl"
"""Has the shape of nothing: no redactor would find it, so it must not get there."""
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def root():
    """The process's logging as it was, afterwards."""
    logger = logging.getLogger()
    before = (logger.handlers, logger.level, sys.excepthook, logging.getLogger("hedgerow.server.requests").level)
    hook = threading.excepthook
    yield logger
    logger.handlers, logger.level, sys.excepthook, _ = before
    logging.getLogger("hedgerow.server.requests").setLevel(before[3])
    threading.excepthook = hook
    logging.captureWarnings(capture=False)


class Broken(Script):
    """Its runtime fails, and quotes what it was asked."""

    def begin(self, request):
        raise RuntimeError(f"cannot tokenize {request}")


@pytest.fixture
def serve(tmp_path, running, root, capfd):
    """``serve(format=…)`` → a client of a server that logs as a process does, and ``client.lines()``: its output."""

    def start(slow_s: float = 30.0, **settings) -> httpx.Client:
        logs.configure(Logs(**settings), Redactor())

        def prepare(plane) -> None:
            plane._slots["assistant"] = Slot("assistant", served(Script([CANARY, " answered."])))
            plane._slots["broken"] = Slot("broken", served(Broken([])))
            Telemetry(Settings(slow_s=slow_s), plane.recorder, plane.metrics, {})

        server = support.InProcess(prepare, tmp_path, Limits())
        client = httpx.Client(base_url=server.url, timeout=support.PATIENCE_S)

        def lines() -> list[str]:
            for handler in root.handlers:
                handler.flush()
            return [line for line in "".join(capfd.readouterr()).splitlines() if line]

        client.lines = lines
        running.insert(0, client)
        running.insert(0, server)
        return client

    return start


def chat(client, **more) -> httpx.Response:
    asked = {"model": "assistant", "messages": [{"role": "user", "content": CANARY}], **more}
    return client.post("/v1/chat/completions", json=asked, headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})


def line_of(client) -> dict:
    (line,) = client.lines()
    return json.loads(line)


def test_a_line_a_request(serve) -> None:
    client = serve()
    request_id = chat(client).headers["x-request-id"]
    line = line_of(client)
    assert uuid.UUID(request_id)
    told = {key: line.pop(key) for key in ("time", "span_id", "duration_ms", "queue_ms", "first_token_ms")}
    assert told["duration_ms"] >= told["first_token_ms"] >= told["queue_ms"] >= 0
    line.pop("tokens_per_s", None)
    assert line == {
        "level": "info",
        "logger": "hedgerow.server.requests",
        "message": "request",
        "request_id": request_id,
        "trace_id": TRACE,
        "protocol": "openai",
        "model": "assistant",
        "version": "1.0.0",
        "status": 200,
        "prompt_tokens": 7,
        "tokens": 2,
        "finish": "stop",
    }


def test_slow_and_failed_ones_are_warnings(serve) -> None:
    client = serve(slow_s=1e-9, level="warning")
    assert chat(client).status_code == 200
    line = line_of(client)
    assert (line["level"], line["slow"], line["status"]) == ("warning", True, 200)


def test_others_can_be_left_out(serve) -> None:
    client = serve(level="warning")
    assert chat(client).status_code == 200
    assert chat(client, model="nobody").status_code == 404
    assert client.lines() == []
    assert chat(client, model="broken").status_code == 500
    line = line_of(client)
    assert (line["level"], line["status"], line["cause"]) == ("warning", 500, "runtime")


def test_as_text(serve) -> None:
    client = serve(format="text")
    chat(client)
    (line,) = client.lines()
    assert line.startswith("INFO hedgerow.server.requests: request request_id=")
    assert " status=200 " in line


def test_lines_come_together_and_in_order_within_a_tenth_of_a_second(root, capfd) -> None:
    logs.configure(Logs(), Redactor())
    written: list[str] = []
    root.handlers[0].setStream(types.SimpleNamespace(write=written.append, flush=lambda: None))
    tell = logs.RequestLines(lambda request: request.model == "slow")

    async def main() -> None:
        for number in range(5):
            tell(finished(str(number)))
        assert written == []
        await support.until(lambda: written)
        tell(finished("5"))
        tell(finished("slow"))  # a warning: at once, and what came before stands before it
        assert [line.count("\n") for line in written] == [5, 2]
        tell(finished("7"))
        logging.getLogger("hedgerow.server").info("a word")
        tell(finished("8"))

    started = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - started >= 0.1
    assert len(written) == 3
    tell(finished("9"))  # its loop has ended with a line held: both are written now
    lines = [json.loads(line) for line in "".join(written).splitlines()]
    assert [line.get("model", line["message"]) for line in lines] == [
        "0", "1", "2", "3", "4", "5", "slow", "7", "a word", "8", "9"
    ]  # fmt: skip


def test_what_is_held_is_written_when_the_process_ends() -> None:
    program = (
        "import asyncio; from hedgerow.server.telemetry import logs\n"
        "from hedgerow.server.telemetry.config import Logs\n"
        "from hedgerow.server.telemetry.caller import Caller; from hedgerow.server.telemetry.finished import Finished\n"
        "logs.configure(Logs(), None)\n"
        "async def main():\n"
        "    logs.RequestLines(lambda _: False)(Finished(Caller('0'), '1', 'm', '1', 'oip', 200, None, arrived=0.0,"
        " started=0.0, began=None, first=None, last=0.0, ended=0.0))\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(ended.stderr)["model"] == "m"


def finished(model: str) -> Finished:
    return Finished(
        Caller("0" * 32), SPAN, model, "1.0.0", "oip", 200, None, arrived=0.0, started=0.0, began=None, first=None,
        last=1.0, ended=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("format_", ["json", "text"])
def test_nothing_that_anybody_wrote_comes_out(serve, format_) -> None:
    client = serve(format=format_)
    heads = ["x-request-id", "traceparent", "tracestate", "user-agent", "authorization", "cookie", "baggage", "referer"]
    headers = dict.fromkeys(heads, CANARY)
    for more in ({}, {"stream": True}, {"model": "broken"}, {"model": CANARY}, {"user": CANARY}, {"stop": CANARY},
                 {CANARY: 1}, {"temperature": CANARY}, {"messages": CANARY}):  # fmt: skip
        chat(client, **more)
    asked = {"model": "assistant", "prompt": CANARY}
    assert client.post("/v1/completions", json=asked, headers=headers).status_code == 200
    assert client.post("/v1/completions", json=asked, headers={"x-request-timeout": CANARY}).status_code == 400
    client.post("/v1/completions", content=CANARY.encode())
    client.post(f"/{CANARY}?{CANARY}")
    client.post(f"/v2/models/{CANARY}/versions/{CANARY}/infer", json={"id": CANARY, "inputs": []})
    client.post("/v2/models/assistant/generate", json={"text_input": CANARY, "id": CANARY})
    client.post("/v2/models/assistant/generate_stream", json={"text_input": CANARY})
    client.post(f"/v2/repository/models/{CANARY}/load", json={})
    lines = client.lines()
    assert len(lines) >= 15
    assert not any(CANARY.casefold() in line.casefold() for line in lines)


def test_nor_over_grpc(tmp_path, root, capfd) -> None:
    logs.configure(Logs(), Redactor())
    plane = DataPlane(tmp_path)
    plane._slots["assistant"] = Slot("assistant", served(Script([CANARY])))
    plane._slots["broken"] = Slot("broken", served(Broken([])))
    plane._opened = True
    Telemetry(Settings(), plane.recorder, plane.metrics, {})
    codes = asyncio.run(call_over_grpc(plane))
    root.handlers[0].flush()
    assert codes == ["OK", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "INVALID_ARGUMENT"]
    out = "".join(capfd.readouterr())
    assert CANARY not in out
    lines = [json.loads(line) for line in out.splitlines()]
    told = [(line["protocol"], line["status"], line.get("cause")) for line in lines if line["message"] == "request"]
    assert told == [
        ("grpc", 200, None),
        ("grpc", 500, "runtime"),
        ("grpc", 400, "bad_request"),
        ("grpc", 404, "not_found"),
        ("grpc", 400, "bad_request"),
    ]
    assert {line["trace_id"] for line in lines if "trace_id" in line} == {TRACE}


async def call_over_grpc(plane: DataPlane) -> list[str]:
    port = GrpcPort(plane, Address("127.0.0.1", 0), Limits(), None, None)
    await port.start()
    codes = []
    metadata = (("traceparent", f"00-{TRACE}-{SPAN}-00"), ("x-request-id", CANARY), ("authorization", CANARY))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port.port}") as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            for model, tensor in (("assistant", "text_input"), ("broken", "text_input"), ("assistant", CANARY),
                                  (CANARY, "text_input"), (None, "")):  # fmt: skip
                request = messages.ModelInferRequest(model_name=model or "", id=CANARY)
                sent = request.inputs.add(name=tensor, datatype="BYTES", shape=[1])
                sent.contents.bytes_contents.append(CANARY.encode())
                body = CANARY.encode() if model is None else request.SerializeToString()
                try:
                    await infer(body, metadata=metadata)
                    codes.append("OK")
                except grpc.aio.AioRpcError as error:
                    codes.append(error.code().name)
    finally:
        await port.stop()
        await plane.close()
    return codes


def test_neither_does_an_exception_of_ours(root, capfd) -> None:
    logs.configure(Logs(), Redactor())

    async def main() -> None:
        async def fails() -> None:
            raise ValueError(CANARY)

        task = asyncio.ensure_future(fails())
        await asyncio.wait([task])
        del task  # nobody asked for its result: asyncio logs it, message and all

    asyncio.run(main())
    try:
        try:
            fails(KeyError(CANARY))
        except KeyError as error:
            raise RuntimeError(CANARY) from error
    except RuntimeError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")
    sys.excepthook(*_raised())
    out = "".join(capfd.readouterr())
    assert CANARY not in out
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["exception"] for line in lines] == [["ValueError"], ["RuntimeError", "KeyError"], ["OSError"]]
    assert "test_logs.py" in lines[1]["stack"][-1]


def _raised():
    try:
        fails(OSError(CANARY))
    except OSError:
        return sys.exc_info()


def fails(error: Exception) -> None:
    raise error


def test_what_others_log_is_redacted_and_one_line(root, capfd) -> None:
    logs.configure(Logs(), Redactor(words=["Hedge"]))
    logging.getLogger("some.library").warning("no answer for %s\nfrom Hedge", "jane@example.org")
    assert json.loads(capfd.readouterr().err)["message"] == "no answer for [email] from [redacted]"


def test_a_line_that_cannot_be_made_ends_nothing(root, capfd) -> None:
    logs.configure(Logs(), Redactor())
    logging.getLogger("some.library").warning("%d", "no number")
    assert json.loads(capfd.readouterr().err)["message"] == "%d"


def test_the_journal_is_told_the_priority(root, capfd, monkeypatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    logs.configure(Logs(), Redactor())
    logging.getLogger("hedgerow.server").warning("a word")
    assert capfd.readouterr().err.startswith('<4>{"')


@pytest.mark.parametrize("format_", ["json", "text"])
def test_the_other_tests_would_see_an_exception(root, capfd, format_) -> None:
    logs.configure(Logs(format=format_), Redactor())
    logging.getLogger("hedgerow.server").info("all is well")
    assert not support.tells_of_an_exception(capfd.readouterr().err)
    logging.getLogger("hedgerow.server").error("broken", exc_info=_raised())
    assert support.tells_of_an_exception(capfd.readouterr().err)


def test_what_there_is_none_of_is_left_out() -> None:
    request = Finished(
        Caller("0" * 32), SPAN, "", "", "http", 404, "not_found", arrived=0.0, started=0.0, began=None, first=None,
        last=1.0, ended=1.0,
    )  # fmt: skip
    assert set(msgspec.to_builtins(logs.line_of(request, slow=False))) == {
        "request_id", "trace_id", "span_id", "protocol", "status", "cause", "duration_ms"
    }  # fmt: skip


# ── a device ────────────────────────────────────────────────────────────────


def test_a_device_names_its_callers_certificate(tmp_path, unit_ca, running) -> None:
    support.write_bundle(tmp_path / "models" / "assistant" / "1.0.0", "assistant", "1.0.0", 1.0)
    device = support.start_device(tmp_path, unit_ca)
    running.append(device.process)
    device.process.until(lambda: support.answers(device.http) == 200, "ready")
    files = unit_ca.issue_client(Profile.CLIENT, "unit-logs")
    monitor = unit_ca.issue_client(Profile.MONITOR, "unit-monitor")
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    for each, status in ((files, 200), (monitor, 403)):
        context = _context(unit_ca, each)
        with httpx.Client(verify=context, timeout=support.PATIENCE_S) as client:
            name = f"{support.HOST}.{support.SITE}.{support.FLEET}"
            answer = client.post(
                f"https://127.0.0.1:{device.https}/v2/models/assistant/infer",
                json={"inputs": [tensor]},
                extensions={"sni_hostname": name},
            )
            assert answer.status_code == status
    told = device.process.until(lambda: _requests(device.process.log, 2), "told of both")
    assert [(line.get("client"), line["status"]) for line in told] == [("unit-logs", 200), ("unit-monitor", 403)]
    assert told[1]["cause"] == "forbidden"


def _context(ca, files):
    context = ssl.create_default_context(cafile=ca.folder / "ca.crt")
    context.load_cert_chain(files.certificate, files.key)
    return context


def _requests(log: str, wanted: int) -> list[dict] | None:
    lines = [json.loads(line) for line in log.splitlines()]
    found = [line for line in lines if line["logger"] == "hedgerow.server.requests"]
    return found if len(found) == wanted else None
