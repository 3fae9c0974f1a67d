"""After other time servers and one more package were asked for."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.fleet


def test_the_time_servers_are_in_effect(host):
    assert "NTP=192.0.2.123\n" in host.root("systemd-analyze cat-config systemd/timesyncd.conf")


def test_the_package_came(host):
    assert host.shell.package("zstd").is_installed
