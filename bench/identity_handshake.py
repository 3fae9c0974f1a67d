"""What a mutual-TLS handshake costs: ours (TLS 1.3, P-256, strict, revocation looked up) beside bare OpenSSL.

    .venv/bin/python bench/identity_handshake.py [--handshakes 300] [--revoked 1000] [--json]

Both on loopback, one after the other, no resumption. Ours: the inference server's TLS and HTTP protocol with an empty
application, asked by Python's ssl; its CPU is the server process's. Bare: ``openssl s_server`` with the same
certificates, asked by the same client, so that the client's part is equal. A request follows each handshake in both:
in TLS 1.3 the client's certificate is judged after the client's own part is over. No bar: the figure is stated.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import platform
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from hedgerow.identity import certificates
from hedgerow.identity.authority import build
from hedgerow.identity.profiles import DeviceNames, Profile

FLEET, SITE = "bench", "hall"
NAME = f"pi-1.{SITE}.{FLEET}"
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--handshakes", type=int, default=300)
    parser.add_argument("--revoked", type=int, default=1000, help="certificates on the list that ours goes by")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        _serve(options.serve)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make(folder, options.revoked)
        result: dict[str, Any] = {"machine": platform.machine(), "library": ssl.OPENSSL_VERSION}
        for kind, command in (
            ("ours", [sys.executable, __file__, "--serve", str(folder)]),
            ("openssl", _s_server(folder)),
        ):
            result[kind] = _measure(folder, command, options.handshakes)
    result["cpu_ratio"] = round(result["ours"]["server_cpu_ms"] / result["openssl"]["server_cpu_ms"], 2)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['library']}, {result['machine']}; {options.handshakes} handshakes, {options.revoked} revoked")
    for kind in ("ours", "openssl"):
        found = result[kind]
        print(
            f"{kind:8} {found['server_cpu_ms']:.2f} ms CPU of the server, latency median {found['median_ms']:.2f} ms, "
            f"p95 {found['p95_ms']:.2f} ms"
        )


def _measure(folder: Path, command: list[str], count: int) -> dict[str, float]:
    port = _free_port()
    server = subprocess.Popen(
        [part.replace("PORT", str(port)) for part in command],
        env={**os.environ, "BENCH_PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(folder / "ca.crt")
        context.load_cert_chain(folder / "client.crt", folder / "client.key")
        _until(server, lambda: _ask(port, context) > 0)
        for _ in range(20):
            _ask(port, context)
        before = _cpu_s(server.pid)
        times = sorted(_ask(port, context) for _ in range(count))
        spent = _cpu_s(server.pid) - before
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)
    return {
        "server_cpu_ms": round(spent / count * 1000, 3),
        "median_ms": round(statistics.median(times) * 1000, 3),
        "p95_ms": round(times[int(count * 0.95)] * 1000, 3),
    }


def _ask(port: int, context: ssl.SSLContext) -> float:
    """Seconds from the connection to the first byte of the answer."""
    began = time.perf_counter()
    with (
        socket.create_connection(("127.0.0.1", port), 20) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        # Else the request waits 40 ms for the handshake's last part to be acknowledged (Nagle), in both.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(f"GET / HTTP/1.0\r\nHost: {NAME}\r\n\r\n".encode())
        if not connection.recv(1):
            raise ConnectionResetError("no answer")
        return time.perf_counter() - began


def _serve(folder: Path) -> None:
    from hedgerow.server.config import Address, Limits
    from hedgerow.server.sockets import listen
    from hedgerow.server.tls import ServerTls
    from hedgerow.server.web import Listener, Server, uvicorn_config

    async def hello(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hello"})

    tls = ServerTls(folder / "device.crt", folder / "device.key", folder / "ca.crt", crl=folder / "crl.pem")
    listener = Listener(listen(Address("127.0.0.1", int(os.environ["BENCH_PORT"]))), hello, tls)

    async def run() -> None:
        server = Server(uvicorn_config(listener, Limits(drain_s=1.0)))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, setattr, server, "should_exit", True)  # noqa: FBT003
        await server.serve(sockets=[listener.socket])

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def _s_server(folder: Path) -> list[str]:
    files = ["-cert", "leaf.crt", "-key", "device.key", "-cert_chain", "issuing.crt", "-CAfile", "ca.crt"]
    paths = [str(folder / part) if "." in part else part for part in files]
    return ["openssl", "s_server", "-accept", "PORT", "-www", "-tls1_3", "-Verify", "3", "-num_tickets", "0",
            "-no_ticket", "-x509_strict", *paths]  # fmt: skip


def _make(folder: Path, revoked: int) -> None:
    """A root, an issuing CA, a device, a client, and a list."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    root_key, issuing_key = certificates.new_key(), certificates.new_key()
    root = build.build_root(root_key, FLEET, now=now)
    issuing = build.build_issuing(root, root_key, issuing_key.public_key(), site=None, now=now)
    (folder / "ca.crt").write_text(certificates.pem(root))
    (folder / "issuing.crt").write_text(certificates.pem(issuing))
    names = DeviceNames(fleet=FLEET, site=SITE, host="pi-1", serial="0000000000000001")
    for stem, profile, cn, sans in (
        ("device", Profile.DEVICE, names.serial, certificates.device_sans(names, Profile.DEVICE)),
        ("client", Profile.CLIENT, "bench", certificates.client_sans(FLEET, Profile.CLIENT)),
    ):
        key = certificates.new_key()
        leaf = certificates.build_leaf(
            ca=issuing,
            ca_key=issuing_key,
            public_key=key.public_key(),
            profile=profile,
            name=certificates.subject(FLEET, profile, cn),
            sans=sans,
            not_before=now - dt.timedelta(hours=1),
            not_after=now + dt.timedelta(days=1),
        )
        (folder / f"{stem}.key").touch(mode=0o600)
        (folder / f"{stem}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (folder / f"{stem}.crt").write_text(certificates.pem(leaf) + certificates.pem(issuing))
        if stem == "device":
            (folder / "leaf.crt").write_text(certificates.pem(leaf))
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuing.subject)
    builder = builder.last_update(now).next_update(now + dt.timedelta(days=1))
    for _ in range(revoked):
        gone = x509.RevokedCertificateBuilder().serial_number(x509.random_serial_number()).revocation_date(now)
        builder = builder.add_revoked_certificate(gone.build())
    text = builder.sign(issuing_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (folder / "crl.pem").write_bytes(text)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _until(server: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if condition():
                return
        except OSError:  # ssl's errors, too: it is not there yet
            time.sleep(0.05)
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the server did not come up (exit {server.poll()})")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
