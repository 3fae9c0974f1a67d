"""What role `node_exporter` promises of any converged host."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


UNIT = "prometheus-node-exporter.service"


def test_it_runs_and_will_after_a_reboot(host):
    assert host.service(UNIT).is_running
    assert host.service(UNIT).is_enabled


def test_it_wants_a_certificate(host):
    done = host.run("curl --silent --insecure --max-time 5 https://127.0.0.1:9100/metrics")
    assert done.rc != 0, "it answered a caller without a certificate"


def test_a_device_may_not_scrape(host):
    identity = "/var/lib/hedgerow/identity"
    if host.entry.is_gateway:
        pytest.skip("a gateway scrapes its own site")
    done = host.as_root(
        f"curl --silent --fail --max-time 5 --insecure --cert {identity}/device.crt --key {identity}/device.key "
        "https://127.0.0.1:9100/metrics"
    )
    assert done.rc != 0
