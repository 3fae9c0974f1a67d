"""The inventory, typed: one source of truth for what the fleet is.

``load`` reads any inventory Ansible reads, through ``ansible-inventory``, so
that group precedence is Ansible's own and cannot differ here. ``check`` says
everything that is wrong with it, naming file, key, value and what is allowed.
"""

from hedgerow.inventory.checks import check
from hedgerow.inventory.model import (
    AppArmorPin,
    EepromPin,
    FleetRelease,
    HailoPin,
    HeadersPin,
    Host,
    Inventory,
    KernelPin,
    MenderPin,
    OsRelease,
    PackagePin,
    RuntimePin,
)
from hedgerow.inventory.problem import Problem
from hedgerow.inventory.source import load

__all__ = [
    "AppArmorPin",
    "EepromPin",
    "FleetRelease",
    "HailoPin",
    "HeadersPin",
    "Host",
    "Inventory",
    "KernelPin",
    "MenderPin",
    "OsRelease",
    "PackagePin",
    "Problem",
    "RuntimePin",
    "check",
    "load",
]
