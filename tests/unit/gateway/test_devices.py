"""A device, the controller and an operator at a caching gateway, with a real release behind it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import stages
from gateway_nginx import needs_nginx
from origin import Origin
from tests.unit.device.store.registry_double import safetensors, write_bundle
from tests.unit.gateway.conftest import Gateway

from hedgerow.device.store import stage
from hedgerow.device.store.config import StoreConfig
from hedgerow.device.store.keep import Places
from hedgerow.device.store.layout import Layout
from hedgerow.device.store.terms import Device
from hedgerow.errors import NetworkError, PublisherError
from hedgerow.registry import bundle as bundles
from hedgerow.registry.client.trusted import Trusted
from hedgerow.registry.reference import Reference
from hedgerow.rollout import cache_host, through

pytestmark = [needs_nginx, pytest.mark.slow]

RELEASE = Reference("assistant", "1.0.0")
TIMESTAMP = "/metadata/timestamp.json"


class Pi:
    """A device that trusts the stage and asks ``gateway``."""

    def __init__(self, folder: Path, released: stages.Stage, gateway: Gateway) -> None:
        places = Places(Layout(folder / "models"), folder / "activation", folder / "configuration")
        places.layout.models_dir.mkdir(parents=True)
        self.device = Device(places, StoreConfig(), reserve_mb=1)
        self.source = gateway.source()
        self._trust = released.anchor(folder / "trust")

    def stage(self) -> None:
        """Fetch the release as ``hedgerow-device stage`` does; every byte of it is verified."""
        stage.stage(Trusted(self.source, self._trust), self.source, RELEASE, self.device, at_once=True)
        bundles.verify_files(self.device.layout.version(RELEASE))


@pytest.fixture
def released(tmp_path: Path, bucket: Origin) -> stages.Stage:
    """A stage whose store is what the bucket serves; its packs have three slices."""
    made = stages.found(tmp_path / "stage")
    weights = np.random.default_rng(1).integers(0, 256, 2_500_000, dtype=np.uint8).tobytes()
    made.publish(
        write_bundle(tmp_path / "bundle", RELEASE.version, {"model.safetensors": safetensors({"body": weights})})
    )
    (bucket.root / "meadow").rmdir()
    (bucket.root / "meadow").symlink_to(made.root)
    return made


@pytest.fixture
def pi(tmp_path: Path, released: stages.Stage) -> Callable[[Gateway, str], Pi]:
    return lambda gateway, name: Pi(tmp_path / name, released, gateway)


def packs(bucket: Origin) -> list[str]:
    return [asked.path for asked in bucket.asked if "/targets/packs/" in asked.path]


def largest(gateway: Gateway, path: str) -> Path:
    return max(gateway.kept(path), key=lambda file: file.stat().st_size)


def test_the_second_device_fetches_without_the_origin(caching, bucket, pi):
    gateway = caching(metadata_s=1)
    pi(gateway, "pi-1").stage()
    sent = len(packs(bucket))
    assert sent >= 3
    pi(gateway, "pi-2").stage()
    assert len(packs(bucket)) == sent
    bucket.stop()
    try:
        pi(gateway, "pi-3").stage()
    finally:
        bucket.start()


def test_a_damaged_slice_is_found_by_the_device_and_dropped_by_purge(caching, bucket, pi):
    gateway = caching()
    pi(gateway, "pi-1").stage()
    path = max(set(packs(bucket)), key=packs(bucket).count).removeprefix("/meadow")
    file = largest(gateway, path)
    data = bytearray(file.read_bytes())
    data[-1000] ^= 1
    file.write_bytes(data)
    second = pi(gateway, "pi-2")
    with pytest.raises(PublisherError) as caught:
        second.stage()
    assert path.rpartition("/")[2] in str(caught.value), "the error names the pack that is to be purged"
    assert not second.device.layout.version(RELEASE).exists()
    done = cache_host.purge(str(gateway.cache), path)
    assert (done["changed"], done["paths"]) == (True, [path])
    assert gateway.kept(path) == []
    second.stage()
    assert cache_host.purge(str(gateway.cache), "targets/packs/ff/nothing")["changed"] is False
    everything = cache_host.purge(str(gateway.cache), "/")
    assert TIMESTAMP in everything["paths"]
    pi(gateway, "pi-3").stage()


def test_the_controller_sees_a_release_through_it(caching, bucket, released):
    gateway = caching(metadata_s=1)
    first = through.look(released.store, gateway.source())
    assert first.pack is not None
    released.refresh()
    released.withdraw(str(RELEASE))
    second = through.look(released.store, gateway.source())
    assert second.timestamp > first.timestamp
    assert second.snapshot > first.snapshot


def test_what_is_not_the_stage_s_release_is_said_with_both_versions(caching, bucket, released, tmp_path):
    gateway = caching(metadata_s=1)
    behind = tmp_path / "behind"
    shutil.copytree(released.root, behind)
    released.withdraw(str(RELEASE))
    (bucket.root / "meadow").unlink()
    (bucket.root / "meadow").symlink_to(behind)
    times = iter(range(100))
    with pytest.raises(PublisherError, match=r"it shows timestamp \d+ for 3 s, and the stage has \d+") as caught:
        through.look(released.store, gateway.source(), within_s=3, clock=lambda: next(times), sleep=lambda _: None)
    assert "registry_mirror_origin" in str(caught.value)


def test_a_pack_that_the_origin_lacks_or_holds_damaged_is_named(caching, bucket, released):
    gateway = caching(metadata_s=1)
    pack = through.look(released.store, gateway.source()).pack
    cache_host.purge(str(gateway.cache), "/")
    whole = (released.root / pack).read_bytes()

    class Whole:
        """The stage's store, while the bucket lost a file."""

        where = "the stage"
        get, entries = released.store.get, released.store.entries

        def read_range(self, path: str, offset: int, length: int) -> bytes:
            return whole[offset : offset + length]

    (released.root / pack).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(PublisherError, match="other bytes of targets/packs/") as caught:
        through.look(Whole(), gateway.source())
    assert "purge_cache.yml" in str(caught.value)
    (released.root / pack).write_bytes(whole)
    assert cache_host.purge(str(gateway.cache), pack)["changed"]
    assert through.look(Whole(), gateway.source()).pack == pack


def test_an_origin_that_cannot_be_read_is_said_as_such(caching, bucket, released):
    gateway = caching()
    bucket.stop()
    try:
        with pytest.raises(NetworkError, match="502") as caught:
            through.look(released.store, gateway.source())
        assert "journalctl -t nginx" in str(caught.value)
    finally:
        bucket.start()
    bucket.faults.status = 404
    with pytest.raises(PublisherError, match=r"its origin has no metadata/timestamp\.json"):
        through.look(released.store, gateway.source())
