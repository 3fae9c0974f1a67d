from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hedgerow.errors import PublisherError
from hedgerow.registry.packing import earlier
from hedgerow.registry.packing import publish as packing
from hedgerow.registry.packing.parallel import ordered
from hedgerow.registry.transfer import codec, packs, patches
from hedgerow.registry.transfer.recipe import check_agrees, pack_path


def read_pack(store, pack, place):
    return store.read_range(f"targets/{pack_path(pack.sha256)}", place.offset, place.length)


def built(store, recipe):
    """Every file, from packs alone, as a device without anything builds it."""
    files = {}
    for file in recipe.files:
        parts = [
            packs.unframe(
                read_pack(store, recipe.packs[each.pack], each), size=each.size, sha256=each.sha256, where="test"
            )
            for each in file.segments
        ]
        files[file.path] = b"".join(parts)
    return files


def patched(store, recipe, offer, old_folder):
    """(file, segment) → its bytes, made by the offer's patches from an old version's folder."""
    data = packs.unframe(
        read_pack(store, recipe.packs[offer.index.pack], offer.index),
        size=offer.index.size,
        sha256=offer.index.sha256,
        where="test",
    )
    index = codec.decode_index(data, where="test")
    found = {}
    for block in index.blocks:
        segment = recipe.files[block.file].segments[block.segment]
        old = (old_folder / index.paths[block.old]).read_bytes()[block.old_offset :][: block.old_size]
        found[block.file, block.segment] = patches.apply(
            old,
            read_pack(store, index.packs[block.pack], block),
            transform=block.transform,
            old_sha256=block.old_sha256,
            size=segment.size,
            sha256=segment.sha256,
            where="test",
        )
    return found


def content(bundle):
    return {file.path: (bundle.directory / file.path).read_bytes() for file in bundle.manifest.files}


def test_a_first_version_is_whole_in_its_packs(store, publish, make_bundle, weights):
    bundle = make_bundle("1.0.0", weights())
    packed = publish(bundle)
    recipe = codec.decode(packed.recipe, where="test")
    check_agrees(recipe, bundle.manifest)
    assert built(store, recipe) == content(bundle)
    assert packed.patched == ()
    assert packed.new_bytes == sum(entry.size for entry in store.entries("targets/packs/"))


def test_a_pack_is_named_by_its_content(store, publish, make_bundle, weights):
    publish(make_bundle("1.0.0", weights()))
    for path in store.list("targets/packs/"):
        assert hashlib.sha256(store.get(path)).hexdigest() == path.rpartition("/")[2]


def test_what_has_not_changed_is_not_sent_again(store, publish, make_bundle, weights):
    first = publish(make_bundle("1.0.0", weights()))
    bundle = make_bundle("1.1.0", weights(changed=(3,)))
    second = publish(bundle)
    old, new = (codec.decode(each.recipe, where="test") for each in (first, second))
    assert second.new_bytes < first.new_bytes / 2
    assert {pack.sha256 for pack in old.packs} & {pack.sha256 for pack in new.packs}
    assert built(store, new) == content(bundle)


def test_an_unchanged_re_release_sends_nothing(store, publish, make_bundle, weights):
    publish(make_bundle("1.0.0", weights()))
    before = list(store.list("targets/packs/"))
    again = make_bundle("1.0.1", weights())
    packed = publish(again)
    assert (packed.new_bytes, packed.patched) == (0, ())
    assert list(store.list("targets/packs/")) == before
    assert built(store, codec.decode(packed.recipe, where="test")) == content(again)


def test_patches_lead_from_each_of_the_last_versions(store, publish, make_bundle, weights):
    bundles = [
        make_bundle(f"1.{number}.0", weights(changed=(2, 3) if number else (), seed=number), text=f"tokens {number}")
        for number in range(4)
    ]
    packed = [publish(bundle, versions=2) for bundle in bundles][-1]
    recipe = codec.decode(packed.recipe, where="test")
    assert packed.patched == ("1.2.0", "1.1.0")
    for offer in recipe.patches:
        old = next(each for each in bundles if each.manifest.version == offer.version)
        assert offer.manifest_sha256 == old.sha256
        made = patched(store, recipe, offer, old.directory)
        assert len(made) == offer.blocks > 0
        changed = [
            (number, place)
            for number, file in enumerate(recipe.files)
            for place, segment in enumerate(file.segments)
            if segment.sha256 not in {each.sha256 for other in known(store, old) for each in other.segments}
        ]
        assert set(made) <= set(changed)
        # Two layers of float32 that moved a little: well below what their chunks take.
        taken = sum(recipe.files[file].segments[place].length for file, place in made)
        assert offer.size < 0.7 * taken


def known(store, bundle):
    return codec.decode(earlier.stored_recipe(store, bundle.manifest), where="test").files


def test_a_version_of_the_old_path_is_patched_from_too(store, publish, make_bundle, weights):
    """Published before packs: a manifest and whole files."""
    old = make_bundle("1.0.0", weights())
    store.put("targets/models/assistant/1.0.0/manifest.json", (old.directory / "manifest.json").read_bytes())
    for file in old.manifest.files:
        store.put_file(f"targets/blobs/{file.sha256}", old.directory / file.path)
    new = make_bundle("1.1.0", weights(changed=(1,)))
    packed = publish(new)
    recipe = codec.decode(packed.recipe, where="test")
    assert packed.patched == ("1.0.0",)
    assert patched(store, recipe, recipe.patches[0], old.directory)
    # No device has packs of 1.0.0: the whole new version is in packs.
    assert built(store, recipe) == content(new)


def test_packing_again_gives_the_same_bytes(store, publish, make_bundle, weights, tmp_path):
    publish(make_bundle("1.0.0", weights()))
    bundle = make_bundle("1.1.0", weights(changed=(2,)))
    first = publish(bundle, threads=1)
    assert publish(bundle) == packing.Packed(first.recipe, 0, first.patched)
    # From nothing but the version before, with more threads.
    for pack in codec.decode(first.recipe, where="test").packs:
        if pack.sha256 not in {each.sha256 for each in known_packs(store, "1.0.0")}:
            store.delete(f"targets/{pack_path(pack.sha256)}")
    again = publish(bundle, threads=4)
    assert again.recipe == first.recipe
    assert again.new_bytes > 0
    assert built(store, codec.decode(again.recipe, where="test")) == content(bundle)


def known_packs(store, version):
    data = store.get(f"targets/models/assistant/{version}/transfer.json.zst")
    return codec.decode(data, where="test").packs


def test_a_pack_that_was_lost_is_not_relied_upon(store, publish, make_bundle, weights):
    publish(make_bundle("1.0.0", weights()))
    for path in list(store.list("targets/packs/")):
        store.delete(path)
    bundle = make_bundle("1.1.0", weights())
    packed = publish(bundle)
    assert built(store, codec.decode(packed.recipe, where="test")) == content(bundle)


def test_a_file_that_changes_meanwhile_is_found(store, publish, make_bundle, weights):
    bundle = make_bundle("1.0.0", weights())
    path = bundle.directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(PublisherError, match="changed while it was published"):
        publish(bundle)
    assert list(store.list("")) == []


@pytest.mark.parametrize("written", [0, 1])
def test_a_publisher_that_dies_leaves_what_the_next_one_uses(  # noqa: PLR0917 - fixtures
    store, publish, make_bundle, weights, monkeypatch, written
):
    """One pack of new chunks, one of patches: it dies before the first and before the second."""
    publish(make_bundle("1.0.0", weights()))
    before = {path: store.get(path) for path in store.list("")}
    bundle = make_bundle("1.1.0", weights(changed=(0, 1)))
    put_file, sent = store.put_file, []

    def dies(path, source):
        if len(sent) == written:
            raise ConnectionError("killed")
        sent.append(path)
        put_file(path, source)

    monkeypatch.setattr(packing, "_UPLOADS", 1)
    monkeypatch.setattr(store, "put_file", dies)
    with pytest.raises(ConnectionError):
        publish(bundle)
    after = {path: store.get(path) for path in store.list("")}
    assert after.items() >= before.items()
    assert after.keys() - before.keys() == set(sent)
    monkeypatch.setattr(store, "put_file", put_file)
    packed = publish(bundle)
    assert packed.new_bytes == sum(pack.size for pack in new_packs(store, packed, before) if sent_not(pack, sent))
    assert built(store, codec.decode(packed.recipe, where="test")) == content(bundle)


def new_packs(store, packed, before):
    recipe = codec.decode(packed.recipe, where="test")
    return [each for each in packing.named_packs(store, recipe) if f"targets/{pack_path(each.sha256)}" not in before]


def sent_not(pack, sent):
    return f"targets/{pack_path(pack.sha256)}" not in sent


def test_versions_in_the_order_of_semantic_versioning(store, publish, make_bundle, weights):
    for version in ("1.9.0", "1.10.0", "1.10.0-rc.1", "2.0.0"):
        publish(make_bundle(version, weights(changed=(int(version[2]) % 4,), seed=len(version))))
    packed = publish(make_bundle("1.10.1", weights(changed=(0, 1, 2, 3), seed=9)), versions=2)
    assert packed.patched == ("1.10.0", "1.10.0-rc.1")


def test_ordered_keeps_order_and_bounds_what_is_under_way():
    running, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1
        return number * 2

    drawn = []

    def items():
        for number in range(50):
            drawn.append(number)
            yield number

    with ThreadPoolExecutor(4) as pool:
        results = ordered(pool, work, items(), ahead=5)
        assert next(results) == (0, 0)
        assert len(drawn) == 5
        assert list(results) == [(number, number * 2) for number in range(1, 50)]


def test_ordered_raises_where_it_went_wrong():
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    with ThreadPoolExecutor(2) as pool:
        results = ordered(pool, work, range(10), ahead=4)
        assert [next(results)[1] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="three"):
            next(results)
