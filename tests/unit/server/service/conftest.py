"""A server over real sockets, in this process."""

from __future__ import annotations

import httpx
import pytest
import server_support as support
from server_support import Script, served

from hedgerow.server import backends
from hedgerow.server.config import Limits
from hedgerow.server.models import Slot


@pytest.fixture
def serve(tmp_path, running):
    """``serve(script)`` → a client of a server with the script as ``assistant`` and a real model as ``add``."""
    support.write_add(tmp_path / "add", 1.0)

    def start(script: Script | None = None, **limits) -> httpx.Client:
        def prepare(plane) -> None:
            plane._slots["add"] = Slot("add", served(backends.load(tmp_path / "add", threads=1), "add"))
            plane._slots["assistant"] = Slot("assistant", served(script or Script(["Hi", " there", "."])))

        server = support.InProcess(prepare, tmp_path, Limits(**limits))
        client = httpx.Client(base_url=server.url, timeout=support.PATIENCE_S)
        client.server = server
        running.insert(0, client)
        running.insert(0, server)
        return client

    return start


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """One server for all that only ask."""
    folder = tmp_path_factory.mktemp("add")
    support.write_add(folder, 1.0)

    def prepare(plane) -> None:
        plane._slots["add"] = Slot("add", served(backends.load(folder, threads=1), "add"))
        plane._slots["assistant"] = Slot("assistant", served(Script(["Hi", " there", "."])))

    server = support.InProcess(prepare, folder, Limits(body_bytes=100_000))
    with httpx.Client(base_url=server.url, timeout=support.PATIENCE_S) as client:
        client.server = server
        yield client
    server.close()
