import datetime as dt
import subprocess

import pytest

from hedgerow.identity.authority.root import RootCA
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import DeviceNames
from hedgerow.passphrases import Passphrases


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


@pytest.fixture
def secrets(tmp_path, monkeypatch):
    """The passphrase of every key, in a file as an operator names it."""
    path = tmp_path / "passphrase"
    path.write_text("correct horse battery\n")
    path.chmod(0o600)
    monkeypatch.setenv("HEDGEROW_CA_PASSPHRASE_FILE", str(path))
    return Passphrases({None: path})


@pytest.fixture
def root(fleet_dir, secrets, now):
    made, changed = RootCA.init(fleet_dir, "meadow", secrets, now=now)
    assert changed
    return made


@pytest.fixture
def verify(tmp_path):
    """What ``openssl verify`` says of a chain (PEM, leaf first); None if it accepts it."""

    def check(anchors, chain, *options):
        (tmp_path / "anchors.pem").write_text(anchors)
        (tmp_path / "chain.pem").write_text(chain)
        done = subprocess.run(
            [
                *("openssl", "verify", "-x509_strict", "-no-CApath", "-no-CAstore", *options),
                *("-CAfile", tmp_path / "anchors.pem", "-untrusted", tmp_path / "chain.pem", tmp_path / "chain.pem"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        return None if done.returncode == 0 else done.stderr

    return check
