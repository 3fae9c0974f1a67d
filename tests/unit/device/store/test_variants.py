"""One variant of a bundle that has several: what a device takes, keeps, and finds again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tests.unit.device.store.conftest import changed, debris, weights, whole
from tests.unit.device.store.registry_double import Double, safetensors, write_bundle

from hedgerow.device import variant as choosing
from hedgerow.device.store import collect
from hedgerow.device.store.stage import look, stage
from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry import variants
from hedgerow.registry.manifest import GoldenText, Manifest, Message, Provenance, Requires, Source, Variant
from hedgerow.registry.reference import Reference
from hedgerow.registry.transfer import codec, narrow

OLD, NEW = Reference("assistant", "1.0.0"), Reference("assistant", "1.1.0")
CPU = Variant(name="cpu", folder="plain", format="onnx-genai", requires=Requires(memory_mb=900))
HAT = Variant(
    name="h10", folder="chip", format="hef", requires=Requires(memory_mb=500, hat=("hat-plus-2",)), description="NPU"
)
SAME, HEAD = weights(1, 400_000), weights(2, 300_000)


def tensors(version: str) -> bytes:
    """One tensor is the same in every version, one is requantized from the second on, one is new."""
    head = HEAD if version == "1.0.0" else changed(HEAD, 50)
    return safetensors({"body": SAME, "head": head, "tail": weights(int(version[2]) + 3, 100_000)})


def build(folder: Path, version: str) -> Path:
    for path, data in {
        "plain/model.safetensors": tensors(version),
        "chip/model.hef": weights(int(version[2]) + 5, 300_000),
        "tokens/tokenizer.json": b"the same",
        "LICENSE": b"free",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    manifest = Manifest(
        schema=2,
        name="assistant",
        version=version,
        format=CPU.format,
        license="Apache-2.0",
        files=bundles.describe_files(folder),
        requires=CPU.requires,
        provenance=Provenance(sources=(Source("a test"),), builder="a test", tools={}),
        golden=(GoldenText((Message("user", "The capital of France?"),), "Paris"),),
        variants=(CPU, HAT),
    )
    (folder / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))
    return folder


@pytest.fixture
def registry(tmp_path):
    made = Double(tmp_path / "registry")
    for version, against in (("1.0.0", ()), ("1.1.0", (str(OLD),))):
        made.publish(build(tmp_path / "bundles" / version, version), against=against)
    return made


def signed(registry, reference=OLD):
    return manifests.decode(registry.manifest(reference), where="")


def on(device, name):
    return replace(device, pick=lambda _: name)


@pytest.mark.parametrize("name, file", [("cpu", "model.safetensors"), ("h10", "model.hef")])
def test_a_device_gets_its_own_variant_alone(name, file, device, registry):
    staged = stage(registry, registry, OLD, on(device, name), at_once=True)
    folder = device.layout.version(OLD)
    assert whole(device, OLD)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        file, "tokens/tokenizer.json", "LICENSE", "manifest.json"
    }  # fmt: skip
    data = (folder / "manifest.json").read_bytes()
    assert data == manifests.encode(variants.take(signed(registry), name)), "the identity that a plan names"
    assert staged.new_bytes == bundles.load(folder).manifest.size
    assert debris(device) == []
    registry.asked.clear()
    assert stage(registry, registry, OLD, on(device, name), at_once=True).changed is False
    assert registry.asked == []


def test_the_next_version_takes_what_is_here(device, registry):
    first = stage(registry, registry, OLD, on(device, "cpu"), at_once=True)
    planned = look(registry, registry, NEW, on(device, "cpu"))
    second = stage(registry, registry, NEW, on(device, "cpu"), at_once=True)
    assert second.by["here"] >= len(SAME)
    assert second.by["patch"] >= len(HEAD), "patches name files of the whole bundle, and serve the variant all the same"
    assert second.by == planned.bytes_by()
    assert second.fetched < first.fetched / 4
    assert whole(device, NEW)


def test_without_the_old_signed_manifest_chunks_come_instead_of_patches(device, registry):
    stage(registry, registry, OLD, on(device, "cpu"), at_once=True)
    device.layout.signed(OLD).write_bytes(b"{")
    staged = stage(registry, registry, NEW, on(device, "cpu"), at_once=True)
    assert (staged.by["patch"], whole(device, NEW)) == (0, True)


def test_a_bundle_that_gets_variants_is_patched_from_what_was_whole(device, registry, tmp_path):
    plain = write_bundle(tmp_path / "before", "0.9.0", {"plain/model.safetensors": tensors("1.0.0")})
    registry.publish(plain)
    newest = build(tmp_path / "bundles" / "1.2.0", "1.2.0")
    registry.publish(newest, against=("assistant@0.9.0",))
    stage(registry, registry, Reference("assistant", "0.9.0"), device, at_once=True)
    staged = stage(registry, registry, Reference("assistant", "1.2.0"), on(device, "cpu"), at_once=True)
    assert staged.by["patch"] >= len(HEAD)
    assert whole(device, Reference("assistant", "1.2.0"))


def test_what_is_remembered_of_a_variant_goes_with_it(device, registry):
    for reference in (OLD, NEW):
        stage(registry, registry, reference, on(device, "cpu"), at_once=True)
    assert device.layout.signed(OLD).exists()
    collect.collect(device.places, budget=0)
    assert not device.layout.version(OLD).exists()
    assert not device.layout.signed(OLD).exists()
    assert device.layout.signed(NEW).read_bytes() == registry.manifest(NEW)


def test_another_variant_takes_the_place_of_the_one_that_is_here(device, registry):
    stage(registry, registry, OLD, on(device, "cpu"), at_once=True)
    assert stage(registry, registry, OLD, on(device, "h10"), at_once=True).changed
    assert whole(device, OLD)
    assert bundles.load(device.layout.version(OLD)).manifest.variant == "h10"
    assert debris(device) == []


def test_a_variant_that_is_not_there(device, registry):
    with pytest.raises(UsageError, match="has no variant 'huge'; it has cpu, h10"):
        stage(registry, registry, OLD, on(device, "huge"), at_once=True)
    assert not device.layout.version(OLD).exists()


def test_a_recipe_that_lies_about_a_file_of_another_variant_is_refused_too(device, registry):
    """The recipe is held to the signed manifest before anything is taken out of it."""
    path = registry.root / "targets/models/assistant/1.0.0/transfer.json.zst"
    recipe = codec.decode(path.read_bytes(), where="")
    files = tuple(file for file in recipe.files if file.path != "chip/model.hef")
    path.write_bytes(codec.encode(msgspec.structs.replace(recipe, files=files)))
    with pytest.raises(PublisherError, match=r"lacks chip/model\.hef"):
        stage(registry, registry, OLD, on(device, "cpu"), at_once=True)


def test_narrowing_a_recipe_leaves_chunks_where_they_are(registry):
    recipe = codec.decode(registry.transfer(NEW), where="")
    taken = narrow.take(recipe, variants.where_from(signed(registry, NEW), "h10"))
    assert {file.path for file in taken.files} == {"LICENSE", "model.hef", "tokens/tokenizer.json"}
    before = next(file for file in recipe.files if file.path == "chip/model.hef")
    assert next(file for file in taken.files if file.path == "model.hef").segments == before.segments
    assert (taken.packs, taken.patches) == (recipe.packs, recipe.patches)


# -- which ---------------------------------------------------------------------------------


@pytest.fixture
def board(monkeypatch):
    def is_(hat, memory_mb):
        found = {"hat": {"kind": hat}, "board": {"memory_mb": memory_mb}}
        monkeypatch.setattr(choosing.hardware, "read", lambda **_: found)

    return is_


@pytest.mark.parametrize(
    "hat, memory_mb, name",
    [("none", 8192, "cpu"), ("hat-plus-2", 8192, "h10"), ("hat-unknown", 8192, "cpu"), ("hat-plus-2", 600, "h10")],
)
def test_a_board_takes_what_is_made_for_it(hat, memory_mb, name, board, registry):
    board(hat, memory_mb)
    assert choosing.picker(None)(signed(registry)) == name
    assert choosing.picker("cpu")(signed(registry)) == "cpu", "who is told does not look"


def test_a_board_that_none_fits_is_told_why(board, registry):
    board("none", 512)
    with pytest.raises(RefusedError, match="cpu needs 900 MB of memory, the board has 512; h10 is for hat-plus-2"):
        choosing.picker(None)(signed(registry))


def test_what_is_here_is_the_variant_that_was_named(registry):
    of = signed(registry)
    assert not choosing.is_of(of, None), "the whole bundle, as an older runtime has placed it"
    taken = variants.take(of, "h10")
    assert choosing.is_of(taken, None)
    assert choosing.is_of(taken, "h10")
    assert not choosing.is_of(taken, "cpu")
    plain = msgspec.structs.replace(taken, variant=None)
    assert choosing.is_of(plain, "default")
