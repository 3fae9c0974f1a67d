"""After the inventory named no cameras any more: nothing of them is left on the host."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


@pytest.fixture(autouse=True)
def watched(pi):
    if pi.name != pi.fleet.pis[0].name:
        pytest.skip("this scenario's cameras were the first Pi's")


def test_unit_configuration_secrets_and_frames_are_gone(pi):
    for path in (
        "/etc/systemd/system/hedgerow-vision.service",
        "/etc/systemd/system/multi-user.target.wants/hedgerow-vision.service",
        "/etc/hedgerow/vision.yml",
        "/etc/hedgerow/vision",
        "/var/lib/hedgerow-vision",
        "/etc/apparmor.d/hedgerow-vision",
    ):
        assert not pi.file(path).exists, path
    assert pi.root("systemctl show -p LoadState --value hedgerow-vision.service") == "not-found\n"
    assert pi.run("curl --silent --max-time 5 http://127.0.0.1:9102/metrics").rc != 0


def test_the_exporter_asks_nobody(pi):
    assert "--vision" not in pi.root("cat /etc/systemd/system/hedgerow-exporter.service")
    assert pi.service("hedgerow-exporter.service").is_running
