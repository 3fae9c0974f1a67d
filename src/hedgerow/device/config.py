"""What ``/etc/hedgerow/device.yml`` may say. An unknown key is an error that names it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from hedgerow import configfile
from hedgerow.device.identity.config import IdentityConfig
from hedgerow.device.store.config import StoreConfig
from hedgerow.device.watchdog import AgentConfig
from hedgerow.errors import UsageError

DEFAULT_PATH = Path("/etc/hedgerow/device.yml")


class TlsPaths(Struct, frozen=True, forbid_unknown_fields=True):
    """PEM files of this device's identity."""

    certificate: Path = Path("/var/lib/hedgerow/identity/device.crt")
    key: Path = Path("/var/lib/hedgerow/identity/device.key")
    ca: Path = Path("/var/lib/hedgerow/identity/ca.crt")


class DeviceConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One device.

    ``registry_url`` is where bundles come from; ``registry_name`` is the name that its certificate must have (None: the
    URL's host). ``reserve_mb`` stays free on the disk beside models. ``confirm_within_s`` is the deadline of an
    activation that names none. ``agent`` is how the model in service is watched. ``runtime_dir`` and
    ``configuration_dir`` have the versions of what the server is started with. ``applications`` are the names of those
    that run beside it: their bundles come to ``applications_dir``, their versions are placed in ``application_dir``,
    and ``application_socket`` has them started. ``store`` is what is kept, and how it is fetched in deltas.
    ``identity`` is how the device renews its certificate.
    """

    fleet: str
    site: str
    host: str
    serial: str
    registry_url: str
    serving_model: str
    registry_name: str | None = None
    tls: TlsPaths = TlsPaths()
    models_dir: Path = Path("/var/lib/hedgerow/models")
    activation_dir: Path = Path("/var/lib/hedgerow/activation")
    trust_dir: Path = Path("/var/lib/hedgerow/trust")
    runtime_dir: Path = Path("/opt/hedgerow/runtime")
    configuration_dir: Path = Path("/var/lib/hedgerow/configuration")
    control_socket: Path = Path("/run/hedgerow/server.sock")
    switch_socket: Path = Path("/run/hedgerow-switch.sock")
    applications: tuple[str, ...] = ()
    applications_dir: Path = Path("/var/lib/hedgerow/applications")
    application_dir: Path = Path("/opt/hedgerow/applications")
    application_socket: Path = Path("/run/hedgerow-applications/switch.sock")
    reserve_mb: int = 64
    confirm_within_s: int = 600
    agent: AgentConfig = AgentConfig()
    store: StoreConfig = StoreConfig()
    identity: IdentityConfig = IdentityConfig()


def load(path: Path) -> DeviceConfig:
    """Read the configuration.

    Raises:
        UsageError: no such file, or a key or value that is not allowed, named with its path.
    """
    try:
        return configfile.decode(path.read_bytes(), DeviceConfig)
    except OSError as error:
        raise UsageError(
            f"the configuration cannot be read: {error.strerror}",
            where=str(path),
            next_step="run as root on a converged device, or name another file with --config",
        ) from error
    except msgspec.DecodeError as error:
        raise UsageError(f"the configuration is not valid: {error}", where=str(path)) from error
