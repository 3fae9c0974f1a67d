"""A fleet and a lock that break no rule, and ways to change one thing of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.unit.release import lock

from hedgerow.inventory import FleetRelease, Host
from hedgerow.release import Bundle, Combination, check


def host(name: str, hat: str = "hat-plus-2", **values: Any) -> Host:
    wanted = {"address": "192.0.2.1", "groups": (), "site": "s", "serial": "0" * 16, "cooling": "active"}
    return msgspec.convert(wanted | {"name": name, "hat": hat, "storage": "sd"} | values, Host)


def lock_with(**rows: Any) -> FleetRelease:
    """The good lock with some members of some rows replaced: ``kernel={"version": "6.12.75"}``."""
    document = {name: row if not isinstance(row, dict) else dict(row) for name, row in lock.GOOD.items()}
    for name, change in rows.items():
        document[name] = document[name] | change if isinstance(document.get(name), dict) else change
    return msgspec.convert(document, FleetRelease)


@pytest.fixture
def combination() -> Callable[..., Combination]:
    """The good combination with ``hats`` on its hosts; other fields by name, rows of the lock as ``lock={…}``."""

    def build(*hats: str, lock: dict[str, Any] | None = None, **fields: Any) -> Combination:
        hosts = {f"pi-{number}": host(f"pi-{number}", hat) for number, hat in enumerate(hats or ("hat-plus-2",), 1)}
        return dataclasses.replace(Combination(lock_with(**(lock or {})), hosts), **fields)

    return build


@pytest.fixture
def broken(combination: Callable[..., Combination]) -> Callable[..., list[str]]:
    """Ids of the rules that refuse the combination."""

    def ids(*hats: str, **change: Any) -> list[str]:
        return sorted({finding.rule.id for finding in check(combination(*hats, **change)) if finding.refused})

    return ids


@pytest.fixture
def hef() -> Bundle:
    return Bundle("detector@1.0.0", "hef", ("hat-plus-2",), hailort=">=5.1,<5.2", firmware="==5.1.1", runtime=">=0.1")
