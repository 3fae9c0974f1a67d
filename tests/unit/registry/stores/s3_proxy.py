"""Between a store and its server: real HTTP, passed on as it is, except where a test's rule says what goes wrong."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """Sent instead of the server's: an error in S3's form."""

    status: int
    code: str


@dataclass(frozen=True)
class CutUpload:
    """The line ends after this many bytes of the request's body."""

    after: int


@dataclass(frozen=True)
class LoseAnswer:
    """The server does what it was asked, and its answer never arrives."""


@dataclass(frozen=True)
class CutAnswer:
    """The line ends after this many bytes of the answer's body."""

    after: int


Fault = Answer | CutUpload | LoseAnswer | CutAnswer
# (method, path, how many requests with this method and path came before) → what goes wrong, None for nothing
Rule = Callable[[str, str, int], Fault | None]


class Proxy:
    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.rule: Rule = lambda method, path, before: None
        self.seen: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def counted(self, method: str, path: str) -> int:
        with self.lock:
            before = self.seen.count((method, path))
            self.seen.append((method, path))
            return before

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _pass(self) -> None:
                path = self.path.partition("?")[0]
                fault = proxy.rule(self.command, path, proxy.counted(self.command, path))
                length = int(self.headers.get("Content-Length", 0))
                if isinstance(fault, CutUpload):
                    self.rfile.read(min(length, fault.after))
                    self._cut()
                    return
                body = self.rfile.read(length)
                if isinstance(fault, Answer):
                    self._say(fault)
                    return
                upstream = http.client.HTTPConnection(proxy.upstream.hostname, proxy.upstream.port, timeout=30)
                with contextlib.closing(upstream):
                    upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for key, value in self.headers.items():
                        if key.lower() not in {"expect", "connection"}:
                            upstream.putheader(key, value)
                    upstream.endheaders(body)
                    answer = upstream.getresponse()
                    content = answer.read()
                    if isinstance(fault, LoseAnswer):
                        self._cut()
                        return
                    self.send_response_only(answer.status)
                    for key, value in answer.getheaders():
                        if key.lower() not in {"transfer-encoding", "connection", "content-length"}:
                            self.send_header(key, value)
                    length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                    self.send_header("Content-Length", length or "0")
                    self.end_headers()
                    if isinstance(fault, CutAnswer):
                        self.wfile.write(content[: fault.after])
                        self._cut()
                    else:
                        self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass  # noqa: N815

            def _say(self, fault: Answer) -> None:
                text = f"<Error><Code>{fault.code}</Code><Message>{fault.code} of the test</Message></Error>".encode()
                self.send_response(fault.status)
                self.send_header("Content-Length", "0" if self.command == "HEAD" else str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            def _cut(self) -> None:
                self.close_connection = True
                self.wfile.flush()
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

        return Handler


@contextlib.contextmanager
def running(upstream: str) -> Iterator[Proxy]:
    proxy = Proxy(upstream)
    thread = threading.Thread(target=proxy.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()
