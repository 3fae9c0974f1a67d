"""What ``/etc/hedgerow/server.yml`` may say. An unknown key is an error that names it."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Struct

from hedgerow import configfile
from hedgerow.device import application_state, heartbeat
from hedgerow.device.change import configuration_version
from hedgerow.errors import UsageError
from hedgerow.identity.tls import CRL
from hedgerow.server.batching import Batching
from hedgerow.server.clients import PerClient
from hedgerow.server.computing import Provider
from hedgerow.server.degradation import Policy
from hedgerow.server.fallback.config import FallbackConfig
from hedgerow.server.telemetry.config import Telemetry

LOOPBACK_HTTP = "127.0.0.1:8000"


# TCP's; 0 has the system choose a free one.
_MOST_PORT = 65535
Port = Annotated[int, msgspec.Meta(ge=0, le=_MOST_PORT)]


def _check_ip(address: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise ValueError(f"address is {address!r}, not an IP address") from error


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MOST_PORT):
        raise ValueError("no port")
    return int(text)


class Address(Struct, frozen=True, forbid_unknown_fields=True):
    """Where to listen. ``address`` is an IP address."""

    address: str
    port: Port

    def __post_init__(self) -> None:
        _check_ip(self.address)

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``127.0.0.1:8000`` or ``[::1]:8000``.

        Raises:
            UsageError: it is none.
        """
        address, _, port = text.rpartition(":")
        try:
            return cls(str(ipaddress.ip_address(address.strip("[]"))), _port(port))
        except ValueError as error:
            raise UsageError(f"{text!r} is no address and port", next_step=f"write it like {LOOPBACK_HTTP}") from error

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Tls(Struct, frozen=True, forbid_unknown_fields=True):
    """Mutual TLS. A relative path is a credential (``credential``): a copy that the server's unit makes for it.

    ``crl``: the lists of revoked certificates, looked at while the server runs; where there is no such file, or null,
    no certificate is. No credential: those are copies of what there was at the start.
    """

    address: str = "0.0.0.0"  # noqa: S104 - every caller must show a certificate of the fleet
    port: Port = 8443
    certificate: str = "device.crt"
    key: str = "device.key"
    client_ca: str = "ca.crt"
    crl: Path | None = CRL

    def __post_init__(self) -> None:
        _check_ip(self.address)

    @property
    def listen(self) -> Address:
        return Address(self.address, self.port)


class GrpcTls(Tls, frozen=True, forbid_unknown_fields=True):
    """The same for gRPC, on the port that the fleet's firewall knows."""

    port: Port = 8444


_Positive = Annotated[int, msgspec.Meta(ge=1)]


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds that keep one caller from starving the rest.

    ``body_bytes`` of a request with tensors, ``json_bytes`` of its JSON part; ``generations`` that share the model;
    ``queue`` of requests waiting for their turn; ``max_tokens`` of one answer; ``drain_s`` that running requests may
    take when the server stops; ``answer_s`` that any one may take, waiting included. ``client``: what each client may
    ask, by its certificate.
    """

    body_bytes: _Positive = 64 * 1024 * 1024
    json_bytes: _Positive = 16 * 1024 * 1024
    generations: _Positive = 4
    queue: Annotated[int, msgspec.Meta(ge=0)] = 16
    max_tokens: _Positive = 2048
    drain_s: Annotated[float, msgspec.Meta(ge=0)] = 20.0
    answer_s: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    client: PerClient = PerClient()

    @property
    def json_body_bytes(self) -> int:
        """Of a body that is JSON alone."""
        return min(self.json_bytes, self.body_bytes)

    def timeout_s(self, wanted_s: float | None) -> float:
        """Seconds that a request may take, waiting included: its own limit, and never more than the server's."""
        return self.answer_s if wanted_s is None else min(wanted_s, self.answer_s)


class BatchingConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that are computed together: rows of a batch, and milliseconds that the first of them waits for others.

    Off (1) until someone who knows the model turns it on: its first axis must be the batch, and rows must not mix.
    """

    max_batch: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    max_delay_ms: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0

    @property
    def policy(self) -> Batching:
        return Batching(self.max_batch, self.max_delay_ms / 1000)


class ServerConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The server of one device.

    ``models_dir/<model>/current`` is what it serves. ``http`` and ``grpc`` are plain and on loopback, ``https`` and
    ``grpcs`` mutual TLS; None is not served. ``threads`` for one model: None leaves a core to the rest of the
    system where there are more than two. ``providers`` are ONNX Runtime's, best first; the CPU is always the last.
    ``isolate``: the model is computed in a process of its own.
    ``degradation``: what the server does less of on a board under pressure; null is nothing. ``fallback``: which
    text requests may go to a cloud endpoint (docs/fallback.md). ``telemetry``: what it tells of requests
    (docs/telemetry.md). ``activation_dir`` is where ``hedgerow-device`` keeps its pending state, ``heartbeat`` what
    its agent says of itself, ``applications`` how those were that run beside the server.
    """

    host: str
    serial: str
    fleet: str
    site: str
    model: str
    models_dir: Path = Path("/var/lib/hedgerow/models")
    activation_dir: Path = Path("/var/lib/hedgerow/activation")
    http: Address | None = Address("127.0.0.1", 8000)
    https: Tls | None = Tls()
    grpc: Address | None = Address("127.0.0.1", 8001)
    grpcs: GrpcTls | None = GrpcTls()
    control_socket: Path | None = Path("/run/hedgerow/server.sock")
    heartbeat: Path = heartbeat.FILE
    applications: Path = application_state.FILE
    threads: _Positive | None = None
    providers: tuple[Provider, ...] = ()
    isolate: bool = False
    limits: Limits = Limits()
    batching: BatchingConfig = BatchingConfig()
    degradation: Policy | None = Policy()
    fallback: FallbackConfig | None = None
    telemetry: Telemetry = Telemetry()

    def __post_init__(self) -> None:
        for key, address in (("http", self.http), ("grpc", self.grpc)):
            if address is not None and not address.is_loopback:
                raise ValueError(
                    f"{key} listens without authentication, so on loopback alone; {address.address} is not"
                )


def load(path: Path) -> ServerConfig:
    """Read the configuration. Raises as ``read``."""
    return read(path)[0]


def read(path: Path) -> tuple[ServerConfig, str]:
    """The configuration and its version, of the same bytes.

    Raises:
        UsageError: no such file, or a key or value that is not allowed, named with its path.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the configuration cannot be read: {error.strerror}", where=str(path)) from error
    return decode(data, where=str(path)), configuration_version(data)


def decode(data: bytes, *, where: str) -> ServerConfig:
    """Read a configuration that is no file yet. Raises as ``read``."""
    try:
        return configfile.decode(data, ServerConfig)
    except msgspec.DecodeError as error:
        raise UsageError(
            f"the configuration is not valid: {error}",
            where=where,
            next_step="compare it with the keys in hedgerow.server.config.ServerConfig",
        ) from error


IDENTITY_VARIABLE = "HEDGEROW_IDENTITY_DIRECTORY"


def credential(name: str) -> Path:
    """The file of a key or certificate; relative names are the unit's copies.

    Those of ``$HEDGEROW_IDENTITY_DIRECTORY`` come first: a reload of the unit brings them anew, while what
    ``LoadCredential=`` put into ``$CREDENTIALS_DIRECTORY`` stays as it was at the start.

    Raises:
        UsageError: relative, in no such folder, and no ``$CREDENTIALS_DIRECTORY``.
    """
    path = Path(name)
    if path.is_absolute():
        return path
    renewed = os.environ.get(IDENTITY_VARIABLE)
    if renewed is not None and (Path(renewed) / path).is_file():
        return Path(renewed) / path
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory is None:
        raise UsageError(
            f"{name} is a systemd credential, and $CREDENTIALS_DIRECTORY is not set",
            next_step="start the server by its unit, or give absolute paths",
        )
    return Path(directory) / path
