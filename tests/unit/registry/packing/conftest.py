"""Bundles whose weights are tensors, so that chunks follow them; a store in a folder."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.manifest import GoldenText, Manifest, Message, Provenance, Requires, Source
from hedgerow.registry.store import FolderStore


def safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    """The format's own specification: 8 bytes of length, a JSON header, the tensors' bytes."""
    header, offset = {}, 0
    for name, values in tensors.items():
        end = offset + values.nbytes
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(values.tobytes() for values in tensors.values())


@pytest.fixture
def weights() -> Callable[..., dict[str, np.ndarray]]:
    """Layers of random float32; ``changed`` layers differ by a little, from a seed."""

    def make(*, layers: int = 4, values: int = 40_000, changed: tuple[int, ...] = (), seed: int = 0):
        made = {}
        for layer in range(layers):
            random = np.random.default_rng(layer)
            tensor = random.standard_normal(values, dtype=np.float32)
            if layer in changed:
                noise = np.random.default_rng(1000 + seed).standard_normal(values, dtype=np.float32)
                tensor = (tensor * (1 + np.float32(1e-3) * noise)).astype(np.float32)
            made[f"layer{layer}"] = tensor
        return made

    return make


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    def make(version: str, tensors: dict[str, np.ndarray], *, text: str = "one tokenizer") -> Bundle:
        folder = tmp_path / "bundles" / version
        (folder / "tokens").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(safetensors(tensors))
        (folder / "tokens" / "tokenizer.json").write_text(text * 500)
        (folder / "empty.txt").write_text("")
        manifest = Manifest(
            schema=1,
            name="assistant",
            version=version,
            format="onnx-genai",
            license="Apache-2.0",
            files=bundles.describe_files(folder),
            requires=Requires(memory_mb=64),
            provenance=Provenance(sources=(Source("a test"),), builder="a test", tools={}),
            golden=(GoldenText((Message("user", "The capital of France?"),), "Paris"),),
        )
        (folder / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))
        return bundles.load(folder)

    return make


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def publish(store: FolderStore):
    """What whoever signs does around the packing: the manifest and the recipe beside it, without signatures."""
    from hedgerow.registry.packing import publish as packing

    def published(bundle: Bundle, **how):
        packed = packing.pack(store, bundle, **how)
        folder = f"targets/models/{bundle.manifest.name}/{bundle.manifest.version}"
        store.put(f"{folder}/manifest.json", (bundle.directory / "manifest.json").read_bytes())
        store.put(f"{folder}/transfer.json.zst", packed.recipe)
        return packed

    return published
