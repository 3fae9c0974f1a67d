"""The bridge of an emulated fleet: which addresses it may have, and that it exists."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from hedgerow.emulator import bridge as bridges
from hedgerow.emulator.podman import Podman
from hedgerow.errors import MachineError, UsageError
from hedgerow.inventory import Host, Inventory

# .0 is the network, .1 this machine.
_RESERVED = 2


def of_inventory(inventory: Inventory) -> ipaddress.IPv4Network:
    """``emulator_network`` of the inventory."""
    text = inventory.vars.get("emulator_network")
    try:
        return ipaddress.IPv4Network(str(text))
    except ValueError as error:
        raise UsageError(
            f"emulator_network is {text!r}, not a network",
            where=str(inventory.path),
            next_step="write emulator_network: 10.77.0.0/24 in group_vars/all/emulator.yml",
        ) from error


def check_addresses(network: ipaddress.IPv4Network, hosts: Iterable[Host]) -> None:
    """Raise UsageError for a host that cannot have its address on ``network``."""
    for host in hosts:
        try:
            inside = int(ipaddress.IPv4Address(host.address)) - int(network.network_address)
        except ValueError:
            inside = -1
        if not _RESERVED <= inside < network.num_addresses - 1:
            raise UsageError(
                f"{host.address} is no address that an emulated host can have",
                where=f"{host.name}, ansible_host",
                next_step=f"choose one inside {network}, from {network[_RESERVED]} on",
            )


def ensure(podman: Podman, name: str, network: ipaddress.IPv4Network, *, inventory: Path, in_use: bool) -> None:
    """Make the network unless it is there; ``in_use`` says that hosts of this fleet run on it.

    Raises:
        UsageError: it is there with other addresses.
        MachineError: something else on this machine has these addresses, perhaps the same fleet of another checkout.
    """
    shown = podman.run("network", "inspect", name, check=False)
    own: str | None = None
    if shown.returncode == 0:
        present = json.loads(shown.stdout)[0]
        subnet = present["subnets"][0]["subnet"]
        if subnet != str(network):
            raise UsageError(
                f"the fleet's network is {subnet} now, the inventory says {network}",
                where=name,
                next_step=f"hedgerow emulate down -i {inventory}, then up",
            )
        bridge = str(present["network_interface"])
        # Another checkout's podman may have given its bridge the same name and addresses: then hosts are on it.
        own = bridge if in_use or not bridges.has_ports(bridge) else None
    taken = overlapping(network, _routes(), own=own)
    if taken:
        podman.clear_deserted()
        for route in taken:
            bridges.remove_if_empty(route.get("dev", ""))
    refuse_taken(network, _routes(), own=own)
    if shown.returncode != 0:
        # The bridge's own name is left to podman: version 4.3 cannot be told one.
        podman.run("network", "create", f"--subnet={network}", name)


def overlapping(
    network: ipaddress.IPv4Network, routes: list[dict[str, str]], *, own: str | None = None
) -> list[dict[str, str]]:
    """Those of ``routes`` (``ip -json route``) that overlap: one would swallow the other's traffic.

    ``own`` is the interface whose route is the network's own.
    """
    return [
        route
        for route in routes
        if route["dst"] != "default"
        and route.get("dev") != own
        and ipaddress.IPv4Network(route["dst"], strict=False).overlaps(network)
    ]


def refuse_taken(network: ipaddress.IPv4Network, routes: list[dict[str, str]], *, own: str | None = None) -> None:
    """Raise MachineError if one of ``routes`` is ``overlapping``."""
    for route in overlapping(network, routes, own=own):
        raise MachineError(
            f"{network} overlaps {route['dst']}, which this machine reaches through {route.get('dev')}",
            where="emulator_network",
            next_step="take down the fleet that has it (perhaps from another checkout), or choose another "
            "emulator_network, and ansible_host addresses, for this one",
        )


def _routes() -> list[dict[str, str]]:
    listing = subprocess.run(["ip", "-json", "-4", "route"], capture_output=True, text=True, check=True).stdout
    routes: list[dict[str, str]] = json.loads(listing)
    return routes
