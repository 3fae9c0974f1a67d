"""The trust folder survives a power cut anywhere; and python-tuf's client is still built as ours relies on."""

from __future__ import annotations

import inspect
import shutil

import pytest
from client_support import ASSISTANT, NEXT
from tuf.ngclient import Updater
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from hedgerow import atomic
from hedgerow.registry.client import anchor
from hedgerow.registry.client.errors import Rule, TrustRefusedError


class PowerCutError(BaseException):
    """Nothing after this runs."""


def cut_at(monkeypatch, step, *, after):
    """End the process at the ``step``-th durable write, before or after it; the steps that were made."""
    made = []

    def cutting(real):
        def write(*args, **options):
            made.append(args)
            if len(made) == step and not after:
                raise PowerCutError
            real(*args, **options)
            if len(made) == step:
                raise PowerCutError

        return write

    monkeypatch.setattr(atomic, "write_bytes", cutting(atomic.write_bytes))
    monkeypatch.setattr(atomic, "symlink", cutting(atomic.symlink))
    return made


@pytest.fixture
def old_and_new(device, repository, clock, trust_dir, tmp_path):
    """A device that has seen the registry, which has since got three roots and a release; the folder of before."""
    device().refresh()
    old = shutil.copytree(trust_dir, tmp_path / "before", symlinks=True)
    for roles in (["root"], ["root", "timestamp"], ["targets"]):
        clock.forward(hours=1)
        repository.rotated(*roles)
    repository.released(NEXT)
    return old


@pytest.mark.slow
def test_power_cut_at_every_write(old_and_new, device, trust_dir, monkeypatch):
    with monkeypatch.context() as patch:
        steps = cut_at(patch, 0, after=False)
        device().manifest(NEXT)
    written = [str(args[0]) for args in steps]
    assert sum("root_history" in each for each in written) >= 3
    assert len(steps) >= 9  # three roots, the link, timestamp, snapshot, targets, two roles
    for step in range(1, len(steps) + 1):
        for after in (False, True):
            shutil.rmtree(trust_dir)
            shutil.copytree(old_and_new, trust_dir, symlinks=True)
            with monkeypatch.context() as patch:
                cut_at(patch, step, after=after)
                with pytest.raises(PowerCutError):
                    device().manifest(NEXT)
            assert (trust_dir / "root.json").exists(), step
            assert device().manifest(NEXT), step
            left = {path.name for path in trust_dir.iterdir()}
            assert left == {
                "lock", "root.json", "root_history", "timestamp.json", "snapshot.json", "targets.json",
                "build-model.json", "approve-model.json",
            }  # fmt: skip


def test_a_device_that_was_cut_off_never_goes_back(device, repository, monkeypatch, tmp_path):
    """Yesterday's registry, right after a cut behind today's timestamp."""
    device().refresh()
    yesterday = shutil.copytree(repository.folder, tmp_path / "yesterday")
    repository.publish()
    with monkeypatch.context() as patch:
        steps = cut_at(patch, 0, after=True)
        device().refresh()
    at = next(number for number, args in enumerate(steps, 1) if str(args[0]).endswith("timestamp.json"))
    repository.publish()
    with monkeypatch.context() as patch:
        cut_at(patch, at, after=True)
        with pytest.raises(PowerCutError):
            device().refresh()
    shutil.rmtree(repository.folder)
    shutil.copytree(yesterday, repository.folder)
    with pytest.raises(TrustRefusedError) as caught:
        device().refresh()
    assert caught.value.rule is Rule.ROLLBACK


@pytest.mark.parametrize("left", [None, b"", b'{"signed": {'], ids=["missing", "empty", "half"])
@pytest.mark.parametrize("name", ["root.json", "timestamp.json", "snapshot.json", "build-model.json"])
def test_a_file_that_another_client_left_broken_is_no_obstacle(name, left, device, trust_dir):
    """Older runtimes wrote into the same folder without flushing."""
    device().manifest(ASSISTANT)
    file = trust_dir / name
    file.unlink()
    if left is not None:
        file.write_bytes(left)
    assert device().manifest(ASSISTANT)
    assert file.read_bytes() != left


def test_a_root_that_its_own_keys_did_not_sign_is_no_anchor(device, trust_dir, repository):
    device().refresh()
    good = (trust_dir / "root_history/1.root.json").read_bytes()
    (trust_dir / "root.json").unlink()
    forged = good.replace(b'"consistent_snapshot": true', b'"consistent_snapshot": false')
    forged = forged if forged != good else good.replace(b"true", b"false", 1)
    (trust_dir / "root.json").write_bytes(forged)
    assert forged != good
    assert anchor.root(trust_dir) == good


def test_another_root_placed_by_hand_leads(device, trust_dir, client_support, clock, tmp_path):
    """A fleet that begins anew: the history of the old root does not hold it back."""
    device().refresh()
    other = client_support.Repository(tmp_path / "other", clock)
    shutil.copy(other.folder / "metadata/1.root.json", tmp_path / "new-root.json")
    (trust_dir / "root.json").unlink()
    shutil.copy(tmp_path / "new-root.json", trust_dir / "root.json")
    assert anchor.root(trust_dir) == (other.folder / "metadata/1.root.json").read_bytes()


def test_what_a_kill_left_is_cleared(device, trust_dir):
    device().refresh()
    debris = [
        trust_dir / "tmpabc123",
        trust_dir / ".manifest-x0",
        trust_dir / ".timestamp.json.x1",
        trust_dir / "root_history/.2.root.json.x2",
    ]
    for path in debris:
        path.write_bytes(b"half")
    device().refresh()
    assert not any(path.exists() for path in debris)


def test_python_tuf_is_built_as_this_relies_on():
    """A release of python-tuf that moves these would silently take away durability or the floor of time."""
    overridden = ("_load_root", "_load_timestamp", "_load_snapshot", "_load_targets", "_load_local_metadata")
    for name in (*overridden, "_persist_file", "_persist_metadata", "_update_root_symlink"):
        assert callable(getattr(Updater, name)), name
    assert list(inspect.signature(Updater._persist_file).parameters) == ["self", "filename", "data"]
    assert list(inspect.signature(Updater._load_targets).parameters) == ["self", "role", "parent_role"]
    for writer in (Updater._persist_metadata, Updater._persist_root):
        assert "self._persist_file(" in inspect.getsource(writer)
    rules = inspect.getsource(TrustedMetadataSet)
    assert rules.count("is_expired(self.reference_time)") >= 4
    assert "self._trusted_set: dict" in rules
