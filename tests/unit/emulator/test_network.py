from __future__ import annotations

import ipaddress

import pytest

from hedgerow.emulator import network
from hedgerow.errors import MachineError, UsageError
from hedgerow.inventory import Host

NETWORK = ipaddress.IPv4Network("10.77.0.0/24")


def host(address: str) -> Host:
    return Host(
        name="pi", address=address, groups=("pis",), site="orchard", serial="0" * 16, hat="none", cooling="active",
        storage="sd",
    )  # fmt: skip


@pytest.mark.parametrize("address", ["10.77.0.2", "10.77.0.254"])
def test_addresses_inside(address: str) -> None:
    network.check_addresses(NETWORK, [host(address)])


@pytest.mark.parametrize("address", ["10.77.0.0", "10.77.0.1", "10.77.0.255", "10.78.0.5", "pi.local", "fe80::1"])
def test_addresses_that_cannot_be(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        network.check_addresses(NETWORK, [host(address)])
    assert address in str(caught.value)
    assert "10.77.0.2" in str(caught.value)


def test_a_taken_network_is_refused() -> None:
    routes = [{"dst": "default", "dev": "eth0"}, {"dst": "10.0.0.0/8", "dev": "vpn0"}]
    with pytest.raises(MachineError, match="vpn0"):
        network.refuse_taken(NETWORK, routes)


def test_other_networks_do_not_matter() -> None:
    network.refuse_taken(NETWORK, [{"dst": "192.168.1.0/24", "dev": "eth0"}, {"dst": "192.168.1.1", "dev": "eth0"}])


def test_the_networks_own_bridge_is_no_conflict() -> None:
    routes = [{"dst": "10.77.0.0/24", "dev": "podman3"}]
    network.refuse_taken(NETWORK, routes, own="podman3")
    with pytest.raises(MachineError, match="another checkout"):
        network.refuse_taken(NETWORK, routes, own=None)
