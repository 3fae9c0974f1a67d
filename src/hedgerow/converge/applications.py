"""What a role places for each application that the inventory names: a folder, the links to its unit, its networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from hedgerow.device.application_unit import file_name
from hedgerow.errors import UsageError
from hedgerow.registry.manifest import is_name

ROOT = "/opt/hedgerow/applications"
_UNITS = "/etc/systemd/system"
_WANTS = f"{_UNITS}/multi-user.target.wants"


def places(names: Sequence[str], networks: Mapping[str, Sequence[str]], header: str) -> list[dict[str, Any]]:
    """Entries for ``hedgerow_files``, of each of ``names``. ``networks``: name → what it may talk with beside loopback.

    Raises:
        UsageError: a name is none, a network is none, or one is for an application that this host does not run.
    """
    for name in names:
        if not isinstance(name, str) or not is_name(name):
            raise UsageError(
                f"{name!r} is no name of an application",
                where="applications",
                next_step="write a literal list of bundles' names: applications: [kiosk]",
            )
    for name in sorted(set(networks) - set(names)):
        raise UsageError(
            f"applications_networks has {name}, and this host does not run it",
            where="applications_networks",
            next_step=f"name it, applications: [{name}]; or take its networks away",
        )
    return [entry for name in names for entry in _places(name, networks.get(name, ()), header)]


def _places(name: str, networks: Sequence[str], header: str) -> list[dict[str, Any]]:
    unit = file_name(name)
    of_current = f"{ROOT}/{name}/current/{unit}"
    allowed = "".join(f"IPAddressAllow={_network(name, each)}\n" for each in networks)
    drop_in = f"{_UNITS}/{unit}.d"
    entries: list[dict[str, Any]] = [
        {"directory": f"{ROOT}/{name}"},
        # systemd reads the unit through the link, at every boot; while no version is there, it finds none.
        {"link": f"{_UNITS}/{unit}", "to": of_current},
        {"link": f"{_WANTS}/{unit}", "to": of_current},
    ]
    if not networks:
        return [*entries, {"absent": drop_in}]
    return [
        *entries,
        {"directory": drop_in},
        {"content": f"# {header}\n[Service]\n{allowed}", "dest": f"{drop_in}/50-networks.conf"},
    ]


def _network(name: str, text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no network: {error}",
            where=f"applications_networks of {name}",
            next_step="write it like 192.168.30.0/24",
        ) from error
