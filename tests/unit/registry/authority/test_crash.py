"""Killed before any write, devices go on taking what was released, and the same command again finishes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.unit.registry.authority.conftest import TOP, Device, MemoryStore, let_out

from hedgerow.errors import MachineError
from hedgerow.registry.authority import changing, releasing, staging
from hedgerow.registry.authority.changing import RoleKeys
from hedgerow.registry.authority.releasing import Wanted
from hedgerow.registry.authority.session import Session

ALL = os.environ.get("HEDGEROW_ALL_POINTS") == "1"
NEXT = Wanted("model", "assistant", "1.1.0")


def _release(session: Session) -> None:
    releasing.release(session, NEXT)


OPERATIONS: dict[str, Callable[[Session], object]] = {
    "release": _release,
    "withdraw": lambda session: releasing.withdraw(session, Wanted("model", "other", "1.0.0"), note="x"),
    "delegate": lambda session: changing.delegate(session, "build-model-assistant", RoleKeys(("build-eve",))),
    "root": lambda session: changing.rotate(session, "root", RoleKeys(("root-ann", "root-ben", "spare"), 2)),
    "targets": lambda session: changing.rotate(session, "targets", RoleKeys(("spare",))),
    "snapshot": lambda session: changing.rotate(session, "snapshot", RoleKeys(("spare",))),
    "timestamp": lambda session: changing.rotate(session, "timestamp", RoleKeys(("spare",))),
    "build": lambda session: changing.rotate(session, "build-model", RoleKeys(("build-dan", "build-eve"), 2)),
    "revoke": lambda session: changing.revoke(session, "targets-ann", replacement="spare", note="x"),
}


def points(writes: int) -> list[int]:
    """Every write, or the first, the last and those around the timestamp."""
    return list(range(1, writes + 1)) if ALL else sorted({1, 2, writes // 2, writes - 2, writes - 1, writes} - {0})


def keys_of(session: Session) -> object:
    """Who may sign what, as it is published."""
    state = session.look().state
    return state.root.signed.to_dict()["roles"], state.targets.signed.delegations.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kill_at_any_write(operation, session, make_bundle, tmp_path, clock):
    let_out(session, make_bundle())
    let_out(session, make_bundle(name="other"))
    staging.stage(session, make_bundle("1.1.0"))
    staging.approve(session, "model", "assistant", "1.1.0")
    before = session.store.files
    seen = tmp_path / "seen"
    Device(before, seen, clock).manifest("assistant@1.0.0")
    act = OPERATIONS[operation]
    whole = MemoryStore(dict(before))
    act(replace(session, store=whole))
    for point in points(whole.writes):
        store = MemoryStore(dict(before), fail_at=point)
        with pytest.raises(MachineError):
            act(replace(session, store=store))
        trust = tmp_path / f"trust-{point}"
        shutil.copytree(seen, trust, symlinks=True)
        device = Device(store.files, trust, clock)
        assert device.manifest("assistant@1.0.0"), f"killed before write {point} of {whole.writes}"
        mended = replace(session, store=MemoryStore(store.files))
        act(mended)
        assert keys_of(mended) == keys_of(replace(session, store=whole)), f"write {point}: the change was not finished"
        releasing.release(mended, NEXT)
        assert device.manifest("assistant@1.1.0"), f"killed before write {point} of {whole.writes}"


def test_a_kill_while_founding(open_session):
    whole = open_session()
    changing.found(whole, TOP)
    for point in range(1, whole.store.writes + 1):
        files: dict[str, bytes] = {}
        with pytest.raises(MachineError):
            changing.found(open_session(MemoryStore(files, fail_at=point)), TOP)
        again = open_session(MemoryStore(files))
        changing.found(again, TOP)
        assert again.look().state.root.signed.version == 1
        assert len([path for path in files if path.endswith("root.json") and "metadata" in path]) == 1


def test_a_kill_while_staging_leaves_nothing_that_devices_see(session, make_bundle):
    folder = make_bundle()
    whole = MemoryStore(dict(session.store.files))
    staging.stage(replace(session, store=whole), folder)
    seen = {path: data for path, data in session.store.files.items() if path.startswith("metadata/")}
    for point in range(1, whole.writes + 1):
        store = MemoryStore(dict(session.store.files), fail_at=point)
        with pytest.raises(MachineError):
            staging.stage(replace(session, store=store), folder)
        assert {path: data for path, data in store.files.items() if path.startswith("metadata/")} == seen
        staging.stage(replace(session, store=MemoryStore(store.files)), folder)
        assert store.files == whole.files
