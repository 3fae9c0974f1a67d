"""What role `model_store` promises of any converged Pi."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


DEVICE = "/opt/hedgerow/runtime/current/bin/hedgerow-device"


def test_its_folders_are_there(pi):
    for name in ("models", "activation", "trust"):
        assert pi.root(f"stat -c '%F %U' /var/lib/hedgerow/{name}") == "directory root\n"


def test_somebody_is_trusted(pi):
    assert '"_type"' in pi.root("cat /var/lib/hedgerow/trust/root.json")


def test_the_deadline_is_looked_at(pi):
    assert pi.service("hedgerow-deadline.timer").is_running
    assert pi.service("hedgerow-deadline.timer").is_enabled


def test_the_device_command_reports(pi):
    """Whatever it has to say: without a model it says that, and ends with 1."""
    assert '"reasons"' in pi.as_root(f"{DEVICE} report --json").stdout
