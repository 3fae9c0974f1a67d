"""Kill -9 before steps of a publisher: devices always find a registry that they accept, the old or the new.

``HEDGEROW_ALL_POINTS=1`` takes every step, the default some of each command, spread over it; a kill at each write, with
the store in memory, is tests/unit/registry/authority/test_crash.py.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import pytest
import stages
from tests.faults.conftest import points

from hedgerow.registry.client.errors import Rule, TrustRefusedError
from hedgerow.registry.reference import Reference
from hedgerow.registry.verify import verify

pytestmark = pytest.mark.slow

SAMPLE = 8
LAST = 3
"""They are about the timestamp, which makes a state visible."""
OLD, NEW = Reference("assistant", "1.0.0"), Reference("assistant", "1.1.0")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "stage"


@pytest.fixture
def publisher(runner, folder):
    def call(verb, *arguments, **order):
        return runner.run("publisher", verb, str(folder), *map(str, arguments), **order)

    return call


@pytest.fixture
def restore(folder):
    """Go back to how the stage was when this was first called: its registry, its keys and what waits."""
    kept = folder.with_name("kept")

    def back():
        if not kept.exists():
            shutil.copytree(folder, kept)
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)

    return back


def debris(stage):
    return [path.name for path in stage.root.rglob(".*") if path.name != ".lock"]


def test_publish(registry, make_bundle, restore, publisher):
    bundle = make_bundle("1.1.0")
    restore()
    whole = publisher("publish", bundle)
    assert (whole.code, whole.steps > 50) == (0, True), (whole.stderr, whole.steps)
    seen = set()
    for step in points(whole.steps, SAMPLE, last=LAST):
        restore()
        assert publisher("publish", bundle, kill_at=step).code == -9
        found = verify(registry.root, [OLD, NEW])
        assert found[OLD] == [], step
        if found[NEW]:
            [error] = found[NEW]
            assert isinstance(error, TrustRefusedError), (step, error)
            assert error.rule in {Rule.UNKNOWN, Rule.NOT_APPROVED}, step
        seen.add(bool(found[NEW]))
        again = publisher("publish", bundle)
        assert again.code == 0, (step, again.stderr)
        assert verify(registry.root, [OLD, NEW]) == {OLD: [], NEW: []}, step
        assert debris(registry) == [], step
    assert True in seen


def test_refresh(folder, make_bundle, restore, publisher):
    old = stages.found(folder, now=lambda: datetime.now(UTC).replace(microsecond=0) - timedelta(hours=20))
    old.publish(make_bundle("1.0.0"))
    restore()
    whole = publisher("refresh")
    assert (whole.code, whole.steps > 2) == (0, True), whole.stderr
    for step in points(whole.steps, SAMPLE, last=LAST):
        restore()
        assert publisher("refresh", kill_at=step).code == -9
        assert verify(old.root, [OLD]) == {OLD: []}, step
        assert publisher("refresh").code == 0
        assert (verify(old.root, [OLD]), debris(old)) == ({OLD: []}, []), step


def test_founding(folder, make_bundle, publisher):
    bundle = make_bundle("1.0.0")
    whole = publisher("found")
    assert (whole.code, whole.steps > 20) == (0, True), whole.stderr
    for step in points(whole.steps, SAMPLE, last=LAST):
        shutil.rmtree(folder)
        assert publisher("found", kill_at=step).code == -9
        assert publisher("found").code == 0, step
        assert publisher("publish", bundle).code == 0, step
        assert verify(stages.open_stage(folder).root, [OLD]) == {OLD: []}, step
