"""A device's ``Activation``, put together of what its configuration says; what runs it, and where its versions lie."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from hedgerow.device import links
from hedgerow.device.activation import Activation
from hedgerow.device.application import ApplicationSlot, SocketApplicationSwitcher
from hedgerow.device.change import Change
from hedgerow.device.config import DeviceConfig
from hedgerow.device.control import ControlSocket
from hedgerow.device.restarting import CONFIRMED, FILE, ConfigurationSlot, RuntimeSlot, Service
from hedgerow.device.slots import Slot
from hedgerow.device.switcher import SocketSwitcher


def activation_of(config: DeviceConfig) -> Activation:
    """Commands over everything that has versions on this device."""
    server = ControlSocket(config.control_socket)
    service = Service(server, SocketSwitcher(config.switch_socket), config.models_dir / config.serving_model)
    file = config.configuration_dir / links.CURRENT / FILE
    runtime = RuntimeSlot(config.runtime_dir, service, configuration=file)
    configuration = ConfigurationSlot(config.configuration_dir, service, identity(config))
    others: tuple[Slot, ...] = (runtime, configuration, *_applications(config))
    return Activation(config.models_dir, config.activation_dir, server, others=others)


def _applications(config: DeviceConfig) -> Iterator[ApplicationSlot]:
    switcher = SocketApplicationSwitcher(config.application_socket)
    for name in config.applications:
        yield ApplicationSlot(name, config.application_dir / name, config.applications_dir / name, switcher)


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
    """The folder with the links and versions of what ``change`` is a version of."""
    homes = {
        "runtime": config.runtime_dir,
        "configuration": config.configuration_dir,
        "application": config.application_dir / change.name,
    }
    return homes.get(change.kind, config.models_dir / change.name)


def bundle_home(config: DeviceConfig, change: Change) -> Path:
    """Where bundles come to from the registry: a model's beside its links, an application's in a store of its own."""
    return (config.applications_dir if change.kind == "application" else config.models_dir) / change.name


def outdated(config: DeviceConfig, prefix: Path | None = None) -> bool:
    """Whether this process (``prefix`` is its runtime) runs in one that is no longer the confirmed one."""
    confirmed = links.target(config.runtime_dir, CONFIRMED)
    own = prefix or Path(sys.prefix)
    return confirmed is not None and own.parent == config.runtime_dir and own.name != confirmed
