"""A gateway that caches an origin: nginx itself, the role's own template, and a bucket that says what it was asked."""

from __future__ import annotations

import http.client
import importlib.util
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gateway_nginx import NGINX, rendered
from origin import NAME as ORIGIN_NAME
from origin import Origin, make_identity

from hedgerow.converge import origin as origins
from hedgerow.identity.profiles import Profile
from hedgerow.registry.source import HttpsSource, TlsFiles

PATIENCE_S = 30.0


def _support() -> Any:
    path = Path(__file__).parents[1] / "server" / "tls_support.py"
    if "tls_support" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tls_support", path)
        sys.modules["tls_support"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["tls_support"])
    return sys.modules["tls_support"]


support = _support()
ASKED: dict[str, Any] = {
    "origin_ca": None,
    "origin_name": None,
    "origin_certificate": False,
    "origin_resolvers": [],
    "metadata_s": 1,
    "cache_mb": 64,
    "cache_free_mb": 0,
}


@dataclass(frozen=True)
class Answer:
    status: int
    data: bytes
    headers: dict[str, str]


class Names:
    """A name server for one name; ``silent``: it hears and says nothing."""

    def __init__(self, name: str) -> None:
        self.silent = False
        self._name = name.encode()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                query, peer = self._socket.recvfrom(512)
            except OSError:
                return
            if self.silent:
                continue
            question = query[12 : query.index(b"\0", 12) + 5]
            is_ours = b".".join(_labels(question)) == self._name and question[-4:-2] == b"\0\1"
            # RFC 1035, section 4.1: an answer with one A record that lives a second, or with none.
            head = query[:2] + struct.pack("!HHHHH", 0x8180, 1, int(is_ours), 0, 0)
            record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 1, 4) + socket.inet_aton("127.0.0.1")
            self._socket.sendto(head + question + (record if is_ours else b""), peer)

    def close(self) -> None:
        self._socket.close()


def _labels(question: bytes) -> Iterator[bytes]:
    at = 0
    while question[at]:
        yield question[at + 1 : at + 1 + question[at]]
        at += 1 + question[at]


class Gateway:
    """nginx on loopback as this user, in front of ``origin``."""

    def __init__(self, folder: Path, signer: Any, origin: str, *, name: str | None, **variables: Any) -> None:
        self.folder, self.signer = folder, signer
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.cache = folder / "registry-cache"
        host, serial = variables.pop("host", "gw-1"), variables.pop("serial", "00000000000000a1")
        self.name = f"{host}.{support.SITE}.{support.FLEET}"
        _identity(folder / "server", signer, host=host, serial=serial)
        asked = ASKED | {"origin": origin, "origin_name": name, "origin_ca": "given"}
        asked |= {key: variables.pop(key) for key in tuple(variables) if key in ASKED}
        found = origins.plan(asked, host=host, found=[], nameservers=["192.0.2.1"])
        if found["resolvers"]:
            found["resolvers"] = [f"127.0.0.1:{variables.pop('names').port}", "ipv6=off"]
        found["trusted"] = str(folder / "origin-ca.crt")
        self.variables = {
            "registry_mirror_origin": origin,
            "registry_mirror_metadata_s": asked["metadata_s"],
            "registry_mirror_cache_mb": asked["cache_mb"],
            "registry_mirror_cache_free_mb": asked["cache_free_mb"],
            "_registry_mirror_origin": found,
        } | variables
        text = rendered(folder, self.port, fleet=support.FLEET, site=support.SITE, host=host, **self.variables)
        (folder / "nginx.conf").write_text(text)
        self.start()

    def start(self) -> None:
        command = [NGINX, "-p", self.folder, "-c", self.folder / "nginx.conf", "-e", self.folder / "error.log"]
        self._child = subprocess.Popen(command)
        until(lambda: socket.create_connection(("127.0.0.1", self.port), 1).close() is None, self._alive)

    def _alive(self) -> None:
        assert self._child.poll() is None, self.log

    @property
    def log(self) -> str:
        return (self.folder / "error.log").read_text()

    def ask(self, path: str, *, pair: Any = None, method: str = "GET", **headers: str) -> Answer:
        """As a device, unless ``pair`` is somebody else's."""
        context = support.caller(pair or self._device(), self.signer.root)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.sock = context.wrap_socket(
            socket.create_connection(("127.0.0.1", self.port), PATIENCE_S), server_hostname=self.name
        )
        try:
            connection.request(method, path, headers={"Host": self.name, **headers})
            response = connection.getresponse()
            return Answer(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})
        finally:
            connection.close()

    def part(self, path: str, first: int, last: int) -> Answer:
        return self.ask(path, Range=f"bytes={first}-{last}")

    def source(self) -> HttpsSource:
        """The device's own way to a registry."""
        pair = self._device()
        files = TlsFiles(pair.certificate, pair.key, self.folder / "server" / "ca.crt")
        return HttpsSource(f"https://127.0.0.1:{self.port}/", files, server_name=self.name)

    def kept(self, path: str) -> list[Path]:
        """Files of the cache that hold ``path``, whole or a slice of it."""
        wanted = re.compile(rb"\nKEY: (https://\S+ )?" + re.escape(path.encode()) + rb"(bytes=\d+-\d+)?\n")
        return sorted(
            file for file in self.cache.rglob("*") if file.is_file() and wanted.search(file.read_bytes()[:1024])
        )

    def _device(self) -> Any:
        self._pair = getattr(self, "_pair", None) or self.signer.issue(Profile.DEVICE)
        return self._pair

    def stop(self) -> None:
        self._child.send_signal(signal.SIGTERM)
        self._child.wait(PATIENCE_S)


def _identity(folder: Path, signer: Any, **names: str) -> None:
    """A gateway's own files, as the role device_identity leaves them."""
    folder.mkdir()
    pair = signer.issue(Profile.GATEWAY, **names)
    pair.key.replace(folder / "device.key")
    pair.certificate.replace(folder / "device.crt")
    (folder / "ca.crt").write_text(support.certificates.pem(signer.root))


def until(condition: Callable[[], Any], alive: Callable[[], None] = lambda: None) -> None:
    """Wait for it; what fails on the way is asked again."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if condition():
                return
        except (OSError, ssl.SSLError):
            pass
        alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    return make_identity(tmp_path / "origin-identity")


@pytest.fixture
def bucket(tmp_path: Path, identity: Path) -> Iterator[Origin]:
    """An origin with the registry at the prefix ``/meadow``."""
    (tmp_path / "bucket" / "meadow").mkdir(parents=True)
    made = Origin(tmp_path / "bucket", identity)
    yield made
    made.stop()


@pytest.fixture
def names() -> Iterator[Names]:
    made = Names(ORIGIN_NAME)
    yield made
    made.close()


@pytest.fixture
def caching(tmp_path: Path, bucket: Origin) -> Iterator[Callable[..., Gateway]]:
    """Start a gateway in front of the bucket, which it reaches by address unless ``origin`` says otherwise."""
    started: list[Gateway] = []

    def start(**variables: Any) -> Gateway:
        folder = tmp_path / f"gateway-{len(started)}"
        folder.mkdir()
        shutil.copy(variables.pop("authority", bucket.identity / "ca.crt"), folder / "origin-ca.crt")
        signer = variables.pop("signer", None) or support.Signer.single(tmp_path)
        origin = variables.pop("origin", f"https://127.0.0.1:{bucket.port}/meadow/")
        name = variables.pop("name", ORIGIN_NAME)
        started.append(Gateway(folder, signer, origin, name=name, **variables))
        return started[-1]

    yield start
    for gateway in started:
        gateway.stop()
