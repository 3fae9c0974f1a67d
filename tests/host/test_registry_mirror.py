"""What role `registry_mirror` promises of any converged gateway."""

from __future__ import annotations

import re

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def test_it_runs_and_will_after_a_reboot(gateway):
    assert gateway.service("nginx.service").is_running
    assert gateway.service("nginx.service").is_enabled


def test_it_serves_nothing_without_a_certificate(gateway):
    code = gateway.run("curl --silent --insecure --output /dev/null --write-out '%{http_code}' https://127.0.0.1/")
    assert code.stdout.strip() in {"400", "403", "000"}


def test_its_nginx_can_cache_an_origin_in_slices(gateway):
    built = gateway.root("nginx -V 2>&1")
    assert "--with-http_slice_module" in built
    version = tuple(int(part) for part in re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", built).groups())
    assert version >= (1, 19, 1), "min_free of a cache, as the template writes it"


def test_no_plain_http(gateway):
    assert gateway.run("curl --silent --max-time 3 http://127.0.0.1:80/").rc != 0
