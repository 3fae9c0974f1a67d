"""A device's ``Activation``, put together of what its configuration says; what runs it, and where its versions lie."""

from __future__ import annotations

import sys
from pathlib import Path

from hedgerow.device import links
from hedgerow.device.activation import Activation
from hedgerow.device.change import Change
from hedgerow.device.config import DeviceConfig
from hedgerow.device.control import ControlSocket
from hedgerow.device.restarting import CONFIRMED, FILE, ConfigurationSlot, RuntimeSlot, Service
from hedgerow.device.switcher import SocketSwitcher


def activation_of(config: DeviceConfig) -> Activation:
    """Commands over everything that has versions on this device."""
    server = ControlSocket(config.control_socket)
    service = Service(server, SocketSwitcher(config.switch_socket), config.models_dir / config.serving_model)
    file = config.configuration_dir / links.CURRENT / FILE
    runtime = RuntimeSlot(config.runtime_dir, service, configuration=file)
    configuration = ConfigurationSlot(config.configuration_dir, service, identity(config))
    return Activation(config.models_dir, config.activation_dir, server, restarting=(runtime, configuration))


def identity(config: DeviceConfig) -> dict[str, str]:
    """What a server's configuration has to say of this device."""
    return {
        "fleet": config.fleet,
        "site": config.site,
        "host": config.host,
        "serial": config.serial,
        "model": config.serving_model,
    }


def slot_home(config: DeviceConfig, change: Change) -> Path:
    """The folder with the versions of what ``change`` is a version of."""
    homes = {"runtime": config.runtime_dir, "configuration": config.configuration_dir}
    return homes.get(change.kind, config.models_dir / change.name)


def outdated(config: DeviceConfig, prefix: Path | None = None) -> bool:
    """Whether this process (``prefix`` is its runtime) runs in one that is no longer the confirmed one."""
    confirmed = links.target(config.runtime_dir, CONFIRMED)
    own = prefix or Path(sys.prefix)
    return confirmed is not None and own.parent == config.runtime_dir and own.name != confirmed
