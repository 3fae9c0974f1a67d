from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

RUNS = {"active": "active", "enabled": "enabled"}
STOPPED = {"active": "inactive", "enabled": "disabled"}
FAILED = {"active": "failed", "enabled": "enabled"}


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
