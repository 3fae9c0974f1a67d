from __future__ import annotations

import hashlib
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import stages

from hedgerow import paths
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import File, GoldenText, Manifest, Message, Provenance, Requires, Source
from hedgerow.rollout.gate import errand
from hedgerow.rollout.plan import Release

NEW, OLD = "assistant@1.1.0", "assistant@1.0.0"


def helper(name: str, path: Path) -> None:
    """A helper module beside the tests; pytest's importlib mode puts nothing on sys.path."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


helper("rollout_killing", Path(__file__).with_name("killing.py"))
helper("rollout_device", Path(__file__).with_name("device.py"))


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
def errands_in_place() -> Iterator[None]:
    """Run errands in the caller's thread: a device in memory never hangs, and a thread a question is most of the time.

    Undone by itself, whatever a test undoes of its own; gate/test_session.py has the threads.
    """

    def run(work: Callable[[], errand.Result], stop: Callable[[], str | None]) -> errand.Result:
        del stop
        return work()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(errand, "run", run)
        yield


@pytest.fixture
def stamps():
    return (f"2026-11-21T12:00:{second:02d}.000Z" for second in itertools.count())


@pytest.fixture
def published(fleet_ca, tmp_path: Path) -> str:
    """The release in the stage of the fleet's registry; its manifest's hash."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights")
    golden = GoldenText(messages=(Message("user", "What is the capital of France?"),), expect="Paris")
    manifest = Manifest(
        schema=1,
        name="assistant",
        version="1.1.0",
        format="onnx-genai",
        license="Apache-2.0",
        files=(File("model.onnx", hashlib.sha256(b"weights").hexdigest(), 7),),
        requires=Requires(memory_mb=1),
        provenance=Provenance(sources=(Source("test"),), builder="test", tools={}),
        golden=(golden,),
    )
    (folder / "manifest.json").write_bytes(manifests.encode(manifest))
    stage = stages.found(paths.stage_dir("meadow-unit", paths.DEFAULT_STAGE))
    return stage.publish(folder).built.sha256
