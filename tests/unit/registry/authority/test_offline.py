"""Signing as files: what is shown, what is signed, and what is taken back."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from tests.unit.registry.authority.conftest import let_out, only

from hedgerow.errors import RefusedError, UsageError
from hedgerow.registry.authority import changing, offline, releasing, staging
from hedgerow.registry.authority.changing import RoleKeys
from hedgerow.registry.authority.keys import Passphrases


@pytest.fixture
def waiting(session):
    """A rotation of root for which ann's signature is here, and ben's is not."""
    changing.rotate(only(session, "root-ann"), "root", RoleKeys(("root-ann", "root-ben", "spare"), 2))
    return session


def signed_by(asked, name, all_keys):
    folder, made = all_keys
    uri = f"pem:{folder}/{made.keys[name].uri.removeprefix('pem:')}"
    passphrases = Passphrases({None: folder / "passphrase"})
    return offline.sign(asked, name, passphrases=passphrases, uri=uri, module=None)


def test_a_signature_comes_back_as_a_file(waiting, all_keys, tmp_path):
    file = tmp_path / "request.json"
    file.write_bytes(offline.encode(offline.request(waiting, "root")))
    back = signed_by(offline.read(file), "root-ben", all_keys)
    assert signed_by(back, "root-ben", all_keys) == back
    assert [each.missing for each in offline.accept(waiting, back)] == [0]
    assert "root" in releasing.release(waiting).written
    assert waiting.look().state.root.signed.version == 2
    assert offline.accept(waiting, back) == (), "twice is once"


def test_what_is_shown_before_signing(waiting):
    shown = offline.show(offline.request(waiting, "root"), "root-ben")
    text = "\n".join(shown.lines)
    assert "fleet meadow, stage dev; compared with the version before, which this key has signed" in text
    assert "root: version 1 -> version 2" in text
    assert "keys of root: + ben (" in text
    assert "- cem (" in text
    assert len(shown.fingerprint) == 64


def test_a_forged_past_hides_nothing(session, make_bundle):
    """Whoever asks lies about what is published, so that a smuggled bundle looks old: it is shown as new."""
    let_out(session, make_bundle())
    staging.stage(only(session, "spare"), make_bundle("6.6.6"))
    asked = offline.request(session, "build-model")
    assert "+ models/assistant/6.6.6/manifest.json" in "\n".join(offline.show(asked, "build-dan").lines)
    assert "models/assistant/1.0.0" not in "\n".join(offline.show(asked, "build-dan").lines)
    published = msgspec.json.decode(asked.published)
    published["signed"]["targets"] = msgspec.json.decode(asked.proposed)["signed"]["targets"]
    forged = msgspec.structs.replace(asked, published=msgspec.json.encode(published).decode())
    text = "\n".join(offline.show(forged, "build-dan").lines)
    assert "compared with nothing" in text
    assert "+ models/assistant/6.6.6/manifest.json" in text


def test_a_request_that_was_overtaken(waiting, all_keys):
    back = signed_by(offline.request(waiting, "root"), "root-ben", all_keys)
    changing.rotate(only(waiting, "root-ann"), "root", RoleKeys(("root-ann", "spare"), 2))
    with pytest.raises(RefusedError, match="same-bytes"):
        offline.accept(waiting, back)


def test_a_request_of_another_stage(waiting):
    asked = msgspec.structs.replace(offline.request(waiting, "root"), stage="production")
    with pytest.raises(RefusedError, match="own-stage"):
        offline.accept(waiting, asked)


def test_a_signature_of_nobody(waiting, all_keys):
    asked = offline.request(waiting, "root")
    with pytest.raises(UsageError, match="does not ask for 'build-eve'"):
        signed_by(asked, "build-eve", all_keys)
    proposed = msgspec.json.decode(asked.proposed)
    ben = all_keys[1].keys["root-ben"].keyid
    proposed["signatures"] = [{"keyid": ben, "sig": "00" * 64}]
    forged = msgspec.structs.replace(asked, proposed=msgspec.json.encode(proposed).decode())
    with pytest.raises(UsageError, match="no signature that counts"):
        offline.accept(waiting, forged)
    assert [each.missing for each in changing.rotate(
        only(waiting, "targets-ann"), "root", RoleKeys(("root-ann", "root-ben", "spare"), 2)
    ).waiting] == [1]  # fmt: skip


def test_nothing_waits(session):
    with pytest.raises(UsageError, match="nothing waits to be signed in root"):
        offline.request(session, "root")


def test_no_request(tmp_path):
    file = tmp_path / "x.json"
    file.write_text("{}")
    with pytest.raises(UsageError, match="no signing request"):
        offline.read(file)


def test_the_key_is_elsewhere(waiting, all_keys):
    asked = offline.request(waiting, "root")
    with pytest.raises(UsageError, match="private part of root-ben is not here"):
        offline.sign(asked, "root-ben", passphrases=Passphrases(), uri="pem:/nowhere/key.pem", module=None)
    wrong = all_keys[0] / "keys" / "root-cem.pem"
    with pytest.raises(UsageError, match="not the one that was asked for"):
        offline.sign(
            asked,
            "root-ben",
            passphrases=Passphrases({None: all_keys[0] / "passphrase"}),
            uri=f"pem:{wrong}",
            module=None,
        )


def test_a_session_of_another_fleet(waiting, all_keys):
    other = replace(waiting, settings=msgspec.structs.replace(waiting.settings, fleet="orchard"))
    with pytest.raises(RefusedError, match="own-stage"):
        offline.accept(other, offline.request(waiting, "root"))
