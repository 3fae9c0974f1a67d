"""Signing with keys that a PKCS#11 token holds: SoftHSM2, as a token of hardware would be used."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.unit.registry.authority.conftest import let_out, only

from hedgerow.errors import MachineError, UsageError
from hedgerow.registry.authority import changing, keys, settings, staging
from hedgerow.registry.authority.changing import RoleKeys
from hedgerow.registry.authority.keys import Passphrases

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "482913"

pytestmark = pytest.mark.skipif(
    not MODULE.exists() or shutil.which("softhsm2-util") is None, reason="softhsm2 is not installed"
)


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A token named ``hedgerow`` with an EC key under number 2; how it is opened goes by its folder."""
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    monkeypatch.setenv("PYKCS11LIB", str(MODULE))
    private = tmp_path / "key.pem"
    private.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    init = ["--init-token", "--free", "--label", "hedgerow", "--so-pin", "12345678", "--pin", PIN]
    put = ["--import", str(private), "--token", "hedgerow", "--label", "approver", "--id", "02", "--pin", PIN]
    for arguments in (init, put):
        subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True)
    return "hsm:2?label=hedgerow"


def test_a_token_approves(token, session, device, make_bundle, tmp_path):
    # One process has one PKCS#11 library, and the library reads its settings once: all of it is one test.
    entry = keys.from_token(token, "hal", lambda: PIN, pkcs11_module=str(MODULE))
    assert (entry.uri, entry.public["scheme"]) == (token, "ecdsa-sha2-nistp256")
    session.settings = settings.with_module(settings.add_key(session.settings, "approve-hal", entry), str(MODULE))
    pin = tmp_path / "pin"
    pin.write_text(PIN)
    pin.chmod(0o600)
    session.passphrases = Passphrases({None: session.directory / "passphrase", "approve-hal": pin})

    changing.rotate(session, "approve-model", RoleKeys(("approve-hal",)))
    folder = make_bundle()
    let_out(session, folder)
    assert device.manifest("assistant@1.0.0") == (folder / "manifest.json").read_bytes()

    pin.write_text("000000")
    session.passphrases = Passphrases({None: session.directory / "passphrase", "approve-hal": pin})
    staging.stage(session, make_bundle("1.1.0"))
    with pytest.raises(UsageError, match="token refuses"):
        staging.approve(session, "model", "assistant", "1.1.0")

    with pytest.raises(UsageError, match="token does not give the key"):
        keys.from_token("hsm:7?label=hedgerow", "hal", lambda: PIN, pkcs11_module=str(MODULE))
    absent = keys.open_uri("hsm:2?label=elsewhere", keys.public_key(entry), lambda: PIN, directory=tmp_path)
    assert absent is None, "a token that is not plugged in is no error before its signature is missed"
    assert staging.stage(only(session, "approve-hal"), make_bundle("1.2.0")).waiting != ()


def test_no_library(monkeypatch):
    monkeypatch.delenv("PYKCS11LIB", raising=False)
    with pytest.raises(MachineError, match="PKCS#11 library is not here"):
        keys.from_token("hsm:2", "hal", lambda: PIN, pkcs11_module="/nowhere.so")
