"""When the controller makes itself another certificate."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509

from hedgerow import paths
from hedgerow.errors import RefusedError
from hedgerow.fleet import access
from hedgerow.identity import issued
from hedgerow.identity.authority import opening
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import Profile

FLEET = "meadow-access"
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
YEARS = dt.timedelta(days=5 * 365)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path))
    FleetCA.init(paths.fleet_dir(FLEET), FLEET, now=NOW)
    return paths.fleet_dir(FLEET)


def certificate(folder: Path) -> x509.Certificate:
    file = folder / "ca" / "clients" / "controller-operator.crt"
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_one_that_is_good_stays(folder: Path) -> None:
    access.context(FLEET, Profile.OPERATOR, now=NOW)
    first = certificate(folder)
    access.context(FLEET, Profile.OPERATOR, now=NOW + dt.timedelta(days=5))
    assert certificate(folder) == first
    access.context(FLEET, Profile.OPERATOR, now=NOW + dt.timedelta(days=6, hours=1))
    assert certificate(folder) != first


def test_one_that_was_made_while_the_clock_was_ahead_is_replaced_once_it_is_right(folder: Path) -> None:
    access.context(FLEET, Profile.OPERATOR, now=NOW + YEARS)
    assert certificate(folder).not_valid_before_utc > NOW
    access.context(FLEET, Profile.OPERATOR, now=NOW)
    assert certificate(folder).not_valid_before_utc <= NOW < certificate(folder).not_valid_after_utc


def test_by_a_clock_before_the_ca_nothing_is_signed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "utc_now", lambda: NOW - YEARS)
    for ask in (lambda: opening.for_site(folder, "orchard"), lambda: access.context(FLEET, Profile.OPERATOR)):
        with pytest.raises(RefusedError, match="before this CA began") as caught:
            ask()
        assert "timedatectl" in str(caught.value.next_step)
    assert list(issued.read_fleet(folder / "ca")) == []
