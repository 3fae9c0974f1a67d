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


class Proxy(ThreadingHTTPServer):
    """``rule`` decides; ``seen`` lists every request as (method, path)."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urlsplit(upstream)
        self.rule: Rule = lambda method, path, before: None
        self.seen: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"

    def counted(self, method: str, path: str) -> int:
        with self.lock:
            before = self.seen.count((method, path))
            self.seen.append((method, path))
            return before


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):  # what a client does that was cut off
            super().handle_one_request()

    def do_any(self) -> None:
        path = self.path.partition("?")[0]
        fault = self.server.rule(self.command, path, self.server.counted(self.command, path))
        length = int(self.headers.get("Content-Length", 0))
        if isinstance(fault, CutUpload):
            self.rfile.read(min(length, fault.after))
            self.cut()
            return
        body = self.rfile.read(length)
        if isinstance(fault, Answer):
            self.say(fault)
            return
        status, headers, content = self.ask(body)
        if isinstance(fault, LoseAnswer):
            self.cut()
            return
        self.send_response_only(status)
        for key, value in headers:
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content[: fault.after] if isinstance(fault, CutAnswer) else content)
        if isinstance(fault, CutAnswer):
            self.cut()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any  # noqa: N815 - as the base class calls them

    def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The server's answer to the request as it came: its signature is of these headers."""
        upstream = http.client.HTTPConnection(self.server.upstream.hostname, self.server.upstream.port, timeout=30)
        with contextlib.closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for key, value in self.headers.items():
                if key.lower() not in {"expect", "connection"}:
                    upstream.putheader(key, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            content = answer.read()
        # Of HEAD the length is that of the file, and of nothing else is it known before it was read.
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        dropped = {"transfer-encoding", "connection", "content-length"}
        headers = [(key, value) for key, value in answer.getheaders() if key.lower() not in dropped]
        return answer.status, [*headers, ("Content-Length", length)], content

    def say(self, fault: Answer) -> None:
        text = f"<Error><Code>{fault.code}</Code><Message>{fault.code} of the test</Message></Error>".encode()
        self.send_response(fault.status)
        self.send_header("Content-Length", "0" if self.command == "HEAD" else str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def running(upstream: str) -> Iterator[Proxy]:
    proxy = Proxy(upstream)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
