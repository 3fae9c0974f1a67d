"""Kill -9 before every step of a publisher: devices always find a registry that they accept, the old or the new."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import pytest

from hedgerow.errors import RefusedError
from hedgerow.registry.reference import Reference
from hedgerow.registry.verify import verify

pytestmark = pytest.mark.slow

OLD, NEW = Reference("assistant", "1.0.0"), Reference("assistant", "1.1.0")


@pytest.fixture
def publisher(runner, tmp_path):
    def call(verb, *arguments, **order):
        words = [verb, str(tmp_path / "registry"), str(tmp_path / "registry-signing"), *map(str, arguments)]
        return runner.run("publisher", *words, **order)

    return call


@pytest.fixture
def restore(tmp_path):
    """Go back to how registry and keys were when this was made."""
    folders = [tmp_path / name for name in ("registry", "registry-signing") if (tmp_path / name).exists()]
    for folder in folders:
        shutil.copytree(folder, folder.with_name(f"{folder.name}-kept"))

    def back():
        for name in ("registry", "registry-signing"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            if (kept := tmp_path / f"{name}-kept").exists():
                shutil.copytree(kept, tmp_path / name)

    return back


def test_publish(registry, make_bundle, restore, publisher):
    bundle = make_bundle("1.1.0")
    whole = publisher("publish", bundle)
    assert whole.code == 0, whole.stderr
    seen = set()
    for step in range(1, whole.steps + 1):
        restore()
        assert publisher("publish", bundle, kill_at=step).code == -9
        found = verify(registry.store.root, [OLD, NEW])
        assert found[OLD] == [], step
        if found[NEW]:
            [error] = found[NEW]
            assert isinstance(error, RefusedError), (step, error)
            assert "the registry has no assistant@1.1.0" in error.what, step
        seen.add(bool(found[NEW]))
        again = publisher("publish", bundle)
        assert again.code == 0, (step, again.stderr)
        assert verify(registry.store.root, [OLD, NEW]) == {OLD: [], NEW: []}, step
        left = [path.name for path in registry.store.root.rglob(".*") if path.name != ".lock"]
        assert left == [], step
    assert True in seen


def test_refresh(make_registry, make_bundle, tmp_path, publisher, request):
    old = make_registry(at=lambda: datetime.now(UTC).replace(microsecond=0) - timedelta(hours=20))
    old.publish(make_bundle("1.0.0"))
    restore = request.getfixturevalue("restore")
    whole = publisher("refresh")
    assert (whole.code, whole.steps > 2) == (0, True), whole.stderr
    for step in range(1, whole.steps + 1):
        restore()
        publisher("refresh", kill_at=step)
        assert verify(tmp_path / "registry", [OLD]) == {OLD: []}, step
        assert publisher("refresh").code == 0
        assert verify(tmp_path / "registry", [OLD]) == {OLD: []}, step


def test_init(make_bundle, restore, publisher, tmp_path):
    bundle = make_bundle("1.0.0")
    whole = publisher("init")
    assert whole.code == 0, whole.stderr
    for step in range(1, whole.steps + 1):
        restore()
        publisher("init", kill_at=step)
        assert publisher("init").code == 0, step
        assert publisher("publish", bundle).code == 0, step
        assert verify(tmp_path / "registry", [OLD]) == {OLD: []}, step
