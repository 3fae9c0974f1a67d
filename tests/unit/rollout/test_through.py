"""What the controller asks of a caching gateway; a folder plays the gateway."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import stages
from tests.unit.device.store.registry_double import write_bundle

from hedgerow.errors import PublisherError, UsageError
from hedgerow.registry.source import FolderSource
from hedgerow.registry.store import FolderStore
from hedgerow.rollout import through


class Clock:
    """Time that passes only while somebody waits; ``then`` happens when it has come."""

    def __init__(self, then: tuple[float, object] = (float("inf"), None)) -> None:
        self.now = 0.0
        self._at, self._then = then

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self._at:
            self._then()


@pytest.fixture
def stage(tmp_path: Path) -> stages.Stage:
    made = stages.found(tmp_path / "stage")
    made.publish(write_bundle(tmp_path / "bundle", "1.0.0", {"weights": b"weights" * 100}))
    return made


@pytest.fixture
def gateway(stage: stages.Stage, tmp_path: Path) -> Path:
    shutil.copytree(stage.root, tmp_path / "gateway")
    return tmp_path / "gateway"


def look(stage: stages.Stage, gateway: Path, clock: Clock | None = None) -> through.Seen:
    clock = clock or Clock()
    return through.look(stage.store, FolderSource(gateway), clock=clock, sleep=clock.sleep)


def test_what_the_gateway_shows_is_what_the_stage_has(stage: stages.Stage, gateway: Path) -> None:
    seen = look(stage, gateway)
    assert stage.store.size(f"metadata/{seen.snapshot}.snapshot.json") is not None
    assert seen.pack is not None
    assert (gateway / seen.pack).is_file()


def test_a_stage_without_a_release_has_no_pack_to_look_into(tmp_path: Path) -> None:
    made = stages.found(tmp_path / "stage")
    assert look(made, made.root).pack is None


def test_it_waits_as_long_as_a_gateway_may_keep_the_old_timestamp(stage: stages.Stage, gateway: Path) -> None:
    stage.withdraw("assistant@1.0.0")

    def catch_up() -> None:
        shutil.copytree(stage.root, gateway, dirs_exist_ok=True)

    clock = Clock((5.0, catch_up))
    assert look(stage, gateway, clock).timestamp > 1
    assert clock.now == 5.0
    stage.refresh()
    stage.publish(write_bundle(gateway.parent / "next", "1.1.0", {"weights": b"other" * 100}))
    clock = Clock()
    with pytest.raises(PublisherError, match=r"it shows timestamp \d+ for 70 s, and the stage has \d+"):
        look(stage, gateway, clock)
    assert clock.now == through.WITHIN_S


@pytest.mark.parametrize("missing", ["metadata/timestamp.json", "snapshot", "pack"])
def test_what_its_origin_lacks_is_named(stage: stages.Stage, gateway: Path, missing: str) -> None:
    seen = look(stage, gateway)
    path = {"snapshot": f"metadata/{seen.snapshot}.snapshot.json", "pack": seen.pack}.get(missing, missing)
    (gateway / path).unlink()
    with pytest.raises(PublisherError, match=f"its origin has no {path}"):
        look(stage, gateway)


@pytest.mark.parametrize("altered", ["snapshot", "pack"])
def test_what_it_shows_otherwise_is_to_be_purged(stage: stages.Stage, gateway: Path, altered: str) -> None:
    seen = look(stage, gateway)
    path = f"metadata/{seen.snapshot}.snapshot.json" if altered == "snapshot" else str(seen.pack)
    data = bytearray((gateway / path).read_bytes())
    data[-1] ^= 1
    (gateway / path).write_bytes(data)
    with pytest.raises(PublisherError, match=f"other bytes of {path}") as caught:
        look(stage, gateway)
    assert f"purge_cache.yml -e path={path}" in str(caught.value)


def test_a_timestamp_that_is_none_is_said_so_and_one_without_an_end_is_cut_off(
    stage: stages.Stage, gateway: Path
) -> None:
    (gateway / "metadata/timestamp.json").write_bytes(b"<html>")
    with pytest.raises(PublisherError, match="it shows timestamp that cannot be read"):
        look(stage, gateway)
    (gateway / "metadata/timestamp.json").write_bytes(b" " * (3 << 20))
    with pytest.raises(PublisherError, match="other bytes of metadata/timestamp"):
        look(stage, gateway)


def test_there_is_nothing_to_see_of_no_registry(tmp_path: Path, gateway: Path) -> None:
    with pytest.raises(UsageError, match="no metadata yet"):
        through.look(FolderStore(tmp_path / "empty"), FolderSource(gateway))
