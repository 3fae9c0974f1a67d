"""After an archive, a pin and a fence of the fleet's own, and an upgrade that was refused."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.fleet


def test_the_archive_is_read_and_the_lock_still_decides(host):
    shown = host.root("apt-get update >/dev/null && apt-cache policy linux-image-rpi-2712")
    assert "trixie-next/main" in shown
    assert f"Candidate: {host.fleet.release.kernel.deb}\n" in shown


def test_its_key_is_its_own(host):
    source = host.root("cat /etc/apt/sources.list.d/hedgerow-mirror.sources")
    assert "Signed-By: /etc/apt/keyrings/hedgerow-mirror.pgp\n" in source
    assert host.file("/etc/apt/keyrings/hedgerow-mirror.pgp").mode == 0o644


def test_the_host_s_own_pin_stands_first(host):
    text = host.root("cat /etc/apt/preferences.d/50-hedgerow.pref")
    assert text.index("Package: sqlite3") < text.index("Package: rpi-eeprom")


def test_the_fence_has_the_group_s_word(host):
    assert 'Unattended-Upgrade::Package-Blacklist:: "openssh";' in host.root("apt-config dump")


def test_what_was_refused_left_everything_as_it_was(pi):
    assert "6.18.99" not in pi.root("cat /etc/apt/preferences.d/50-hedgerow.pref /etc/hedgerow/pins.json")
    assert "6.18.99" not in pi.root("dpkg-query -W")
    held = pi.root("apt-mark showhold").split()
    assert {"linux-image-rpi-2712", "linux-headers-rpi-2712"} <= set(held)
