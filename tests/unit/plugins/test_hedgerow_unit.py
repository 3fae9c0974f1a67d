from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

RUNS = {"active": "active", "enabled": "enabled"}
STOPPED = {"active": "inactive", "enabled": "disabled"}
FAILED = {"active": "failed", "enabled": "enabled"}


@pytest.mark.parametrize(
    "since,changed,expected",
    [(100, 200.0, True), (200, 100.0, False), (100, 100.9, False), (100, 9999.0, False), (None, 200.0, False)],
)
def test_a_unit_older_than_its_files_is_restarted(
    plugin: Callable[[str], ModuleType], *, since: int | None, changed: float, expected: bool
) -> None:
    unit = RUNS | ({} if since is None else {"since": since})
    module = plugin("action/hedgerow_unit")
    assert module.older_than(unit, {"/etc/a": 1.0, "/etc/b": changed}, now=1000.0) is expected
    assert not module.older_than(None, {"/etc/a": 1.0}, now=1000.0)


@pytest.mark.parametrize(
    "label,profile,expected",
    [
        ("unconfined", "hedgerow-server", True),
        ("hedgerow-exporter (enforce)", "hedgerow-server", True),
        ("hedgerow-server (enforce)", "hedgerow-server", False),
        ("hedgerow-server (complain)", "hedgerow-server", False),  # loading the profile changes the mode, no restart
        (None, "hedgerow-server", False),
        ("unconfined", None, False),
        ("unconfined", "", False),
    ],
)
def test_a_unit_that_runs_without_its_profile_is_restarted(
    plugin: Callable[[str], ModuleType], *, label: str | None, profile: str | None, expected: bool
) -> None:
    unit = RUNS | ({} if label is None else {"confined": label})
    assert plugin("action/hedgerow_unit").unconfined(unit, profile) is expected
    assert not plugin("action/hedgerow_unit").unconfined(None, profile)


@pytest.mark.parametrize(
    "unit,state,enabled,expected",
    [
        (RUNS, "started", True, True),
        (RUNS, "stopped", None, False),
        (RUNS, None, False, False),
        (STOPPED, "started", None, False),
        (STOPPED, "stopped", False, True),
        (FAILED, "started", True, False),
        (None, "started", True, False),
        (None, "stopped", False, True),
        (None, None, True, False),
        ({"active": "active", "enabled": "static"}, "started", True, True),
        (RUNS, "restarted", True, False),
        (RUNS, "reloaded", None, False),
    ],
)
def test_what_was_read_decides_whether_the_host_is_asked(
    plugin: Callable[[str], ModuleType],
    *,
    unit: dict[str, str] | None,
    state: str | None,
    enabled: bool | None,
    expected: bool,
) -> None:
    assert plugin("action/hedgerow_unit").as_wanted(unit, state=state, enabled=enabled) is expected
