"""Staging in deltas from a registry as publishers make it: packs, two roles' signatures, mutual TLS."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from tests.unit.device.store.registry_double import safetensors, write_bundle
from tests.unit.registry.client.support import Clock, Repository

from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry import trust_names as names
from hedgerow.registry import variants
from hedgerow.registry.manifest import Requires, Variant
from hedgerow.registry.packing.publish import packer
from hedgerow.registry.reference import Reference
from hedgerow.registry.store import FolderStore
from hedgerow.registry.transfer import codec
from hedgerow.registry.transfer.recipe import pack_path

OLD, NEW = Reference("assistant", "1.0.0"), Reference("assistant", "1.1.0")


def weights(seed, size):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@pytest.fixture
def published(gateway, device, tmp_path):
    """Two versions behind the gateway: of the second a third is as it was, a third has changed a little."""
    repository = Repository(tmp_path / "signed", Clock(datetime.now(UTC).replace(microsecond=0)))
    still, turned = weights(1, 300_000), weights(2, 300_000)
    slightly = turned.copy()
    slightly[::50] += 1
    for reference, second, seed in ((OLD, turned, 3), (NEW, slightly, 4)):
        tensors = {"still": still.tobytes(), "turned": second.tobytes(), "new": weights(seed, 300_000).tobytes()}
        files = {"model.safetensors": safetensors(tensors), "LICENSE": b"the same\n"}
        bundle = bundles.load(write_bundle(tmp_path / "built" / reference.version, reference.version, files))
        recipe = packer(FolderStore(repository.folder), bundle)
        manifest = (bundle.directory / manifests.FILE_NAME).read_bytes()
        roles = repository.release(reference, data=manifest)
        roles += repository.release(reference, data=recipe, file=names.TRANSFER)
        repository.publish(*dict.fromkeys(roles))
    gateway.root = repository.folder
    shutil.copy(repository.folder / "metadata" / "1.root.json", device.config.trust_dir / "root.json")
    return repository


def pack_of(repository, reference):
    """The pack that has the chunks which are new in a version."""
    path = repository.folder / "targets" / names.target("model", reference.name, reference.version, names.TRANSFER)
    recipe = codec.decode(path.read_bytes(), where=str(path))
    tensor = recipe.files[1].segments[-1]
    return f"targets/{pack_path(recipe.packs[tensor.pack].sha256)}"


def test_a_version_and_the_next_one(published, command, device, server):
    first = command("stage", str(OLD))
    assert first.code == 0, first.stderr
    looked = command("stage", str(NEW), "--plan")
    second = command("stage", str(NEW))
    assert second.code == 0, second.stderr
    for version in (OLD.version, NEW.version):
        bundles.verify_files(device.home / version)
    assert second.json["by"] == looked.json["by"]
    assert second.json["by"]["here"] >= 300_000
    assert second.json["by"]["patch"] >= 300_000
    assert second.json["fetched"] < 0.45 * first.json["fetched"]
    assert command("activate", str(NEW)).code == 0, "whatever way it came, it is a version as any other"
    assert device.current == NEW.version
    assert command("stage", str(NEW)).json["changed"] is False


@pytest.mark.parametrize("cut", [0, 1, 70_000])
def test_a_line_that_is_cut(cut, published, command, device, gateway):
    gateway.cut[pack_of(published, OLD)] = cut
    cut_off = command("stage", str(OLD))
    assert (cut_off.code, cut_off.error["error"]) == (1, "NetworkError")
    assert device.versions() == []
    gateway.cut.clear()
    assert command("stage", str(OLD)).code == 0
    bundles.verify_files(device.home / OLD.version)


def test_an_altered_pack(published, command, device, gateway):
    gateway.alter[pack_of(published, OLD)] = lambda data: data[:-5000] + bytes(5000)
    refused = command("stage", str(OLD))
    assert (refused.code, refused.error["error"]) == (1, "PublisherError")
    assert "altered" in refused.error["what"]
    assert device.versions() == []


def test_one_variant_of_a_release_that_has_two(command, server, device, registry, make_bundle, gateway):  # noqa: PLR0917
    """Built, approved and released as a whole; the device fetches, verifies, serves and finds again what is its own."""
    folder = make_bundle(NEW.version)
    (folder / "chip").mkdir()
    (folder / "chip" / "model.hef").write_bytes(weights(5, 90_000).tobytes())
    (folder / "plain").mkdir()
    (folder / "model.onnx").rename(folder / "plain" / "model.onnx")
    old = manifests.decode((folder / manifests.FILE_NAME).read_bytes(), where="")
    cpu = Variant(name="cpu", folder="plain", format=old.format, requires=old.requires)
    chip = Variant(name="h10", folder="chip", format="hef", requires=Requires(memory_mb=64, hat=("hat-plus-2",)))
    (folder / manifests.FILE_NAME).unlink()
    of = msgspec.structs.replace(old, schema=2, files=bundles.describe_files(folder), variants=(cpu, chip))
    (folder / manifests.FILE_NAME).write_bytes(manifests.encode(of))
    registry.publish(folder)

    staged = command("stage", str(NEW), "--variant", "h10")
    assert staged.code == 0, staged.stderr
    assert {path.name for path in (device.home / NEW.version).iterdir()} == {
        "LICENSE", "manifest.json", "model.hef", "tokens"
    }  # fmt: skip
    assert staged.json["model"]["sha256"] == manifests.digest(manifests.encode(variants.take(of, "h10")))
    assert command("stage", str(NEW), "--here", "--variant", "cpu").code == 1
    gateway.asked.clear()
    assert command("activate", str(NEW), "--variant", "h10").code == 0
    assert (server.serving, gateway.asked) == (NEW.version, []), "what is here needs no registry"
    wrong = command("stage", str(NEW), "--variant", "huge")
    assert (wrong.code, "it has cpu, h10" in wrong.error["what"]) == (2, True)


def test_a_release_that_nobody_has_approved(published, command, device):
    """The builder's word alone moves no byte of it."""
    role = names.role("approve", "model", None)
    for file in names.RELEASE_FILES:
        del published.signed[role].targets[names.target("model", NEW.name, NEW.version, file)]
    published.publish(role)
    refused = command("stage", str(NEW))
    assert refused.code == 3
    assert device.versions() == []
