"""What role `device_identity` promises of any converged host."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


IDENTITY = "/var/lib/hedgerow/identity"


def test_the_key_is_root_s_alone(host):
    assert host.root(f"stat -c '%a %U' {IDENTITY} {IDENTITY}/device.key").split() == ["700", "root", "600", "root"]


def test_the_certificate_is_this_board_s_and_the_fleet_s(host):
    # Below an issuing CA the file has its chain.
    verify = f"openssl verify -CAfile {IDENTITY}/ca.crt -untrusted {IDENTITY}/device.crt {IDENTITY}/device.crt"
    assert host.root(verify).endswith(": OK\n")
    subject = host.root(f"openssl x509 -in {IDENTITY}/device.crt -noout -subject -nameopt multiline")
    profile = "gateway" if host.entry.is_gateway else "device"
    for name, value in (("commonName", host.entry.serial), ("organizationalUnitName", profile)):
        assert any(line.split() == [name, "=", value] for line in subject.splitlines()), subject


def test_the_certificate_lives_on_for_a_day_and_not_for_years(host):
    assert host.as_root(f"openssl x509 -in {IDENTITY}/device.crt -noout -checkend 86400").rc == 0
    assert host.as_root(f"openssl x509 -in {IDENTITY}/device.crt -noout -checkend {91 * 86400}").rc != 0


def test_key_and_certificate_belong_together(host):
    key = host.root(f"openssl pkey -in {IDENTITY}/device.key -pubout")
    assert key == host.root(f"openssl x509 -in {IDENTITY}/device.crt -noout -pubkey")
