"""After certificates of seven days were asked for."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


CERTIFICATE = "/var/lib/hedgerow/identity/device.crt"


def test_the_new_certificate_ends_within_seven_days(host):
    assert host.as_root(f"openssl x509 -in {CERTIFICATE} -noout -checkend {6 * 86400}").rc == 0
    assert host.as_root(f"openssl x509 -in {CERTIFICATE} -noout -checkend {8 * 86400}").rc != 0
