from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from hedgerow.registry.manifest import GoldenText, Message
from hedgerow.rollout.plan import Release

NEW, OLD = "assistant@1.1.0", "assistant@1.0.0"


@pytest.fixture
def release() -> Release:
    probe = GoldenText(messages=(Message("user", "What is the capital of France?"),), expect="Paris")
    return Release(bundle=NEW, sha256="5a" * 32, size_bytes=90_000_000, probe=probe)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "rollouts" / "20261121T120000Z-assistant-1.1.0"


@pytest.fixture
def ticking():
    """A clock that only sleeping moves."""

    class Ticking:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

    return Ticking()


@pytest.fixture
def stamps():
    return (f"2026-11-21T12:00:{second:02d}.000Z" for second in itertools.count())
