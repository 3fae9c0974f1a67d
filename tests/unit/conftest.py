"""A device's server in this process: real TLS 1.3 and client certificates, real paths; tests set the answers."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hedgerow import emulator, paths
from hedgerow.emulator import values as live
from hedgerow.emulator.board import Board
from hedgerow.emulator.hardware_root import HardwareRoot
from hedgerow.fleet.endpoint import Endpoint
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import DeviceNames, Profile

FLEET, SITE = "meadow-unit", "orchard"

REPORT = {
    "schema": 1,
    "status": "ok",
    "reasons": [],
    "model": {"name": "assistant", "version": "1.0.0", "sha256": "5a" * 32, "since": "2026-11-21T12:00:00Z"},
    "board": {"model": "Raspberry Pi 5 Model B Rev 1.1", "temperature_c": 48.25, "disk_free_mb": 5000},
    "hat": {"kind": "hat-plus-2", "temperature_c": 44.0},
    "serving": {"tokens_per_s": 11.52, "ttft_p95_ms": 240.4},
    "pending": None,
}


Answer = tuple[int, str, bytes]


class FakePi:
    """A listening server. ``answers`` maps path → (status, content type, body), or a function of none."""

    def __init__(self, folder: Path, ca: FleetCA, name: str, number: int, address: tuple[str, int]) -> None:
        self.name = name
        self.answers: dict[str, Answer | Callable[[], Answer]] = {}
        self.seen: list[tuple[str, str, object, dict[str, object]]] = []
        self.report(REPORT)
        self._server = _Server(address, self._handler())
        self._server.socket = _context(folder, ca, name, number).wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def endpoint(self) -> Endpoint:
        address, port = self._server.server_address[:2]
        return Endpoint(self.name, str(address), f"{self.name}.{SITE}.{FLEET}", port)

    def report(self, document: dict[str, object], status: int = 200) -> None:
        self.answers["/health/report"] = (status, "application/json", json.dumps(document).encode())

    def says(self, *events: object) -> None:
        lines = [f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events]
        self.answers["/v1/chat/completions"] = (200, "text/event-stream", "".join(lines).encode())

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        pi = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                subject = dict(part[0] for part in self.connection.getpeercert()["subject"])
                pi.seen.append((self.command, self.path, body, subject))
                answer = pi.answers.get(self.path, (404, "text/plain", b"no such path"))
                status, kind, data = answer() if callable(answer) else answer
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET  # noqa: N815 - the base class's name

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Stay quiet."""

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A refused handshake is what some tests are about."""


def _context(folder: Path, ca: FleetCA, name: str, number: int) -> ssl.SSLContext:
    serial = f"{number:016x}"
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, serial)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    names = DeviceNames(fleet=FLEET, site=SITE, host=name, serial=serial)
    (folder / "device.crt").write_text(ca.sign_csr(pem, Profile.DEVICE, names))
    (folder / "device.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca.folder / "ca.crt")
    context.load_cert_chain(folder / "device.crt", folder / "device.key")
    return context


@pytest.fixture
def fleet_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FleetCA:
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    return FleetCA.init(paths.fleet_dir(FLEET), FLEET)[0]


@pytest.fixture
def make_pi(tmp_path: Path, fleet_ca: FleetCA):
    running: list[FakePi] = []

    def make(name: str = "pi-1", address: tuple[str, int] = ("127.0.0.1", 0)) -> FakePi:
        folder = tmp_path / name
        folder.mkdir()
        running.append(FakePi(folder, fleet_ca, name, len(running) + 1, address))
        return running[-1]

    yield make
    for pi in running:
        pi.stop()


@pytest.fixture
def pi(make_pi) -> FakePi:
    return make_pi()


GUEST = Path(emulator.__file__).parent / "guest"
CLAIMS = {"hailo1x_pci": ("26a2", "43a2", "45c4"), "hailo_pci": ("2864",)}


class HatGuest:
    """A board with a HAT below a folder, and the guest's own programs; kmod alone is a list of answers.

    ``install`` stands for packages and dkms, ``boot`` for power, ``npu`` for modprobe, rmmod, udevadm and the rest.
    """

    def __init__(self, folder: Path, hat: str) -> None:
        self.folder = folder
        self.root = HardwareRoot(folder / "pi", Board(serial="00000000deadbeef", hat=hat, cooling="active"))
        self.root.create(live.defaults(hat, "active"), "ssh-ed25519 AAAA")
        self.hardware = self.root.path
        for name in ("bin", "kmod", "run", "devices", "modules", "firmware", "lib", "rules", "boot"):
            (folder / name).mkdir()
        self.latch = folder / "npu-firmware"
        shutil.copy(GUEST / "image/boot/firmware/config.txt", folder / "config.txt")
        (folder / "vcio_gencmd").touch()
        for name in ("npu", "modprobe", "modinfo"):
            self._program(name)
        self._program("vcgencmd")
        self.boot()

    def _program(self, name: str) -> None:
        sources = {
            "npu": GUEST / "image/usr/lib/emulated-pi/npu",
            "vcgencmd": GUEST / "image/usr/bin/vcgencmd",
            "hailortcli": GUEST / "hat-stack/hailortcli",
        }
        if name in {"modprobe", "modinfo"}:
            # What was installed is a file of modinfo's words; what modprobe finds is a list of such files by name.
            answer = (
                'cat "$1"' if name == "modinfo" else f'for last; do :; done; cat "{self.folder}/kmod/$last" 2>/dev/null'
            )
            self._write(self.folder / "kmod" / name, f"#!/bin/sh\n{answer}\n:\n")
            return
        text = sources[name].read_text().replace("#!/usr/bin/python3", f"#!{sys.executable}")
        for old, new in {
            "/hardware": str(self.hardware),
            "/run/emulated-pi/config.txt": str(self.folder / "config.txt"),
            "/run/emulated-pi": str(self.folder / "run"),
            "/var/lib/emulated-pi/npu-firmware": str(self.latch),
            "/lib/firmware/hailo": str(self.folder / "firmware"),
            "/usr/lib/udev/rules.d": str(self.folder / "rules"),
            "/etc/udev/rules.d": str(self.folder / "no-rules"),
            "/usr/lib/libhailort.so": str(self.folder / "lib/libhailort.so"),
            '"/usr/sbin/"': f'"{self.folder / "kmod"}/"',
            'Path("/dev")': f'Path("{self.folder / "devices"}")',
            '"/dev/vcio_gencmd"': f'"{self.folder / "vcio_gencmd"}"',
            "os.mknod(node, 0o600 | 0o020000, os.makedev(1, 3))": "node.touch()",
        }.items():
            text = text.replace(old, new)
        self._write(self.folder / "bin" / name, text)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def install(self, module: str, version: str, *, claims: tuple[str, ...] | None = None, options: str = "") -> None:
        """The stack of one chip: module built, library, firmware and udev's rule."""
        file = self.folder / "modules" / f"{module}.ko.xz"
        ids = CLAIMS[module] if claims is None else claims
        aliases = "".join(f"alias:          pci:v00001E60d0000{one.upper()}sv*sd*bc*sc*i*\n" for one in ids)
        parameters = "parm:           force_desc_page_size:int\n"
        file.write_text(
            f"filename:       {file}\nversion:        {version}\nname:           {module}\n{aliases}{parameters}"
        )
        insmod = f"insmod {file} {options}".rstrip() + "\n"
        (self.folder / "kmod" / module).write_text(insmod)
        for one in ids:
            chip = one.upper()
            with (self.folder / "kmod" / f"pci:v00001E60d0000{chip}sv00001E60sd0000{chip}bc0Bsc40i00").open(
                "a"
            ) as answer:
                answer.write(insmod)
        h10 = module == "hailo1x_pci"
        names = ("customer_certificate.bin", "scu_fw.bin", "u-boot-default.dtb.signed", "u-boot-spl.bin",
                 "u-boot-tfa.itb", "fitImage", "image-fs") if h10 else ("hailo8_fw.bin",)  # fmt: skip
        for name in names:
            target = self.folder / "firmware" / (f"hailo10h/{name}" if h10 else name)
            target.parent.mkdir(exist_ok=True)
            target.write_text(f"stand-in of {name} {version}\n")
        (self.folder / "rules/51-hailo-udev.rules").write_text('SUBSYSTEM=="hailo_chardev", MODE="0666"\n')
        link = self.folder / "lib/libhailort.so"
        link.unlink(missing_ok=True)
        link.symlink_to(f"libhailort.so.{version}")
        self._program("hailortcli")

    def uninstall(self) -> None:
        for file in [*(self.folder / "kmod").glob("hailo*"), *(self.folder / "kmod").glob("pci:*")]:
            file.unlink()

    def boot(self, *, cold: bool = True) -> None:
        (self.folder / "run/boot").write_text("cold\n" if cold else "warm\n")
        assert self.npu("boot").returncode == 0

    def npu(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("npu", *words)

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.folder / "bin" / program, *words], capture_output=True, text=True, check=False)

    def set(self, **settings: str) -> None:
        """Live values, and what the emulator does after them."""
        self.root.write(live.changed(self.root.read(), settings, host="test"))
        done = self.npu("sync")
        assert done.returncode == 0, done.stderr

    def log(self) -> str:
        return (self.hardware / "dev/kmsg").read_text()

    @property
    def path(self) -> str:
        """PATH of a host: the guest's programs, with kmod's."""
        return f"{self.folder / 'bin'}{os.pathsep}{self.folder / 'kmod'}"


@pytest.fixture
def hat_guest(tmp_path: Path) -> Callable[[str], HatGuest]:
    """Make a board with the given HAT; nothing is installed on it."""
    return lambda hat: HatGuest(tmp_path / "hat", hat)
