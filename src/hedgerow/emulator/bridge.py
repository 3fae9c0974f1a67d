"""Bridges of fleets on this machine: who is on one, and its end where podman was killed before it could remove it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

# What netavark calls a bridge that it is told no name for.
_PODMANS = re.compile(r"podman\d+")
# The kernel takes a network namespace down some time after its last user; another fleet's ports never go.
_PORTS_TIMEOUT_S = 5


def has_ports(interface: str) -> bool:
    """True if any interface is attached to the bridge."""
    return any(Path("/sys/class/net", interface, "brif").glob("*"))


def await_no_ports(interface: str) -> None:
    """Wait, not for ever, for the kernel to take the ports of network namespaces that nobody holds any more."""
    deadline = time.monotonic() + _PORTS_TIMEOUT_S
    while has_ports(interface) and time.monotonic() < deadline:
        time.sleep(0.05)


def remove_of(network: dict[str, Any]) -> None:
    """Remove the bridge of a network (podman's JSON) without containers that no teardown removed."""
    interface = str(network["network_interface"])
    gateways = {subnet.get("gateway") for subnet in network["subnets"]}
    shown = subprocess.run(
        ["ip", "-json", "-4", "address", "show", "dev", interface], capture_output=True, text=True, check=False
    )
    addresses = json.loads(shown.stdout or "[]") if shown.returncode == 0 else []
    # By now the name could be a bridge of another podman, even with the same addresses: then hosts are on it.
    ours = any(info["local"] in gateways for entry in addresses for info in entry["addr_info"])
    if ours and not has_ports(interface):
        _delete(interface)


def remove_if_empty(interface: str) -> None:
    """Remove a bridge of any podman's that nothing is attached to: that podman would have, had it not been killed."""
    if _PODMANS.fullmatch(interface) and Path("/sys/class/net", interface, "bridge").is_dir():
        await_no_ports(interface)
        if not has_ports(interface):
            _delete(interface)


def _delete(interface: str) -> None:
    subprocess.run(["ip", "link", "delete", interface], check=True)
