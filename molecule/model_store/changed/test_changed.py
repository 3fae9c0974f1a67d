"""After the deadline was to be looked at less often."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def test_the_timer_has_the_new_period(pi):
    assert "*:*:00/20" in pi.root("systemctl show -p TimersCalendar --value hedgerow-deadline.timer")
