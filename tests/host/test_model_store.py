"""What role `model_store` promises of any converged Pi."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


DEVICE = "/opt/hedgerow/runtime/current/bin/hedgerow-device"


def eventually(condition, *, within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.5)


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


def test_the_agent_watches(pi):
    assert pi.service("hedgerow-agent.service").is_running
    assert pi.service("hedgerow-agent.service").is_enabled


def test_the_agent_is_alive_in_the_health_report(pi):
    """And small: what it takes, a model cannot have."""
    report = json.loads(pi.as_root(f"{DEVICE} report --json").stdout)
    beaten = datetime.fromisoformat(report["agent"]["heartbeat"]).timestamp()
    assert float(pi.root("date +%s")) - beaten < 60
    pid = pi.root("systemctl show -p MainPID --value hedgerow-agent.service").strip()
    resident_kb = int(pi.root(f"sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/{pid}/status"))
    assert resident_kb < 64 * 1024


def test_the_agent_that_ends_comes_back(pi):
    """It is nobody's duty to notice."""
    before = pi.root("systemctl show -p MainPID --value hedgerow-agent.service")
    pi.root("systemctl kill --signal=KILL hedgerow-agent.service")
    try:
        eventually(lambda: pi.root("systemctl show -p MainPID --value hedgerow-agent.service") not in {before, "0\n"})
    finally:
        pi.root("systemctl restart hedgerow-agent.service")
    assert pi.service("hedgerow-agent.service").is_running


def test_drain_is_undone_whoever_forgets_it(pi):
    """Without a model the server is not ready anyway; that it is drained and that this ends is told by itself."""
    # The device's own agent may just be asking the model something: that is waited for, as anybody's request is.
    shown = json.loads(pi.root(f"{DEVICE} drain --within 30 --wait 25 --json"))
    assert shown["drained_until"] is not None
    reasons = [reason["code"] for reason in json.loads(pi.as_root(f"{DEVICE} report --json").stdout)["reasons"]]
    assert "draining" in reasons
    eventually(lambda: "draining" not in pi.as_root(f"{DEVICE} report --json").stdout)
    assert json.loads(pi.root(f"{DEVICE} undrain --json"))["changed"] is False


def test_events_are_told(pi):
    assert isinstance(json.loads(pi.root(f"{DEVICE} events --json --since 1d")), list)
