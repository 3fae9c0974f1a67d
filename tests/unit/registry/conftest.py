"""Bundles in folders and a stage in a folder, with a clock that tests set."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import stages

from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import GoldenText, Manifest, Message, Provenance, Requires, Source


class Clock:
    """Starts now, because the client of python-tuf looks at the real time."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    def make(version: str = "1.0.0", *, name: str = "assistant", text: str = "weights") -> Path:
        folder = tmp_path / "bundles" / f"{name}-{version}-{text}"
        (folder / "tokens").mkdir(parents=True)
        (folder / "model.onnx").write_text(text * 100)
        (folder / "tokens" / "tokenizer.json").write_text(json.dumps({"version": version}))
        manifest = Manifest(
            schema=1,
            name=name,
            version=version,
            format="onnx-genai",
            license="Apache-2.0",
            files=bundles.describe_files(folder),
            requires=Requires(memory_mb=64),
            provenance=Provenance(sources=(Source("a test"),), builder="a test", tools={}),
            golden=(GoldenText((Message("user", "The capital of France?"),), "Paris"),),
        )
        (folder / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))
        return folder

    return make


@pytest.fixture
def registry(tmp_path: Path, clock: Clock) -> stages.Stage:
    """A stage whose keys are all here, without a release."""
    return stages.found(tmp_path / "stage", now=clock)
