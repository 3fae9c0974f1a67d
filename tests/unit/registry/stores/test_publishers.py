"""Two publishers of one registry in S3: neither loses what the other did."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from s3_proxy import Answer

from hedgerow.errors import RefusedError, UsageError
from hedgerow.registry.stores import lease as leases
from hedgerow.registry.stores import open_store
from hedgerow.registry.stores.s3 import S3Store
from hedgerow.registry.stores.settings import parse

PUBLISHER = """
import sys, time
from hedgerow.errors import RefusedError
from hedgerow.registry.stores import open_store

store, name, count = open_store(sys.argv[1]), sys.argv[2], int(sys.argv[3])
done = 0
while done < count:
    try:
        with store.lock():
            lines = (store.get("metadata/timestamp.json") or b"").splitlines()
            # As publishing does: content, then what names it.
            store.put(f"targets/{name}-{done}", b"content")
            store.put("metadata/timestamp.json", b"\\n".join([*lines, f"{name}-{done}".encode()]))
        done += 1
    except RefusedError:
        time.sleep(0.02)
"""


@pytest.mark.slow
def test_two_processes_lose_nothing_of_each_other(seaweed):
    location, count = seaweed.location(), 4
    publishers = [
        subprocess.Popen([sys.executable, "-c", PUBLISHER, location, name, str(count)], env=os.environ.copy())
        for name in ("ann", "bob")
    ]
    assert [publisher.wait(timeout=300) for publisher in publishers] == [0, 0]
    written = open_store(location).get("metadata/timestamp.json").decode().splitlines()
    assert sorted(written) == sorted(f"{name}-{number}" for name in ("ann", "bob") for number in range(count))


def test_a_publisher_that_slept_through_its_lease_writes_nothing(seaweed, monkeypatch):
    """It wakes in the middle of its work, after another has published; its every write is refused."""
    location = seaweed.location()
    slow, quick = S3Store(parse(location), ttl_s=0.5), S3Store(parse(location))
    monkeypatch.setattr(leases.Lease, "_keep", lambda self: None)
    # Its own clock stood still: the store's answer is all that is left to stop it.
    monkeypatch.setattr(leases, "_TRUSTED", 10_000.0)
    with slow.lock():
        assert slow.get("metadata/timestamp.json") is None
        slow.put("metadata/1.targets.json", b"of the slow one")
        with awaited(quick.lock):
            quick.put("metadata/1.targets.json", b"of the quick one")
            quick.put("metadata/timestamp.json", b"quick")
            for path in ("metadata/timestamp.json", "metadata/1.targets.json", "metadata/2.targets.json"):
                with pytest.raises(RefusedError, match=r"lost the registry's lease: .* took it over"):
                    slow.put(path, b"too late")
    assert quick.get("metadata/timestamp.json") == b"quick"
    assert quick.get("metadata/1.targets.json") == b"of the quick one"
    assert quick.get("metadata/2.targets.json") is None


def test_a_write_that_was_checked_in_time_and_sent_too_late_is_refused_by_its_condition(seaweed, monkeypatch):
    """The moment between looking at the lease and writing: the tag decides there, not the lease."""
    location = seaweed.location()
    slow, quick = S3Store(parse(location)), S3Store(parse(location))
    slow.put("metadata/timestamp.json", b"before")
    with slow.lock():
        slow.get("metadata/timestamp.json")
        check = slow._lease.check

        def and_then_it_sleeps():
            holder = check()
            quick.put("metadata/timestamp.json", b"of its successor")
            return holder

        monkeypatch.setattr(slow._lease, "check", and_then_it_sleeps)
        with pytest.raises(UsageError, match="somebody changed this file"):
            slow.put("metadata/timestamp.json", b"too late")
    assert quick.get("metadata/timestamp.json") == b"of its successor"


def test_who_was_killed_does_not_keep_others_away_for_ever(seaweed, monkeypatch):
    location = seaweed.location()
    killed = S3Store(parse(location), ttl_s=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(leases.Lease, "_give_back", lambda self: None)
        with killed.lock():
            pass
    with awaited(S3Store(parse(location)).lock):
        pass


def test_the_lease_survives_a_server_that_stumbles(seaweed, proxy):
    store = open_store(seaweed.location(endpoint=proxy.endpoint, attempts="3"))
    proxy.rule = lambda method, path, before: Answer(503, "SlowDown") if before == 0 else None
    with store.lock():
        store.put("metadata/timestamp.json", b"1")
    proxy.rule = lambda method, path, before: None
    assert store.get("metadata/timestamp.json") == b"1"


class Ignorant(BaseHTTPRequestHandler):
    """A server that keeps files and no conditions, as some that speak S3 do; it checks no signature."""

    files: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_PUT(self):
        self.files[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, b"")

    def do_GET(self):
        if self.path in self.files:
            self.answer(200, self.files[self.path])
        else:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    do_HEAD = do_GET  # noqa: N815 - as the base class calls it

    def answer(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hash(content):x}"')
        self.send_header("Last-Modified", self.date_time_string())
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def ignorant():
    handler = type("Handler", (Ignorant,), {"files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"s3://registry/x?endpoint=http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_ignores_conditions_is_found_out_and_waited_for(ignorant, monkeypatch):
    waits = []
    monkeypatch.setattr(leases.time, "sleep", waits.append)
    store = S3Store(parse(ignorant), settle_s=7.0)
    with store.lock():
        assert waits == [7.0]
        store.put("metadata/timestamp.json", b"1")
        with pytest.raises(RefusedError, match="another publisher"), S3Store(parse(ignorant)).lock():
            pass
    assert store.get("metadata/timestamp.json") == b"1"
    assert store.put_new("metadata/timestamp.json", b"2") is False
    assert store.put_if("metadata/timestamp.json", b"2", "another tag") is False


def test_conditions_that_are_said_not_to_be_kept_are_not_tried(ignorant, monkeypatch):
    monkeypatch.setattr(leases.time, "sleep", lambda _: None)
    store = S3Store(parse(f"{ignorant}&conditional=false"))
    with store.lock():
        assert store.size(".conditional") is None


class awaited:  # noqa: N801 - used as a function
    """Enter what ``make`` makes, as soon as nobody else is in the way."""

    def __init__(self, make):
        self._make = make

    def __enter__(self):
        deadline = time.monotonic() + 120
        while True:
            self._entered = self._make()
            try:
                return self._entered.__enter__()
            except RefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def __exit__(self, *error):
        return self._entered.__exit__(*error)
