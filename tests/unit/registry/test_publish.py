"""Build, approve and release in one step, as a small fleet publishes; what devices then find."""

from __future__ import annotations

import json
from datetime import date

import msgspec
import pytest
import stages

from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.registry import manifest as manifests
from hedgerow.registry.authority import founding, publishing, settings, staging, status
from hedgerow.registry.authority.keys import Passphrases
from hedgerow.registry.manifest import Base, Proof
from hedgerow.registry.packing.publish import packer
from hedgerow.registry.reference import Reference
from hedgerow.registry.verify import fetchable, trusted, verify

FIRST = Reference("assistant", "1.0.0")


def files(registry):
    return {path: registry.store.get(path) for path in registry.store.list("")}


def amend(folder, **changes):
    path = folder / "manifest.json"
    manifest = manifests.decode(path.read_bytes(), where="test")
    path.write_bytes(manifests.encode(msgspec.structs.replace(manifest, schema=2, **changes)))


def released(registry):
    return [each.reference for each in status.status(registry.session).releases]


def test_publish_makes_a_bundle_available(registry, make_bundle):
    folder = make_bundle()
    done = registry.publish(folder)
    assert (done.built.reference, done.changed) == ("assistant@1.0.0", True)
    assert [(event.what, event.subject) for event in done.settled.events] == [("release", "assistant@1.0.0")]
    manifest, data = trusted(registry.root, FIRST)
    assert data == (folder / "manifest.json").read_bytes()
    assert (manifest.reference, done.built.sha256) == ("assistant@1.0.0", manifests.digest(data))
    assert fetchable(registry.root, FIRST) == (manifest, data)
    assert verify(registry.root, [FIRST]) == {FIRST: []}


def test_publishing_again_changes_no_byte(registry, make_bundle):
    folder = make_bundle()
    registry.publish(folder)
    before = files(registry)
    done = registry.publish(folder)
    assert (done.changed, done.built.new_bytes) == (False, 0)
    assert files(registry) == before


def test_a_version_never_changes(registry, make_bundle):
    registry.publish(make_bundle())
    before = files(registry)
    with pytest.raises(RefusedError, match="a version never changes") as caught:
        registry.publish(make_bundle(text="other"))
    assert caught.value.exit_code == 3
    assert "new version" in caught.value.next_step
    assert files(registry) == before


def test_other_kinds_than_models_are_released_by_the_same_step(registry, make_bundle):
    folder = make_bundle()
    amend(folder, kind="adapter", format="onnx-adapter", base=Base("assistant", ">=1.0,<2"))
    assert registry.publish(folder).built.role == "build-adapter"
    assert trusted(registry.root, FIRST, kind="adapter")[0].kind == "adapter"
    with pytest.raises(RefusedError, match="the registry has no assistant@1"):
        trusted(registry.root, FIRST)


def test_who_says_no_leaves_the_builders_word_alone(registry, make_bundle):
    shown = []

    def asked(manifest, signed):
        shown.append((manifest.reference, len(signed)))
        raise UsageError("nobody said yes")

    folder = make_bundle()
    with pytest.raises(UsageError, match="nobody said yes"):
        publishing.publish(registry.session, folder, packer=packer, asked=asked)
    assert (shown, released(registry)) == ([("assistant@1.0.0", 2)], [])
    publishing.publish(registry.session, folder, packer=packer, asked=lambda *_: None)
    publishing.publish(registry.session, folder, packer=packer, asked=asked)  # nothing to ask any more
    assert (len(shown), released(registry)) == (1, ["assistant@1.0.0"])


def test_a_bundle_is_held_to_the_proofs_that_it_claims(registry, make_bundle):
    asked = []

    def prover(folder, today):
        asked.append((folder, today))
        raise RefusedError("rule proofs-are-there")

    plain, proven = make_bundle("1.0.0"), make_bundle("1.1.0")
    amend(proven, proofs=(Proof("provenance", "model.onnx"),))
    publishing.publish(registry.session, plain, packer=packer, prover=prover)
    assert asked == []
    with pytest.raises(RefusedError, match="proofs-are-there"):
        publishing.publish(registry.session, proven, packer=packer, prover=prover)
    assert asked == [(proven, registry.session.now().date())]
    assert isinstance(asked[0][1], date)
    assert released(registry) == ["assistant@1.0.0"]


def test_a_stage_may_want_proofs_of_every_bundle(registry, make_bundle):
    registry.session.settings = msgspec.structs.replace(registry.session.settings, proofs=True)
    before = files(registry)

    def prover(folder, today):
        raise RefusedError("rule proofs-are-there")

    with pytest.raises(RefusedError, match="proofs-are-there"):
        staging.stage(registry.session, make_bundle(), packer=packer, prover=prover)
    assert files(registry) == before


def test_equal_files_are_stored_once(registry, make_bundle):
    registry.publish(make_bundle("1.0.0"))
    registry.publish(make_bundle("1.1.0"))
    assert len(list(registry.store.list("targets/blobs/"))) == 3


def test_a_truncated_file_is_refused_before_anything_is_written(registry, make_bundle):
    before = files(registry)
    folder = make_bundle()
    (folder / "model.onnx").write_text("short")
    with pytest.raises(PublisherError, match=r"model\.onnx is truncated: 5 bytes, the manifest says 700"):
        registry.publish(folder)
    assert files(registry) == before


@pytest.mark.parametrize("victim", ["targets/blobs/", "targets/models/", "targets/packs/"])
@pytest.mark.parametrize("damage", ["gone", "altered"])
def test_publishing_again_mends(victim, damage, registry, make_bundle):
    folder = make_bundle()
    registry.publish(folder)
    whole = files(registry)
    for path in list(registry.store.list(victim)):
        file = registry.root / path
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(b"\0" + file.read_bytes()[1:])
    assert verify(registry.root, [FIRST])[FIRST] != []
    assert registry.publish(folder).settled.events == ()
    assert verify(registry.root, [FIRST]) == {FIRST: []}
    assert files(registry) == whole


def test_verify_names_every_damaged_file(registry, make_bundle):
    registry.publish(make_bundle())
    for path in registry.store.list("targets/blobs/"):
        (registry.root / path).write_bytes(b"")
    found = verify(registry.root, [FIRST])[FIRST]
    assert {error.what.partition(" is")[0] for error in found} == {"model.onnx", "tokens/tokenizer.json"}


@pytest.mark.parametrize("data, said", [(b"", "is truncated: 0 bytes"), (None, "is missing")])
def test_what_devices_fetch_is_looked_for(registry, make_bundle, data, said):
    registry.publish(make_bundle())
    (pack,) = registry.store.list("targets/packs/")
    (registry.root / pack).unlink()
    if data is not None:
        (registry.root / pack).write_bytes(data)
    with pytest.raises(PublisherError, match=said) as caught:
        fetchable(registry.root, FIRST)
    assert pack in caught.value.where
    assert trusted(registry.root, FIRST)[0].reference == "assistant@1.0.0"


def test_releases_are_sorted_by_name_and_version(registry, make_bundle):
    for name, version in (("b", "1.0.0"), ("a", "1.10.0"), ("a", "1.9.0"), ("a", "1.10.0-rc.1")):
        registry.publish(make_bundle(version, name=name))
    assert released(registry) == ["a@1.9.0", "a@1.10.0-rc.1", "a@1.10.0", "b@1.0.0"]


def again(registry, **how):
    return founding.found(
        registry.folder, stages.FLEET, stages.STAGE, passphrases=Passphrases(), now=registry.session.now, **how
    )[1]


def test_a_stage_is_founded_once(registry):
    before, keys = files(registry), settings.load(registry.folder)
    assert again(registry, unattended=True).written == ()
    assert again(registry).written == ()  # nobody is asked for a passphrase: every key is there
    assert (files(registry), settings.load(registry.folder)) == (before, keys)


def test_what_was_delegated_to_others_since_stays(registry, make_bundle):
    registry.publish(make_bundle())
    (registry.folder / "keys" / "builder.pem").rename(registry.folder / "builder-elsewhere.pem")
    again(registry, unattended=True)
    assert not (registry.folder / "keys" / "builder.pem").exists()
    assert released(registry) == ["assistant@1.0.0"]


def test_keys_and_passphrases_are_their_owners_alone(registry):
    kept = [*registry.folder.glob("keys/*"), *registry.folder.glob("*.passphrase")]
    assert len(kept) == 8
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


def test_no_registry_yet(tmp_path):
    with pytest.raises(UsageError, match="no authority yet") as caught:
        stages.open_stage(tmp_path / "none")
    assert caught.value.next_step == "hedgerow registry init --stage none"


def test_refresh_signs_what_ends_soon(registry, make_bundle, clock):
    registry.publish(make_bundle())
    assert registry.refresh().written == ()
    clock.forward(hours=20)
    assert registry.refresh().written == ("timestamp",)
    assert registry.refresh().written == ()
    clock.forward(days=6)
    assert registry.refresh().written == ("snapshot", "timestamp")


def test_publishing_needs_no_root_key(registry, make_bundle, tmp_path):
    for name in ("root", "targets"):
        (registry.folder / "keys" / f"{name}.pem").rename(tmp_path / f"{name}-in-a-safe.pem")
    assert registry.publish(make_bundle()).changed is True


def test_metadata_that_somebody_else_signed_is_not_built_upon(registry, make_bundle):
    registry.publish(make_bundle())
    path = "metadata/2.build-model.json"
    document = json.loads(registry.store.get(path))
    document["signed"]["targets"]["models/evil/1.0.0/manifest.json"] = {"length": 1, "hashes": {"sha256": "0" * 64}}
    registry.store.put(path, json.dumps(document).encode())
    with pytest.raises(PublisherError):
        registry.publish(make_bundle("1.1.0"))


def test_trusted_without_a_registry(tmp_path):
    with pytest.raises(UsageError, match="no registry"):
        trusted(tmp_path, Reference("a", "1.0.0"))
    assert isinstance(verify(tmp_path, [FIRST])[FIRST][0], UsageError)
