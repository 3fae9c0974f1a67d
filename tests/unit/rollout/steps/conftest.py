"""One host's turn against a device in memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rollout_device import FakeDevice

from hedgerow.rollout import lease
from hedgerow.rollout.events import Opened
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Budgets, Policy, Soak
from hedgerow.rollout.steps import Clock, HostSteps


@pytest.fixture
def device(release: Release) -> FakeDevice:
    return FakeDevice(release)


@pytest.fixture
def journal(folder: Path, release: Release) -> Journal:
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    policy = Policy(soak=Soak(passes=3, interval_s=1, deadline_s=20), budgets=Budgets(failures=0))
    journal = Journal(folder)
    journal.append(Opened(at="t0", plan=Plan(release=release, policy=policy, waves=[["a"], ["b"]]), by="ada"))
    return journal


@pytest.fixture
def steps(journal: Journal, device: FakeDevice, ticking) -> HostSteps:
    return HostSteps("a", journal, device, lambda: device, Clock(ticking.monotonic, ticking.sleep))
