"""Addresses from which somebody may come, as sshd compares them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from hedgerow.errors import UsageError


def networks(addresses: Iterable[str]) -> list[str]:
    """Addresses and networks in the form of ``from=`` and ``source-address``.

    Raises:
        UsageError: one is none.
    """
    found = []
    for address in addresses:
        try:
            found.append(str(ipaddress.ip_network(address, strict=True)))
        except ValueError as error:
            raise UsageError(
                f"{address} is no address and no network: {error}",
                where="--source",
                next_step="for example 192.168.10.5 or 192.168.99.0/24",
            ) from error
    return found
