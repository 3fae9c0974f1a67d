from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
import stages

from hedgerow import paths
from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry import variants
from hedgerow.registry.manifest import Base, GoldenText, Manifest, Message, Provenance, Requires, Source
from hedgerow.registry.manifest import Variant as BundleVariant
from hedgerow.rollout import release, survey
from hedgerow.rollout.plan import Release

FLEET, NEW = "meadow-unit", "assistant@1.1.0"


def store() -> Path:
    return paths.stage_dir(FLEET, "production") / "registry"


def test_a_published_bundle(published: str) -> None:
    found = release.read(FLEET, NEW)
    assert (found.bundle, found.name, found.sha256, found.size_bytes) == (NEW, "assistant", published, 7)
    assert found.probe.expect == "Paris"
    assert found.probes == found.questions == [found.probe]
    assert (found.stage, [each.name for each in found.variants], found.builds) == ("production", ["default"], [])
    assert found.serves_hashes == {published}


def golden(text: str) -> GoldenText:
    return GoldenText(messages=(Message("user", text),), expect="x")


def test_a_plan_carries_no_more_questions_than_a_journal_can(published: str) -> None:
    data = (store() / "targets/models/assistant/1.1.0/manifest.json").read_bytes()
    manifest = manifests.decode(data, where="test")
    many = msgspec.structs.replace(manifest, golden=tuple(golden(str(number)) for number in range(80)))
    assert release._probes(many) == list(many.golden[:50])
    long = msgspec.structs.replace(manifest, golden=(golden("a" * 300_000), golden("short")))
    assert release._probes(long) == [golden("short")]
    assert release._probes(msgspec.structs.replace(manifest, golden=long.golden[:1])) == []


@pytest.mark.parametrize(
    "of, how",
    [
        ({"kind": "adapter", "format": "onnx-adapter", "base": Base("assistant", ">=1.0,<2")}, "hedgerow model attach"),
        ({"kind": "runtime", "format": "wheels", "golden": ()}, "change=runtime"),
    ],
)
def test_what_is_no_model_is_refused_with_how_it_reaches_devices(published: str, tmp_path: Path, of, how: str) -> None:
    folder = tmp_path / "tone"
    shutil.copytree(tmp_path / "bundle", folder)
    manifest = bundles.load(folder).manifest
    changed = msgspec.structs.replace(manifest, schema=2, name="tone", version="1.0.0", **of)
    (folder / "manifest.json").write_bytes(manifests.encode(changed))
    stages.open_stage(paths.stage_dir(FLEET, paths.DEFAULT_STAGE)).publish(folder)
    with pytest.raises(RefusedError, match=f"rule kind: this is a bundle of kind {of['kind']}: .*{how}"):
        release.read(FLEET, "tone@1.0.0")


def test_a_plan_of_an_older_controller_has_one_question(release: Release) -> None:
    old = msgspec.to_builtins(release)
    del old["probes"], old["slo"]
    assert msgspec.convert(old, Release).questions == [release.probe]


def test_what_is_not_there(published: str) -> None:
    with pytest.raises(RefusedError, match=r"the registry has no assistant@2\.0\.0"):
        release.read(FLEET, "assistant@2.0.0")
    for fleet, stage in (("another-fleet", "production"), (FLEET, "dev")):
        with pytest.raises(UsageError, match="no authority yet"):
            release.read(fleet, NEW, stage=stage)
    with pytest.raises(UsageError, match="is not NAME@VERSION"):
        release.read(FLEET, "assistant")


def test_an_altered_manifest_is_refused(published: str) -> None:
    path = store() / "targets/models/assistant/1.1.0/manifest.json"
    path.write_bytes(path.read_bytes().replace(b"Paris", b"Lyon!"))
    with pytest.raises(RefusedError, match="is not the content that was signed for"):
        release.read(FLEET, NEW)


def test_a_missing_or_cut_off_pack_is_said(published: str) -> None:
    (pack,) = [path for path in (store() / "targets/packs").rglob("*") if path.is_file()]
    pack.write_bytes(b"")
    with pytest.raises(PublisherError, match=r"of assistant@1\.1\.0 is truncated: 0 bytes"):
        release.read(FLEET, NEW)
    pack.unlink()
    with pytest.raises(PublisherError, match=r"of assistant@1\.1\.0 is missing"):
        release.read(FLEET, NEW)


@pytest.fixture
def several(fleet_ca, tmp_path: Path) -> Manifest:
    """A version with two builds: one for any board, one for a HAT that needs less memory."""
    folder = tmp_path / "several"
    for name, size in (("cpu", 3000), ("hailo", 1000)):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.onnx").write_bytes(name.encode() * size)
    (folder / "labels.txt").write_text("shared")
    requires, small = Requires(memory_mb=400), Requires(memory_mb=200, hat=("hat-plus-2",))
    manifest = Manifest(
        schema=manifests.NEWEST,
        name="assistant",
        version="1.1.0",
        format="onnx",
        license="Apache-2.0",
        files=bundles.describe_files(folder),
        requires=requires,
        provenance=Provenance(sources=(Source("a test"),), builder="a test", tools={}),
        golden=(golden("The capital of France?"),),
        variants=(
            BundleVariant(name="cpu", format="onnx", requires=requires, folder="cpu"),
            BundleVariant(name="hailo", format="onnx", requires=small, folder="hailo"),
        ),
    )
    (folder / "manifest.json").write_bytes(manifests.encode(manifest))
    stages.found(paths.stage_dir(FLEET, "production")).publish(folder)
    return manifest


def test_each_variant_is_offered_with_the_identity_that_it_has_on_a_device(several: Manifest) -> None:
    found = release.read(FLEET, NEW)
    taken = {name: variants.take(several, name) for name in ("cpu", "hailo")}
    assert [(each.name, each.requires.memory_mb, each.sha256, each.size_bytes) for each in found.variants] == [
        (name, each.requires.memory_mb, manifests.digest(manifests.encode(each)), each.size)
        for name, each in taken.items()
    ]
    assert found.builds == [each.sha256 for each in found.variants]
    assert found.serves_hashes == {found.sha256, *found.builds}
    assert found.size_bytes == taken["cpu"].size
    assert release.memory_mb(FLEET, NEW) == 400
    vouched = survey.registry(FLEET)(NEW)
    assert vouched == found.serves_hashes
