"""After complain mode was asked for, but for one profile that a host wants enforced, and a rule more."""

from __future__ import annotations

import re

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def head(host, profile):
    return re.search(r"(?m)^profile .*\{$", host.root(f"cat /etc/apparmor.d/{profile}"))[0]


def test_the_host_s_word_beats_the_group_s(host):
    assert "complain" not in head(host, "hedgerow-node-exporter")


def test_the_others_only_watch(host):
    other = "hedgerow-nginx" if host.entry.is_gateway else "hedgerow-server"
    assert "complain" in head(host, other)


def test_the_inventory_s_rule_is_in_it_and_it_parses(host):
    assert "\n  /srv/metrics/*.prom r,\n" in host.root("cat /etc/apparmor.d/hedgerow-node-exporter")
    assert host.root("apparmor_parser -Q -K /etc/apparmor.d/hedgerow-node-exporter") == ""


def test_what_is_no_longer_ours_is_gone(host):
    assert host.as_root("test -e /etc/apparmor.d/hedgerow-old").rc != 0


def test_the_kernel_took_the_modes(host):
    host.not_in_a_container("it shares a kernel without AppArmor, or may not load profiles into its machine's")
    loaded = host.root("cat /sys/kernel/security/apparmor/profiles")
    assert "hedgerow-node-exporter (enforce)" in loaded
    assert "hedgerow-old" not in loaded
