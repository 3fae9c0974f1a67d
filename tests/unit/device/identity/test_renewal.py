"""Renewal at a gateway over real mutual TLS: what comes through, what is refused, and what stays then."""

import datetime as dt
import os
import shutil
import socket

import pytest
from cryptography import x509
from tests.unit.identity.test_keys import STAND_IN

from hedgerow.device.identity.config import Service
from hedgerow.errors import DeviceError, NetworkError, RefusedError, UsageError
from hedgerow.identity import anchor, enrol
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.keys_device import kinds, otp

SERIAL = "10000000a1b2c3d4"


def contents(folder):
    return {name: (folder / name).read_bytes() for name in ("device.key", "device.crt", "ca.crt")}


def serial_number(folder):
    return x509.load_pem_x509_certificate((folder / "device.crt").read_bytes()).serial_number


def matches(folder):
    shown = kinds.openssl("x509", "-in", str(folder / "device.crt"), "-pubkey", "-noout")
    return enrol.status(str(folder))["public_key"] == shown


def test_what_is_not_due_asks_nobody(enrolled, device, gateway):
    enrolled()
    outcome = device().renew(force=False, new_key=False)
    assert outcome.reason is None
    assert gateway.asked == []


def test_what_is_due_is_renewed_with_the_same_key_and_tried_first(enrolled, device, gateway, now):
    folder = enrolled(ago=25)
    before, old = contents(folder), serial_number(folder)
    outcome = device().renew(force=False, new_key=False)
    assert "of its life are left" in outcome.reason
    assert outcome.expires > now + dt.timedelta(days=29)
    assert contents(folder)["device.key"] == before["device.key"]
    # Asked with the old one, tried with the new one.
    assert [(route, number) for route, number, _ in gateway.asked] == [
        ("/identity/renew", old),
        ("/identity/time", serial_number(folder)),
    ]
    assert serial_number(folder) != old
    assert enrol.status(str(folder))["layout"] == "files"


def test_a_new_key_comes_with_its_certificate_in_one_step(enrolled, device):
    folder = enrolled()
    before = contents(folder)
    outcome = device().renew(force=True, new_key=True)
    assert (outcome.reason, outcome.new_key) == ("a new key was asked for", True)
    assert contents(folder)["device.key"] != before["device.key"]
    assert matches(folder)
    assert enrol.status(str(folder))["layout"] == "generations"


def test_a_new_pair_that_its_peer_does_not_take_never_comes_into_service(enrolled, device, gateway):
    folder = enrolled(ago=25)
    before = contents(folder)
    gateway.reject_fresh = True
    with pytest.raises(DeviceError, match="answered 403; the old one stays"):
        device().renew(force=False, new_key=True)
    assert contents(folder) == before
    assert matches(folder)


def test_a_key_that_waits_is_sent_again_after_an_answer_that_was_lost(enrolled, device, gateway):
    folder = enrolled(ago=25)
    gateway.reject_fresh = True
    for _ in range(2):
        with pytest.raises(DeviceError):
            device().renew(force=False, new_key=True)
    gateway.reject_fresh = False
    device().renew(force=False, new_key=True)
    keys = {public for route, _, public in gateway.asked if route == "/identity/renew"}
    assert len(keys) == 1
    assert matches(folder)


@pytest.mark.parametrize("code,status", [("cloned", 409), ("revoked", 403), ("not_listed", 403)])
def test_a_refusal_is_told_in_the_gateways_words(enrolled, device, gateway, code, status):
    folder = enrolled(ago=25)
    before = contents(folder)
    gateway.refuse = (status, {"error": "two boards show this serial", "code": code, "next_step": "look at both"}, {})
    with pytest.raises(RefusedError, match="two boards show this serial") as caught:
        device().renew(force=False, new_key=False)
    assert code in caught.value.where
    assert caught.value.next_step == "look at both"
    assert contents(folder) == before


@pytest.mark.parametrize("status", [429, 503])
def test_later_is_worth_another_try(enrolled, device, gateway, status):
    enrolled(ago=25)
    gateway.refuse = (status, {}, {"Retry-After": "120"})
    with pytest.raises(NetworkError, match=str(status)) as caught:
        device().renew(force=False, new_key=False)
    assert "120 s" in caught.value.next_step


def test_an_answer_that_is_no_certificate_changes_nothing(enrolled, device, gateway):
    folder = enrolled(ago=25)
    before = contents(folder)
    gateway.refuse = (200, {"certificate": "hello"}, {})
    with pytest.raises(DeviceError, match="no certificate"):
        device().renew(force=False, new_key=False)
    gateway.refuse = (200, {"colour": "green"}, {})
    with pytest.raises(NetworkError, match="cannot be read"):
        device().renew(force=False, new_key=False)
    assert contents(folder) == before


def test_trust_never_comes_from_the_gateway(enrolled, device, gateway, tmp_path):
    """A gateway in other hands certifies with a CA of its own, and sends that along."""
    folder = enrolled(ago=25)
    before = contents(folder)
    gateway.certify_for = FleetCA.init(tmp_path / "impostor", "meadow")[0]
    with pytest.raises(DeviceError, match="does not chain"):
        device().renew(force=False, new_key=False)
    assert contents(folder) == before


def test_an_expired_certificate_is_renewed_for_the_same_key(enrolled, device, gateway):
    folder = enrolled(days=30, ago=40)
    key = contents(folder)["device.key"]
    outcome = device(new_key=True).renew(force=False, new_key=False)
    assert "expired" in outcome.reason
    assert contents(folder)["device.key"] == key
    assert "same key" in outcome.notes[0]
    assert matches(folder)


def test_a_device_without_a_certificate_is_sent_to_its_controller(device):
    with pytest.raises(DeviceError, match="no certificate to renew") as caught:
        device().renew(force=True, new_key=False)
    assert "site.yml" in caught.value.next_step


def test_a_device_without_a_ca_to_trust_asks_nobody(enrolled, device, gateway):
    (enrolled(ago=25) / "ca.crt").unlink()
    with pytest.raises(DeviceError, match="no CA to trust"):
        device().renew(force=True, new_key=False)
    assert gateway.asked == []


def test_nobody_at_the_gateway_is_said(enrolled, device):
    folder = enrolled(ago=25)
    before = contents(folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NetworkError, match="no answer from gw-orchard"):
        device(renewal_url=f"https://127.0.0.1:{port}").renew(force=False, new_key=False)
    assert contents(folder) == before


@pytest.mark.parametrize("how", ["reset", "end"])
def test_whoever_is_cut_off_without_a_word_hears_what_that_may_mean(enrolled, device, gateway, how):
    """A service that knows a certificate as revoked says nothing to it, and TLS 1.3 has no word for that in time."""
    folder = enrolled(ago=25)
    before = contents(folder)
    gateway.cut = how
    with pytest.raises(NetworkError, match="certificate was revoked") as caught:
        device().renew(force=False, new_key=False)
    assert "readmit" in (caught.value.next_step or "")
    assert contents(folder) == before


def test_a_server_of_another_name_is_not_asked(enrolled, device, gateway):
    enrolled(ago=25)
    with pytest.raises(NetworkError, match="no answer"):
        device(renewal_name="gw-field.field.meadow").renew(force=False, new_key=False)
    assert gateway.asked == []


@pytest.mark.parametrize("url", ["gw:8445", "http://gw", "https://", "https://gw:no", "https://gw/path"])
def test_an_address_that_is_none_is_wrong_use(enrolled, device, url):
    enrolled(ago=25)
    with pytest.raises((UsageError, DeviceError), match="is no address"):
        device(renewal_url=url).renew(force=False, new_key=False)


# -- the clock -------------------------------------------------------------


def test_a_clock_that_is_years_behind_renews_by_what_is_proven(enrolled, device, now):
    """A Pi without a battery before its first time sync: nothing that it is shown would be valid yet."""
    folder = enrolled(ago=25)
    slow = device(now - dt.timedelta(days=5 * 365), synced=False)
    assert slow.time.behind > dt.timedelta(days=1000)
    outcome = slow.renew(force=True, new_key=False)
    assert outcome.reason == "a renewal was asked for"
    assert matches(folder)


def test_a_synchronised_clock_is_believed_against_a_gateways_certificate(enrolled, device, gateway, now):
    enrolled(ago=25)
    with pytest.raises(NetworkError, match="not valid yet by this device's time"):
        device(now - dt.timedelta(days=5 * 365), synced=True).renew(force=True, new_key=False)
    assert gateway.asked == []


def test_a_strangers_certificate_is_no_witness_of_the_time(enrolled, device, gateway, now):
    enrolled(ago=25)
    slow = device(now - dt.timedelta(days=5 * 365), synced=False, renewal_name="gw-field.field.meadow")
    with pytest.raises(NetworkError, match="no answer"):
        slow.renew(force=True, new_key=False)
    assert gateway.asked == []


def test_a_clock_that_is_years_ahead_is_named_in_the_reason(enrolled, device, gateway, now):
    folder = enrolled()
    before = contents(folder)
    gateway.refuse = (403, {"error": "not now"}, {})
    fast = device(now + dt.timedelta(days=5 * 365), synced=False)
    assert fast.due.expired
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    fast = device(now + dt.timedelta(days=5 * 365), synced=False, renewal_url=f"https://127.0.0.1:{port}")
    with pytest.raises(NetworkError, match="is not synchronised"):
        fast.renew(force=False, new_key=False)
    assert contents(folder) == before


# -- services, anchors -----------------------------------------------------


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """Stands for systemd's: writes down what it is asked, refuses units that are named broken."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/systemctl.log\ncase "$2" in broken*) exit 1;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{_path()}")
    return lambda: (tmp_path / "systemctl.log").read_text().splitlines()


def _path():
    return os.environ["PATH"]


def test_services_are_told_once_the_pair_is_in_place(enrolled, device, systemctl):
    enrolled(ago=25)
    services = (Service("nginx.service", "reloaded"), Service("broken.service"))
    outcome = device(services=services).renew(force=False, new_key=False)
    assert systemctl() == ["try-reload-or-restart nginx.service", "try-restart broken.service"]
    assert outcome.untold == ["broken.service"]


def test_the_boards_own_key_vouches_at_the_gateway(enrolled, device, gateway, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", f"{STAND_IN}:{_path()}")
    monkeypatch.setenv("EMULATED_HARDWARE", str(tmp_path / "hardware"))
    assert shutil.which("rpi-fw-crypto")
    burnt = otp.burn(SERIAL, otp.confirmation(SERIAL))
    enrolled(ago=25)
    seen = []
    real = gateway.renew
    gateway.renew = lambda peer, csr: seen.append(csr) or real(peer, csr)
    device(key="otp").renew(force=False, new_key=False)
    assert anchor.holds(burnt.public_key, seen[0], gateway.headers[0]["Hedgerow-Anchor"])
