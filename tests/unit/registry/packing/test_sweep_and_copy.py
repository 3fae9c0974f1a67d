"""What a sweep leaves alone and what a copy brings, on registries that are signed."""

from __future__ import annotations

import os
import shutil
import time
from datetime import UTC, datetime, timedelta

import pytest
import stages
from tuf.api.metadata import Metadata, MetaFile, Snapshot

from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.registry.authority import staging
from hedgerow.registry.packing import publish as packing
from hedgerow.registry.packing.named import named_packs
from hedgerow.registry.reference import Reference
from hedgerow.registry.store import FolderStore
from hedgerow.registry.stores import copying, sweep
from hedgerow.registry.transfer import codec
from hedgerow.registry.transfer.recipe import pack_path
from hedgerow.registry.verify import verify

NOW = datetime.now(UTC)
DAY_S = 86400.0


class Releases:
    """A stage that releases and withdraws; ``age`` makes its targets look as if they had lain there for long."""

    def __init__(self, folder, *, fresh=False):
        self.stage = stages.found(folder, fresh=fresh)
        self.store = self.stage.store

    def add(self, bundle):
        """Release a bundle; its recipe."""
        self.stage.publish(bundle.directory)
        of = bundle.manifest
        return codec.decode(self.store.get(f"targets/models/{of.name}/{of.version}/transfer.json.zst"), where="test")

    def forget(self, version):
        """Withdraw a version, and have the builder take back the word that keeps its number taken."""
        self.stage.withdraw(f"assistant@{version}")
        with self.stage.session.work() as work:
            targets = work.draft.edit_targets("build-model")
            targets.targets = {path: each for path, each in targets.targets.items() if f"/{version}/" not in path}
            work.sign("build-model")
            work.settle()

    def age(self, seconds=2 * DAY_S):
        then = time.time() - seconds
        for path in self.store.list("targets/"):
            os.utime(self.store.root / path, (then, then))


@pytest.fixture
def releases(tmp_path):
    return Releases(tmp_path / "stage")


def paths(entries):
    return {entry.path for entry in entries}


def later(days):
    return NOW + timedelta(days=days)


def test_nothing_that_is_named_goes(releases, make_bundle, weights):
    releases.add(make_bundle("1.0.0", weights()))
    releases.add(make_bundle("1.1.0", weights(changed=(1,))))
    releases.age()
    before = set(releases.store.list(""))
    found, unfinished = sweep.carry_out(releases.store, now=NOW)
    assert (found.remove, found.young, unfinished) == ((), (), 0)
    assert set(releases.store.list("")) == before
    assert paths(found.named) == {path for path in before if path.startswith("targets/")}


def test_what_nothing_names_goes_after_its_grace(releases, make_bundle, weights):
    releases.add(make_bundle("1.0.0", weights()))
    debris = {"targets/packs/aa/" + "a" * 64, "targets/blobs/" + "b" * 64, "targets/models/x/1.0.0/manifest.json"}
    for path in debris:
        releases.store.put(path, b"left by a publisher that was killed")
    found, _ = sweep.carry_out(releases.store, now=NOW)
    assert (paths(found.young), found.remove) == (debris, ())
    releases.age()
    planned = sweep.plan(releases.store, now=NOW)
    assert paths(planned.remove) == debris
    # What names others goes first.
    assert planned.remove[0].path.endswith("manifest.json")
    assert debris <= set(releases.store.list("targets/"))
    removed = []
    sweep.carry_out(releases.store, now=NOW, on_removed=removed.append)
    assert [entry.path for entry in removed] == [entry.path for entry in planned.remove]
    assert not debris & set(releases.store.list("targets/"))


def test_an_old_release_stays_while_a_device_may_hold_its_snapshot(releases, make_bundle, weights):
    old = releases.add(make_bundle("1.0.0", weights()))
    new = releases.add(make_bundle("1.1.0", weights(changed=(1,))))
    releases.forget("1.0.0")
    releases.age()
    assert sweep.plan(releases.store, now=NOW).remove == ()
    # Snapshots live a week: after it, only the newest says what there is.
    gone = paths(sweep.plan(releases.store, now=later(8)).remove)
    only_old = {pack.sha256 for pack in named_packs(releases.store, old)} - {
        pack.sha256 for pack in named_packs(releases.store, new)
    }
    packs = {path for path in gone if "/packs/" in path}
    assert packs == {f"targets/{pack_path(sha256)}" for sha256 in only_old}
    assert "targets/models/assistant/1.0.0/manifest.json" in gone
    sweep.carry_out(releases.store, now=later(8))
    assert verify(releases.store.root, [Reference("assistant", "1.1.0")]) == {Reference("assistant", "1.1.0"): []}
    for pack in named_packs(releases.store, new):
        assert releases.store.holds(f"targets/{pack_path(pack.sha256)}", size=pack.size, sha256=pack.sha256)


def test_what_was_withdrawn_goes_when_asked_for_and_no_device_may_hold_it(releases, make_bundle, weights):
    good = releases.add(make_bundle("1.0.0", weights()))
    bad = releases.add(make_bundle("1.1.0", weights(changed=(1,))))
    releases.stage.withdraw("assistant@1.1.0")
    releases.age()
    assert sweep.plan(releases.store, now=NOW, withdrawn=True).remove == ()
    assert sweep.plan(releases.store, now=later(8)).remove == ()
    gone = paths(sweep.plan(releases.store, now=later(8), withdrawn=True).remove)
    its_own = {f"targets/{pack_path(pack.sha256)}" for pack in named_packs(releases.store, bad)} - {
        f"targets/{pack_path(pack.sha256)}" for pack in named_packs(releases.store, good)
    }
    assert {path for path in gone if "/packs/" in path} == its_own != set()
    assert any("/blobs/" in path for path in gone)
    assert not any(path.endswith((".json", ".zst")) for path in gone), "the builder's word keeps the number taken"
    sweep.carry_out(releases.store, now=later(8), withdrawn=True)
    assert verify(releases.store.root, [Reference("assistant", "1.0.0")]) == {Reference("assistant", "1.0.0"): []}
    for withdrawn in (False, True):
        assert sweep.plan(releases.store, now=later(8), withdrawn=withdrawn).remove == ()
    # What is published next is packed beside what is left.
    releases.add(make_bundle("1.2.0", weights(changed=(2,))))
    assert verify(releases.store.root, [Reference("assistant", "1.2.0")]) == {Reference("assistant", "1.2.0"): []}


def test_a_release_whose_bytes_went_is_not_approved_again_before_they_are_back(releases, make_bundle, weights):
    bundle = make_bundle("1.0.0", weights())
    releases.add(bundle)
    releases.stage.withdraw("assistant@1.0.0")
    releases.age()
    sweep.carry_out(releases.store, now=later(8), withdrawn=True)
    with pytest.raises(PublisherError, match=r"a pack of assistant@1\.0\.0 is missing") as caught:
        staging.approve(releases.stage.session, "model", "assistant", "1.0.0")
    assert "hedgerow registry stage FOLDER" in str(caught.value)
    releases.add(bundle)
    assert verify(releases.store.root, [Reference("assistant", "1.0.0")]) == {Reference("assistant", "1.0.0"): []}
    releases.age()
    assert sweep.plan(releases.store, now=later(8), withdrawn=True).remove == ()


def test_what_is_built_and_not_yet_approved_was_never_withdrawn(releases, make_bundle, weights):
    releases.add(make_bundle("1.0.0", weights()))
    staging.stage(releases.stage.session, make_bundle("1.1.0", weights(seed=3)).directory, packer=packing.packer)
    with releases.stage.session.work() as work:
        work.settle()  # the builder's word is published, the approver's is not there
    releases.age()
    assert sweep.plan(releases.store, now=later(30), withdrawn=True).remove == ()


def test_a_changed_log_removes_nothing(releases, make_bundle, weights):
    releases.add(make_bundle("1.0.0", weights()))
    releases.stage.withdraw("assistant@1.0.0")
    releases.age()
    entries = sorted(releases.store.list("log/"))
    releases.store.put(entries[-1], releases.store.get(entries[-1]).replace(b'"withdraw"', b'"release"'))
    with pytest.raises(PublisherError, match="log was changed"):
        sweep.plan(releases.store, now=later(8), withdrawn=True)


def test_what_a_candidate_names_stays(releases, make_bundle, weights):
    releases.add(make_bundle("1.0.0", weights()))
    releases.add(make_bundle("1.1.0", weights(changed=(1,))))
    newest = releases.store.get("metadata/3.build-model.json")
    releases.forget("1.1.0")
    releases.store.put("staged/build-model.json", newest)
    releases.age()
    assert sweep.plan(releases.store, now=later(8)).remove == ()
    releases.store.delete("staged/build-model.json")
    assert sweep.plan(releases.store, now=later(8)).remove != ()


@pytest.mark.parametrize("damage", ["gone", "altered"])
@pytest.mark.parametrize(
    "victim", ["manifest.json", "transfer.json.zst", ".targets.json", ".build-model.json", ".snapshot.json"]
)
def test_a_damaged_registry_is_left_alone(releases, make_bundle, weights, victim, damage):
    releases.add(make_bundle("1.0.0", weights()))
    releases.store.put("targets/blobs/" + "b" * 64, b"debris")
    releases.age()
    found = [path for path in releases.store.list("") if path.endswith(victim)]
    newest = max(found, key=lambda path: (len(path), path))
    if damage == "gone":
        releases.store.delete(newest)
    else:
        releases.store.put(newest, b"{}")
    with pytest.raises(PublisherError, match="nothing is removed"):
        sweep.carry_out(releases.store, now=NOW)
    assert releases.store.get("targets/blobs/" + "b" * 64) == b"debris"


def test_no_registry_is_swept(tmp_path):
    with pytest.raises(UsageError, match="no registry"):
        sweep.plan(FolderStore(tmp_path), now=NOW)


def test_a_sweep_waits_for_nobody(releases, make_bundle, weights):
    releases.add(make_bundle("1.0.0", weights()))
    with (
        FolderStore(releases.store.root).lock(),
        pytest.raises(RefusedError, match="another publisher"),
    ):
        sweep.carry_out(releases.store, now=NOW)


def test_a_snapshot_counts_by_its_own_expiry(releases, make_bundle, weights):
    """One that was signed for long is believed for long."""
    releases.add(make_bundle("1.0.0", weights()))
    session = releases.stage.session
    state = session.look().state
    lasting = Metadata(Snapshot(version=900, expires=later(300), meta=dict(state.snapshot.signed.meta)))
    assert isinstance(lasting.signed.meta["targets.json"], MetaFile)
    for keyid in state.root.signed.roles["snapshot"].keyids:
        lasting.sign(session.keyring().signer(keyid), append=True)
    releases.store.put("metadata/900.snapshot.json", lasting.to_bytes())
    releases.forget("1.0.0")
    releases.age()
    assert sweep.plan(releases.store, now=later(299)).remove == ()
    assert sweep.plan(releases.store, now=later(301)).remove != ()


def test_a_copy_is_the_registry(releases, make_bundle, weights, tmp_path):
    releases.add(make_bundle("1.0.0", weights()))
    releases.store.put("staged/build-model.json", b"{}")
    target = FolderStore(tmp_path / "copy")
    done = copying.copy(releases.store, target)
    expected = {path for path in releases.store.list("") if not path.startswith("staged/")}
    assert set(target.list("")) == expected
    assert {path: target.get(path) for path in expected} == {path: releases.store.get(path) for path in expected}
    assert (done.files, done.kept) == (len(expected), 0)
    again = copying.copy(releases.store, target)
    assert (again.files, again.bytes, again.kept) == (0, 0, len(expected))
    assert verify(target.root, [Reference("assistant", "1.0.0")]) == {Reference("assistant", "1.0.0"): []}


def test_a_copy_that_is_cut_anywhere_serves_what_was_served(releases, make_bundle, weights, tmp_path):
    first, second = Reference("assistant", "1.0.0"), Reference("assistant", "1.1.0")
    releases.add(make_bundle("1.0.0", weights(layers=2)))
    whole = FolderStore(tmp_path / "whole")
    copying.copy(releases.store, whole)
    releases.add(make_bundle("1.1.0", weights(layers=2, changed=(1,))))
    writes = len(set(releases.store.list(""))) + 1
    ended = False
    for allowed in range(writes):
        target = Dies(shutil.copytree(whole.root, tmp_path / f"cut-{allowed}"), allowed)
        try:
            copying.copy(releases.store, target)
            ended = True
        except ConnectionError:
            assert verify(target.root, [first]) == {first: []}
        target.allowed = writes
        copying.copy(releases.store, target)
        assert verify(target.root, [first, second]) == {first: [], second: []}
        if ended:
            break
    assert ended
    assert allowed > 5


class Dies(FolderStore):
    """Fails at the first write after ``allowed`` ones."""

    def __init__(self, root, allowed):
        super().__init__(root)
        self.allowed = allowed

    def put(self, path, data):
        self._count()
        super().put(path, data)

    def put_file(self, path, source):
        self._count()
        super().put_file(path, source)

    def _count(self):
        if self.allowed == 0:
            raise ConnectionError("killed")
        self.allowed -= 1


def test_a_copy_never_goes_back(releases, make_bundle, weights, tmp_path):
    releases.add(make_bundle("1.0.0", weights()))
    target = FolderStore(tmp_path / "copy")
    copying.copy(releases.store, target)
    older = FolderStore(shutil.copytree(releases.store.root, tmp_path / "older"))
    releases.add(make_bundle("1.1.0", weights(changed=(1,))))
    copying.copy(releases.store, target)
    with pytest.raises(RefusedError, match="no step back"):
        copying.copy(older, target)
    other = Releases(tmp_path / "other", fresh=True)
    with pytest.raises(RefusedError, match="another registry"):
        copying.copy(other.store, target)


def test_what_is_damaged_is_not_copied(releases, make_bundle, weights, tmp_path):
    releases.add(make_bundle("1.0.0", weights()))
    victim = next(releases.store.list("targets/packs/"))
    releases.store.put(victim, b"x" * releases.store.size(victim))
    target = FolderStore(tmp_path / "copy")
    with pytest.raises(PublisherError, match="not what its name says"):
        copying.copy(releases.store, target)
    assert target.get("metadata/timestamp.json") is None


def test_nothing_to_copy(tmp_path):
    with pytest.raises(UsageError, match="no registry to copy"):
        copying.copy(FolderStore(tmp_path / "a"), FolderStore(tmp_path / "b"))
