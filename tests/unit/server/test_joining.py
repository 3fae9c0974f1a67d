"""What is written in one turn of the event loop goes out together."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import httpx
import pytest
import server_support as support
from server_support import Script, served

from hedgerow.server.config import Limits
from hedgerow.server.joining import JoiningTransport
from hedgerow.server.models import Slot


class Sent(asyncio.Transport):
    """Keeps what it is told to do."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[bytes | str] = []
        self.closing = False

    def write(self, data) -> None:
        self.done.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")


def after(work) -> list[bytes | str]:
    """What was sent when ``work(transport)`` is done."""

    async def main() -> list[bytes | str]:
        sent = Sent()
        await work(JoiningTransport(sent, asyncio.get_running_loop()), sent)
        await asyncio.sleep(0)
        return sent.done

    return asyncio.run(main())


def test_small_writes_of_a_turn_are_one() -> None:
    async def work(transport: JoiningTransport, sent: Sent) -> None:
        transport.write(b"head")
        transport.write(memoryview(b"body"))
        assert sent.done == []
        await asyncio.sleep(0)
        transport.write(b"next")

    assert after(work) == [b"headbody", b"next"]


def test_large_ones_go_at_once_from_where_they_lie() -> None:
    large = bytes(65 * 1024)

    async def work(transport: JoiningTransport, sent: Sent) -> None:
        transport.write(b"head")
        transport.write(large)
        assert sent.done == [b"head", large]
        transport.write(b"rest")

    assert after(work) == [b"head", large, b"rest"]


@pytest.mark.parametrize("end, wanted", [("close", [b"last", "close"]), ("abort", ["abort"])])
def test_the_end_comes_behind_what_was_written(end, wanted) -> None:
    async def work(transport: JoiningTransport, _sent: Sent) -> None:
        transport.write(b"last")
        getattr(transport, end)()

    assert after(work) == wanted


def test_nothing_is_sent_to_whom_has_gone_since() -> None:
    """A transport that is closed refuses it with an exception, which nobody would catch."""

    async def work(transport: JoiningTransport, sent: Sent) -> None:
        transport.write(b"late")
        sent.closing = True

    assert after(work) == []


def test_an_answer_is_written_once(tmp_path, monkeypatch) -> None:
    """Through the whole server: head and body in one call."""
    written: list[bytes] = []
    flush = JoiningTransport.flush

    def counted(transport: JoiningTransport) -> None:
        written.append(b"".join(transport._held))
        flush(transport)

    monkeypatch.setattr(JoiningTransport, "flush", counted)

    def prepare(plane) -> None:
        plane._slots["assistant"] = Slot("assistant", served(Script(["a"])))

    with support.closing_all() as things:
        server = support.InProcess(prepare, tmp_path, Limits())
        things.append(server)
        assert httpx.get(f"{server.url}/v2", timeout=support.PATIENCE_S).status_code == HTTPStatus.OK
    (answer,) = [each for each in written if each]
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'\r\n\r\n{"name":"hedgerow"' in answer
