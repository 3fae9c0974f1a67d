"""Ranges over a real HTTPS server and from a folder: both promise the same."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hedgerow.errors import NetworkError, PublisherError
from hedgerow.identity.ca import FleetCA
from hedgerow.registry.source import FolderSource, ForbiddenError, HttpsSource, TlsFiles

CONTENT = hashlib.shake_256(b"a file").digest(300_000)
PATH = "targets/packs/aa/pack"


class Server(ThreadingHTTPServer):
    """Knows ranges, or not; ``content`` may change, ``cut`` ends an answer early, ``status`` answers with that."""

    daemon_threads = True
    content = CONTENT
    ranges = True
    cut = None
    status = None
    weak = False
    asked = 0
    lie = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.asked += 1
        if server.status is not None or self.path != f"/{PATH}":
            self.send_error(server.status or 404)
            return
        whole = server.content
        tag = ("W/" if server.weak else "") + f'"{hashlib.sha256(whole).hexdigest()[:8]}"'
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and server.ranges and self.headers.get("If-Range", tag) == tag:
            first = int(asked[1])
            if first >= len(whole):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(whole)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = whole[first : int(asked[2]) + 1 if asked[2] else None]
            self.send_response(206)
            first += server.lie
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(whole)}")
        else:
            body = whole
            self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut])
        if server.cut is not None:
            self.close_connection = True

    def log_message(self, *_):
        """Stay quiet."""


@pytest.fixture(scope="module")
def tls(tmp_path_factory, client_support):
    folder = tmp_path_factory.mktemp("tls")
    ca, _ = FleetCA.init(folder / "fleet", client_support.FLEET)
    return client_support.identity(folder / "gateway", ca)


@pytest.fixture
def server(tls):
    made = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "device.crt", tls / "device.key")
    made.socket = context.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def https(server, tls, client_support):
    files = TlsFiles(tls / "device.crt", tls / "device.key", tls / "ca.crt")
    return HttpsSource(f"https://127.0.0.1:{server.server_address[1]}", files, server_name=client_support.GATEWAY)


@pytest.fixture(params=["https", "folder"])
def source(request, tmp_path):
    if request.param == "https":
        return request.getfixturevalue("https")
    (tmp_path / PATH).parent.mkdir(parents=True)
    (tmp_path / PATH).write_bytes(CONTENT)
    return FolderSource(tmp_path)


@pytest.mark.parametrize("start, length", [(0, None), (0, 1), (1, None), (65_535, 2), (299_999, 1), (1000, 200_000)])
def test_just_what_was_asked_for(source, start, length):
    with source.open_range(PATH, start, length) as part:
        assert (part.start, part.size) == (start, len(CONTENT))
        end = None if length is None else start + length
        assert b"".join(part) == CONTENT[start:end]


@pytest.mark.parametrize("start, length", [(1, None), (65_535, 2), (299_999, 1), (70_000, 200_000)])
def test_a_server_that_knows_no_ranges_wastes_bytes_and_gets_none_wrong(https, server, start, length):
    server.ranges = False
    for _ in range(2):  # the second over what the first left of the connection
        with https.open_range(PATH, start, length) as part:
            assert part.start == start
            assert b"".join(part) == CONTENT[start : None if length is None else start + length]


def read(source, parts, blocks):
    with source.open_range(PATH, 0) as part:
        parts.append(part)
        blocks.extend(part)


def test_a_cut_line_is_resumed_where_it_was_cut(https, server):
    server.cut = 100_000
    parts, blocks = [], []
    with pytest.raises(NetworkError):
        read(https, parts, blocks)
    came, validator = b"".join(blocks), parts[0].validator
    assert came == CONTENT[:100_000]  # every byte that came is good
    server.cut = None
    with https.open_range(PATH, len(came), validator=validator) as part:
        assert part.start == len(came)
        assert came + b"".join(part) == CONTENT


def test_a_file_that_changed_meanwhile_begins_again(source, server, tmp_path):
    with source.open_range(PATH, 0, 10) as part:
        validator = part.validator
    changed = CONTENT[::-1] + b"longer"
    server.content = changed
    if isinstance(source, FolderSource):
        (tmp_path / PATH).write_bytes(changed)
    with source.open_range(PATH, 10, 20, validator=validator) as part:
        assert part.start == 0
        assert part.validator != validator
        assert b"".join(part) == changed


def test_a_weak_tag_is_no_validator(https, server):
    server.weak = True
    with https.open_range(PATH, 0, 10) as part:
        assert part.validator is None


def test_a_file_that_ends_before(source):
    with pytest.raises(PublisherError, match="ends before byte 300001"), source.open_range(PATH, 300_001, 5):
        pytest.fail("it answered")


def test_a_file_that_is_not_there(source):
    with pytest.raises(FileNotFoundError), source.open_range("targets/packs/aa/other", 0):
        pytest.fail("it answered")


def test_another_range_than_asked_for_is_refused(https, server):
    server.lie = 1
    with pytest.raises(NetworkError, match="another range"), https.open_range(PATH, 10, 5):
        pytest.fail("it answered")


def test_who_may_not_read_is_told_so(https, server):
    server.status = 403
    with pytest.raises(ForbiddenError, match="403"), https.open_range(PATH, 0):
        pytest.fail("it answered")


def test_a_wait_that_the_server_asks_for_is_not_granted(https, server, monkeypatch):
    """``Retry-After`` could be a year; this many attempts and their own pauses are all that a busy server gets."""
    pauses = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", pauses.append)

    def busy(self, code, *args):
        self.send_response(code)
        self.send_header("Retry-After", "86400")
        self.send_header("Content-Length", "0")
        self.end_headers()

    monkeypatch.setattr(Handler, "send_error", busy)
    server.status = 503
    with pytest.raises(NetworkError), https.open(PATH):
        pytest.fail("it answered")
    assert server.asked == 4
    assert max(pauses) <= 2
