"""After a lower memory limit was asked for."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def test_the_limit_is_in_effect(pi):
    limit = int(pi.root("systemctl show -p MemoryMax --value hedgerow-server.service"))
    total_kb = int(pi.root("awk '/^MemTotal/ { print $2 }' /proc/meminfo"))
    assert abs(limit / (total_kb * 1024) - 0.60) < 0.01


def test_the_server_was_restarted_and_runs(pi):
    assert pi.service("hedgerow-server.service").is_running
