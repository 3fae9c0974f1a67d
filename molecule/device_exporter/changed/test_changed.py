"""After someone edited the unit by hand."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def test_the_unit_is_as_the_role_wrote_it(pi):
    assert "ProtectSystem=strict\n" in pi.root("cat /etc/systemd/system/hedgerow-exporter.service")


def test_the_running_process_has_the_sandbox_again(pi):
    assert pi.root("systemctl show -p ProtectSystem --value hedgerow-exporter.service") == "strict\n"
    assert pi.service("hedgerow-exporter.service").is_running
