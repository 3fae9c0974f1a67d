from __future__ import annotations

import json

import msgspec
import pytest

from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import Base
from hedgerow.registry.publish import Registry
from hedgerow.registry.reference import Reference
from hedgerow.registry.store import FolderStore
from hedgerow.registry.verify import trusted, verify


def files(registry):
    return {path: registry.store.get(path) for path in registry.store.list("")}


def test_publish_makes_a_bundle_available(registry, make_bundle):
    folder = make_bundle()
    done = registry.publish(folder)
    assert (str(done.reference), done.changed) == ("assistant@1.0.0", True)
    manifest, data = trusted(registry.store.root, done.reference)
    assert data == (folder / "manifest.json").read_bytes()
    assert manifest.reference == "assistant@1.0.0"
    assert verify(registry.store.root, registry.references()) == {done.reference: []}


def test_publishing_again_changes_no_byte(registry, make_bundle):
    folder = make_bundle()
    registry.publish(folder)
    before = files(registry)
    done = registry.publish(folder)
    assert (done.changed, done.new_bytes) == (False, 0)
    assert files(registry) == before


def test_a_version_never_changes(registry, make_bundle):
    registry.publish(make_bundle())
    before = files(registry)
    with pytest.raises(RefusedError, match="a version never changes") as caught:
        registry.publish(make_bundle(text="other"))
    assert caught.value.exit_code == 3
    assert "new version" in caught.value.next_step
    assert files(registry) == before


def test_what_devices_would_not_take_from_here_is_refused_with_where_it_goes(registry, make_bundle):
    folder = make_bundle()
    path = folder / "manifest.json"
    manifest = manifests.decode(path.read_bytes(), where="test")
    adapter = msgspec.structs.replace(
        manifest, schema=2, kind="adapter", format="onnx-adapter", base=Base("assistant", ">=1.0,<2")
    )
    path.write_bytes(manifests.encode(adapter))
    before = files(registry)
    with pytest.raises(RefusedError, match="is of kind adapter") as caught:
        registry.publish(folder)
    assert "hedgerow registry stage" in str(caught.value.next_step)
    assert files(registry) == before


def test_equal_files_are_stored_once(registry, make_bundle):
    registry.publish(make_bundle("1.0.0"))
    folder = make_bundle("1.1.0")
    done = registry.publish(folder)
    assert (
        done.new_bytes == (folder / "tokens/tokenizer.json").stat().st_size + (folder / "manifest.json").stat().st_size
    )
    assert len(list(registry.store.list("targets/blobs/"))) == 3


def test_a_truncated_file_is_refused_before_anything_is_written(registry, make_bundle):
    before = files(registry)
    folder = make_bundle()
    (folder / "model.onnx").write_text("short")
    with pytest.raises(PublisherError, match=r"model\.onnx is truncated: 5 bytes, the manifest says 700"):
        registry.publish(folder)
    assert files(registry) == before


@pytest.mark.parametrize("victim", ["targets/blobs/", "targets/models/"])
@pytest.mark.parametrize("damage", ["gone", "altered"])
def test_publishing_again_mends(victim, damage, registry, make_bundle):
    folder = make_bundle()
    reference = registry.publish(folder).reference
    for path in list(registry.store.list(victim)):
        file = registry.store.root / path
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(b"\0" + file.read_bytes()[1:])
    assert verify(registry.store.root, [reference])[reference] != []
    assert registry.publish(folder).changed is True
    assert verify(registry.store.root, [reference]) == {reference: []}


def test_verify_names_every_damaged_file(registry, make_bundle):
    reference = registry.publish(make_bundle()).reference
    for path in registry.store.list("targets/blobs/"):
        (registry.store.root / path).write_bytes(b"")
    found = verify(registry.store.root, [reference])[reference]
    assert {error.what.partition(":")[0] for error in found} == {"model.onnx", "tokens/tokenizer.json"}


def test_references_are_sorted_by_name_and_version(registry, make_bundle):
    for name, version in (("b", "1.0.0"), ("a", "1.10.0"), ("a", "1.9.0"), ("a", "1.10.0-rc.1")):
        registry.publish(make_bundle(version, name=name))
    assert [str(each) for each in registry.references()] == ["a@1.9.0", "a@1.10.0-rc.1", "a@1.10.0", "b@1.0.0"]


def test_init_is_done_once(registry):
    before = files(registry)
    assert registry.init() is False
    assert files(registry) == before


def test_no_registry_yet(tmp_path, make_bundle):
    with pytest.raises(UsageError, match="no signing keys") as caught:
        Registry(FolderStore(tmp_path / "none"), tmp_path / "none-signing").publish(make_bundle())
    assert caught.value.next_step == "hedgerow registry init"


def test_refresh_signs_what_ends_soon(registry, make_bundle, clock):
    registry.publish(make_bundle())
    assert registry.refresh() == []
    clock.forward(hours=20)
    assert registry.refresh() == ["timestamp"]
    assert registry.refresh() == []
    clock.forward(days=6)
    assert registry.refresh() == ["snapshot", "timestamp"]
    assert (registry.expiries()["timestamp"] - clock.now).days == 1


def test_publishing_needs_no_root_key(registry, make_bundle, tmp_path):
    (tmp_path / "signing" / "root.pem").rename(tmp_path / "in-a-safe.pem")
    assert registry.publish(make_bundle()).changed is True


def test_metadata_that_somebody_else_signed_is_not_built_upon(registry, make_bundle):
    registry.publish(make_bundle())
    path = "metadata/2.targets.json"
    document = json.loads(registry.store.get(path))
    document["signed"]["targets"]["models/evil/1.0.0/manifest.json"] = {"length": 1, "hashes": {"sha256": "0" * 64}}
    registry.store.put(path, json.dumps(document).encode())
    with pytest.raises(PublisherError, match="damaged"):
        registry.publish(make_bundle("1.1.0"))


def test_trusted_without_a_registry(tmp_path):
    with pytest.raises(UsageError, match="no registry"):
        trusted(tmp_path, Reference("a", "1.0.0"))
