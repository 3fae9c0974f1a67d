"""A root whose key never leaves its token: SoftHSM2, as a token of hardware would be used.

A process has one PKCS#11 library, and the library reads its settings once: what uses it runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hedgerow.errors import MachineError
from hedgerow.identity.authority import crl, keys, lists, making, opening
from hedgerow.identity.authority.root import KeyPlace, RootCA
from hedgerow.identity.profiles import Profile

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "482913"
URI = "hsm:2?label=hedgerow"

# Founds a two-tier CA on the token, signs an issuing CA and every list, then tries what must not work.
SCRIPT = """
import json, sys
from pathlib import Path
from hedgerow.errors import HedgerowError
from hedgerow.identity.authority import keys, lists, making
from hedgerow.identity.authority.root import KeyPlace, RootCA
from hedgerow.passphrases import Passphrases

fleet_dir, module, pin, wrong = (Path(text) for text in sys.argv[1:5])
good = Passphrases({"root": pin, None: fleet_dir.parent / "passphrase"})
told = {}

def attempt(name, work):
    try:
        work()
        told[name] = None
    except HedgerowError as error:
        told[name] = [type(error).__name__, str(error)]

def init(uri):
    return lambda: RootCA.init(fleet_dir, "meadow", good, place=KeyPlace(uri, str(module)))

attempt("no such key", init("hsm:7?label=hedgerow"))
attempt("no such token", init("hsm:2?label=x"))
attempt("another curve", init("hsm:3?label=hedgerow"))
attempt("init", init("hsm:2?label=hedgerow"))
root = RootCA.open(fleet_dir, good)
attempt("add", lambda: making.add(root, "fleet", good, by="ada@desk"))
attempt("lists", lambda: lists.refresh(fleet_dir / "ca", good))
told["is_here"] = keys.is_here(fleet_dir / "ca")
try:
    root.key.private_bytes(None, None, None)
except TypeError as error:
    told["private_bytes"] = str(error)
attempt("wrong pin", lambda: lists.refresh(fleet_dir / "ca", Passphrases({None: wrong}), force=True))
print(json.dumps(told))
"""

pytestmark = pytest.mark.skipif(
    not MODULE.exists() or shutil.which("softhsm2-util") is None, reason="softhsm2 is not installed"
)


@pytest.fixture
def token(tmp_path):
    """A token named ``hedgerow`` with a P-256 key under number 2 and a P-384 key under 3; its environment."""
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    environment = {**os.environ, "SOFTHSM2_CONF": str(configuration)}
    init = ["--init-token", "--free", "--label", "hedgerow", "--so-pin", "12345678", "--pin", PIN]
    subprocess.run(["softhsm2-util", *init], check=True, capture_output=True, env=environment)
    for number, curve in (("02", ec.SECP256R1()), ("03", ec.SECP384R1())):
        private = tmp_path / "key.pem"
        made = ec.generate_private_key(curve).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        private.write_bytes(made)
        put = ["--import", str(private), "--token", "hedgerow", "--label", f"ca{number}", "--id", number, "--pin", PIN]
        subprocess.run(["softhsm2-util", *put], check=True, capture_output=True, env=environment)
        private.unlink()
    return environment


def secret(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_token_is_the_root(*, token, tmp_path, fleet_dir, verify, make_csr, names, monkeypatch):
    fleet_dir.mkdir(parents=True)
    passphrase = secret(fleet_dir.parent / "passphrase", "correct horse battery")
    pin, wrong = secret(tmp_path / "pin", PIN), secret(tmp_path / "wrong", "000000")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, fleet_dir, MODULE, pin, wrong],
        env=token,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [told[name] for name in ("init", "add", "lists")] == [None, None, None]
    assert told["is_here"]
    assert told["private_bytes"] == "the key is in a token and stays there"
    assert "P-256" in told["another curve"][1]
    for name in ("no such key", "no such token", "wrong pin"):
        assert told[name][0] == "UsageError", told[name]
        assert "the token refuses" in told[name][1]

    # Without the token everything below the root goes on, and what servers verify holds.
    folder = fleet_dir / "ca"
    assert not (folder / keys.KEY).exists()
    assert keys.reference(folder).uri == URI
    monkeypatch.setenv("HEDGEROW_CA_PASSPHRASE_FILE", str(passphrase))
    issuer = opening.for_site(fleet_dir, "orchard")
    chain = issuer.sign_csr(make_csr()[0], Profile.DEVICE, names)
    (tmp_path / "crl.pem").write_text((folder / lists.BUNDLE).read_text())
    assert verify(issuer.anchors, chain, "-crl_check_all", "-CRLfile", str(tmp_path / "crl.pem")) is None
    of_root = x509.load_pem_x509_crl((folder / lists.LIST).read_bytes())
    assert crl.number(of_root) > 0
    assert making.in_use(folder).keys() == {"fleet"}


def test_no_library_is_told(fleet_dir, secrets, monkeypatch):
    monkeypatch.delenv("PYKCS11LIB", raising=False)
    with pytest.raises(MachineError, match="PKCS#11 library is not here"):
        RootCA.init(fleet_dir, "meadow", secrets, place=KeyPlace(URI, "/nowhere.so"))
    assert not (fleet_dir / "ca" / "ca.crt").exists()
