"""What role `device_exporter` promises of any converged Pi."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def test_it_runs_and_will_after_a_reboot(pi):
    assert pi.service("hedgerow-exporter.service").is_running
    assert pi.service("hedgerow-exporter.service").is_enabled


def test_it_wants_a_certificate(pi):
    done = pi.run("curl --silent --insecure --max-time 5 https://127.0.0.1:9101/metrics")
    assert done.rc != 0, "it answered a caller without a certificate"


def test_it_is_not_root(pi):
    pid = pi.root("systemctl show -p MainPID --value hedgerow-exporter.service").strip()
    assert pi.root(f"stat -c %U /proc/{pid}") == "hedgerow-agent\n"
