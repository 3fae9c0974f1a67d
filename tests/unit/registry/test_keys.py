from __future__ import annotations

import json

import pytest

from hedgerow.errors import UsageError
from hedgerow.registry import keys


@pytest.fixture
def folder(tmp_path):
    keys.create(tmp_path / "signing")
    return tmp_path / "signing"


def test_a_key_for_every_role_that_nobody_else_can_read(folder):
    loaded = keys.load(folder)
    assert set(loaded) == set(keys.ROLES)
    assert len({key.keyid for role in loaded.values() for key in role.public_keys}) == 4
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert "PRIVATE" not in (folder / keys.FILE_NAME).read_text()


def test_keys_are_made_once(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    keys.create(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_init_that_was_cut_off_keeps_its_keys(folder):
    kept = (folder / "root.pem").read_bytes()
    (folder / keys.FILE_NAME).unlink()
    (folder / "timestamp.pem").unlink()
    keys.create(folder)
    assert (folder / "root.pem").read_bytes() == kept
    assert set(keys.load(folder)) == set(keys.ROLES)


def test_a_signature_of_a_loaded_key_verifies(folder):
    [signer] = keys.load(folder)["targets"].signers()
    signer.public_key.verify_signature(signer.sign(b"data"), b"data")


def test_no_keys(tmp_path):
    with pytest.raises(UsageError, match="no signing keys") as caught:
        keys.load(tmp_path)
    assert caught.value.next_step == "hedgerow registry init"


def test_a_key_that_others_can_read_is_refused(folder):
    (folder / "root.pem").chmod(0o640)
    with pytest.raises(UsageError, match="read by others"):
        keys.load(folder)


def test_a_key_of_somebody_else_is_refused(folder):
    (folder / "root.pem").write_bytes((folder / "targets.pem").read_bytes())
    with pytest.raises(UsageError, match="not the one that"):
        keys.load(folder)["root"].signers()


def test_a_key_that_is_kept_elsewhere_is_missed_only_when_it_must_sign(folder):
    (folder / "root.pem").unlink()
    loaded = keys.load(folder)
    assert len(loaded["root"].public_keys) == 1
    assert len(loaded["timestamp"].signers()) == 1
    with pytest.raises(UsageError, match="root needs 1 signature"):
        loaded["root"].signers()


def test_enough_of_several_keys_is_enough(folder):
    path = folder / keys.FILE_NAME
    document = json.loads(path.read_text())
    document["root"] = {"threshold": 2, "keys": [document[role]["keys"][0] for role in ("root", "targets", "snapshot")]}
    path.write_text(json.dumps(document))
    (folder / "snapshot.pem").unlink()
    assert len(keys.load(folder)["root"].signers()) == 2
    (folder / "targets.pem").unlink()
    with pytest.raises(UsageError, match="needs 2 signature"):
        keys.load(folder)["root"].signers()


def test_another_scheme_is_left_to_securesystemslib(folder, monkeypatch):
    path = folder / keys.FILE_NAME
    document = json.loads(path.read_text())
    document["root"]["keys"][0]["uri"] = "hsm:2?label=root"
    path.write_text(json.dumps(document))
    asked = []
    monkeypatch.setattr(keys.Signer, "from_priv_key_uri", lambda uri, key: asked.append((uri, key.keyid)) or "signer")
    assert keys.load(folder)["root"].signers() == ("signer",)
    assert asked == [("hsm:2?label=root", document["root"]["keys"][0]["keyid"])]
