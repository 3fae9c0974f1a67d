from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hedgerow import paths
from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import GoldenText, Message
from hedgerow.registry.publish import BLOBS
from hedgerow.rollout import release
from hedgerow.rollout.plan import Release

FLEET, NEW = "meadow-unit", "assistant@1.1.0"


def store() -> Path:
    return paths.fleet_dir(FLEET) / "registry"


def test_a_published_bundle(published: str) -> None:
    found = release.read(FLEET, NEW)
    assert (found.bundle, found.name, found.sha256, found.size_bytes) == (NEW, "assistant", published, 7)
    assert found.probe.expect == "Paris"
    assert found.probes == found.questions == [found.probe]


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


def test_a_plan_of_an_older_controller_has_one_question(release: Release) -> None:
    old = msgspec.to_builtins(release)
    del old["probes"], old["slo"]
    assert msgspec.convert(old, Release).questions == [release.probe]


def test_what_is_not_there(published: str) -> None:
    with pytest.raises(RefusedError, match=r"the registry has no assistant@2\.0\.0"):
        release.read(FLEET, "assistant@2.0.0")
    with pytest.raises(UsageError, match="there is no registry"):
        release.read("another-fleet", NEW)
    with pytest.raises(UsageError, match="is not NAME@VERSION"):
        release.read(FLEET, "assistant")


def test_an_altered_manifest_is_refused(published: str) -> None:
    path = store() / "targets/models/assistant/1.1.0/manifest.json"
    path.write_bytes(path.read_bytes().replace(b"Paris", b"Lyon!"))
    with pytest.raises(RefusedError, match="do not vouch"):
        release.read(FLEET, NEW)


def test_a_missing_or_cut_off_file_is_said(published: str) -> None:
    blob = next((store() / BLOBS).iterdir())
    blob.write_bytes(b"wei")
    with pytest.raises(PublisherError, match="has 3 bytes there, not 7"):
        release.read(FLEET, NEW)
    blob.unlink()
    with pytest.raises(PublisherError, match=r"model\.onnx of assistant@1\.1\.0 is not in the registry"):
        release.read(FLEET, NEW)
