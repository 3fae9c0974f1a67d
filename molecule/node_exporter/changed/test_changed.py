"""After another collector was asked for."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def test_the_running_process_has_the_argument(host):
    pid = host.root("systemctl show -p MainPID --value prometheus-node-exporter.service").strip()
    assert "--collector.processes" in host.root(f"tr '\\0' '\\n' </proc/{pid}/cmdline").splitlines()
