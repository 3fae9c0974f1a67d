"""A device's store and a registry that it fetches from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.unit.device.store.registry_double import Double, safetensors, write_bundle

from hedgerow.device.store.config import StoreConfig
from hedgerow.device.store.keep import Places
from hedgerow.device.store.layout import Layout
from hedgerow.device.store.terms import Device
from hedgerow.registry import bundle as bundles
from hedgerow.registry.reference import Reference

OLD, NEW = Reference("assistant", "1.0.0"), Reference("assistant", "1.1.0")


def weights(seed: int, size: int) -> bytes:
    """Bytes that do not compress, as weights."""
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


def changed(data: bytes, every: int) -> bytes:
    """One byte in ``every`` is another by one, as after requantizing."""
    values = np.frombuffer(data, np.uint8).copy()
    values[::every] += 1
    return values.tobytes()


@pytest.fixture
def device(tmp_path) -> Device:
    places = Places(Layout(tmp_path / "models"), tmp_path / "activation", tmp_path / "configuration")
    places.layout.models_dir.mkdir()
    return Device(places, StoreConfig(), reserve_mb=1)


class Releases:
    """Three versions: 1.1.0 has a tensor that was requantized, one that is new and much that is as it was."""

    def __init__(self, folder: Path) -> None:
        self.registry = Double(folder / "registry")
        body, head, tail = weights(1, 1_600_000), weights(2, 300_000), weights(3, 250_000)
        old = {"body": body, "head": head, "tail": tail}
        new = {"body": body, "head": changed(head, 50), "tail": weights(4, 250_000)}
        self.files = {
            OLD: {"model.safetensors": safetensors(old), "LICENSE": b"the same\n", "empty": b""},
            NEW: {"model.safetensors": safetensors(new), "LICENSE": b"the same\n", "empty": b"", "twin": b"the same\n"},
        }
        self.bundles = {
            reference: write_bundle(folder / "bundles" / reference.version, reference.version, files)
            for reference, files in self.files.items()
        }
        self.registry.publish(self.bundles[OLD])
        self.registry.publish(self.bundles[NEW], against=(str(OLD),))


@pytest.fixture
def releases(tmp_path) -> Releases:
    return Releases(tmp_path / "published")


def whole(device: Device, reference: Reference) -> bool:
    """Whether the version is here and verified; raises where it is there and damaged."""
    folder = device.layout.version(reference)
    if not folder.exists():
        return False
    bundles.verify_files(folder)
    return True


def debris(device: Device) -> list[str]:
    """Whatever lies below the models that is neither a version nor the store's own memory."""
    own = {"lock", "used.json", "pins.json", "written.json", "recipes", "signed", "partial", "trash"}
    found = [path for path in device.layout.folder.iterdir() if path.name not in own]
    for name in ("partial", "trash"):
        if (device.layout.folder / name).exists():
            found += (device.layout.folder / name).iterdir()
    found += [path for path in device.layout.models_dir.rglob(".*") if path != device.layout.folder]
    return sorted(str(path.relative_to(device.layout.models_dir)) for path in found)
