import datetime as dt
import subprocess

import pytest

from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import DeviceNames


@pytest.fixture
def now():
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


@pytest.fixture
def fleet_dir(tmp_path):
    return tmp_path / "fleets" / "meadow"


@pytest.fixture
def authority(fleet_dir, now):
    made, changed = FleetCA.init(fleet_dir, "meadow", now=now)
    assert changed
    return made


@pytest.fixture
def names():
    return DeviceNames(fleet="meadow", site="orchard", host="pi-orchard-1", serial="10000000a1b2c3d4")


def openssl(*arguments, stdin=""):
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def make_csr(tmp_path):
    """A request as openssl on a device makes it; returns (PEM, key file)."""

    def make(subject="/CN=10000000a1b2c3d4", curve="P-256", extra=()):
        key = tmp_path / f"{curve}-{len(list(tmp_path.iterdir()))}.key"
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-out", str(key))
        return openssl("req", "-new", "-key", str(key), "-subj", subject, *extra), key

    return make
