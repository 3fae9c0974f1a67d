"""Backups that are cut off, altered, for another key, or find no room: a clear word, and nothing half-done."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from hedgerow.backup import reading, restore, snapshot
from hedgerow.backup.age import Writer
from hedgerow.backup.age_keys import DamagedError, Identity, Recipient
from hedgerow.backup.create import create
from hedgerow.backup.manifest import NAME, Item, Manifest, ManifestError, encode
from hedgerow.chainlog import ChainLog
from hedgerow.errors import MachineError, RefusedError, UsageError
from hedgerow.identity.ca import FleetCA

FLEET = "meadow-unit"
BY = "ada@desk"


@pytest.fixture
def var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    return tmp_path / "var"


@pytest.fixture
def fleet(var: Path) -> Path:
    folder = var / "fleets" / FLEET
    FleetCA.init(folder, FLEET)
    (folder / "rollouts").mkdir()
    (folder / "rollouts" / "holds.jsonl").write_text('{"kind":"hold"}\n{"kind":"rel')
    (folder / "ca" / ".ca.key.abcd").write_text("half-written")
    (folder / "ca" / "issuing").mkdir()
    (folder / "ca" / "issuing" / "orchard-12ab").mkdir()
    (folder / "ca" / "issuing" / "orchard-12ab" / "ca.crt").write_text("x")
    (folder / "ca" / "issuing" / "orchard").symlink_to("orchard-12ab")
    return folder


@pytest.fixture
def identity() -> Identity:
    return Identity.generate()


@pytest.fixture
def made(fleet: Path, identity: Identity, tmp_path: Path) -> Path:
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory" / "hosts.yml").write_text("all: {}\n")
    create(FLEET, fleet, tmp_path / "inventory", tmp_path / "b.age", [Recipient(identity.recipient)], by=BY)
    return tmp_path / "b.age"


def bring_back(path: Path, identity: Identity, var: Path, **options: object) -> restore.Restored:
    return restore.restore(path, [identity], var, by=BY, sha256="5a" * 32, **options)


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_what_links_lead_to_outside_comes_along(fleet, identity, var, tmp_path):
    """Variables that inventories share, and a registry on another disk: a new controller has neither."""
    (tmp_path / "shared" / "group_vars").mkdir(parents=True)
    (tmp_path / "shared" / "group_vars" / "all.yml").write_text("fleet: x\n")
    (tmp_path / "shared" / "group_vars" / "pis.yml").symlink_to("all.yml")
    (tmp_path / "disk" / "metadata").mkdir(parents=True)
    (tmp_path / "disk" / "metadata" / "1.root.json").write_text("{}")
    inventory = tmp_path / "inventory"
    (inventory / "host_vars").mkdir(parents=True)
    (inventory / "hosts.yml").write_text("all: {}\n")
    (inventory / "group_vars").symlink_to("../shared/group_vars")
    (inventory / "host_vars" / "pi-1.yml").symlink_to(tmp_path / "shared" / "group_vars" / "all.yml")
    (inventory / "same").symlink_to("host_vars")
    (fleet / "registry").symlink_to(tmp_path / "disk")
    create(FLEET, fleet, inventory, tmp_path / "b.age", [Recipient(identity.recipient)], by=BY)
    shutil.rmtree(tmp_path / "shared")
    shutil.rmtree(tmp_path / "disk")
    shutil.rmtree(fleet)
    back = bring_back(tmp_path / "b.age", identity, var, inventory=tmp_path / "back")
    for name in ("group_vars/all.yml", "group_vars/pis.yml", "host_vars/pi-1.yml", "same/pi-1.yml"):
        assert (Path(back.inventory) / name).read_text() == "fleet: x\n"
    assert (Path(back.inventory) / "same").is_symlink(), "what stays inside stays a link"
    assert (fleet / "registry" / "metadata" / "1.root.json").read_text() == "{}"


@pytest.mark.parametrize("target, says", [("../nowhere", "No such file"), ("..", "a folder that it lies in")])
def test_a_link_that_leads_nowhere_or_round_in_circles_is_told(fleet, identity, tmp_path, target, says):
    (tmp_path / "outer" / "inventory").mkdir(parents=True)
    (tmp_path / "outer" / "inventory" / "link").symlink_to(target)
    with pytest.raises(MachineError, match=says) as caught:
        create(
            FLEET, fleet, tmp_path / "outer" / "inventory", tmp_path / "b.age", [Recipient(identity.recipient)], by=BY
        )
    assert "inventory/link" in str(caught.value.where)
    assert "ls -l" in str(caught.value.next_step)
    assert not (tmp_path / "b.age").exists()


def test_what_is_in_it(made, fleet, identity, var):
    manifest = reading.verify(made, [identity])
    items = {item.path: item for item in manifest.items}
    assert items["fleet/rollouts/holds.jsonl"].size == len('{"kind":"hold"}\n')
    assert items["fleet/ca/issuing/orchard"].link == "orchard-12ab"
    assert "inventory/hosts.yml" in items
    assert not any("/." in name for name in items)
    shutil.rmtree(fleet)
    bring_back(made, identity, var)
    assert (fleet / "ca" / "issuing" / "orchard" / "ca.crt").read_text() == "x"
    assert (fleet / "ca" / "ca.key").stat().st_mode & 0o777 == 0o600
    assert made.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_one_that_is_cut_off_restores_nothing(made, fleet, identity, var, share):
    made.write_bytes(made.read_bytes()[: int(made.stat().st_size * share)])
    shutil.rmtree(fleet)
    with pytest.raises(DamagedError):
        bring_back(made, identity, var)
    assert list((var / "fleets").iterdir()) == []


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_one_that_was_altered_restores_nothing(made, fleet, identity, var, share):
    data = bytearray(made.read_bytes())
    data[int(len(data) * share)] ^= 1
    made.write_bytes(data)
    shutil.rmtree(fleet)
    with pytest.raises((DamagedError, UsageError)):
        bring_back(made, identity, var)
    assert list((var / "fleets").iterdir()) == []


def test_the_wrong_key_opens_nothing(made, var):
    with pytest.raises(UsageError, match="this key is not one"):
        reading.verify(made, [Identity.generate()])
    with pytest.raises(UsageError, match="no such backup"):
        reading.verify(made.with_name("other"), [Identity.generate()])


def test_nothing_is_overwritten(made, fleet, identity, var, tmp_path):
    with pytest.raises(RefusedError, match="has a fleet meadow-unit already"):
        bring_back(made, identity, var)
    with pytest.raises(RefusedError, match="a backup overwrites nothing"):
        create(FLEET, fleet, tmp_path / "inventory", made, [Recipient(identity.recipient)], by=BY)
    done = bring_back(made, identity, var, replace=True)
    assert (done.aside / "ca" / ".ca.key.abcd").exists()
    FleetCA.open(fleet)


def test_what_is_newer_is_not_replaced(made, fleet, identity, var):
    with (fleet / "rollouts" / "holds.jsonl").open("a") as file:
        file.write('ease"}\n')
    with pytest.raises(RefusedError, match=r"knows of more than the backup .*holds\.jsonl is longer"):
        bring_back(made, identity, var, replace=True)


class Full:
    """``open`` of a disk that is full once ``room`` bytes were written; what it stands for is ENOSPC of write(2)."""

    def __init__(self, room: int) -> None:
        self.room, self._fdopen = room, os.fdopen

    def __call__(self, descriptor: int, mode: str = "r", *rest: object, **options: object):
        file = self._fdopen(descriptor, mode, *rest, **options)
        if "w" not in mode:
            return file
        full = self

        class Limited:
            def __enter__(self):
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def __getattr__(self, name: str):
                return getattr(file, name)

            def write(self, data: bytes) -> int:
                full.room -= len(data)
                if full.room < 0:
                    raise OSError(28, os.strerror(28))
                return file.write(data)

        return Limited()


@pytest.mark.parametrize("room", [0, 100, 700])
def test_a_full_disk_leaves_no_backup_and_nothing_half_written(fleet, identity, tmp_path, monkeypatch, room):
    monkeypatch.setattr(os, "fdopen", Full(room))
    with pytest.raises(MachineError, match="cannot be written: No space left on device"):
        create(FLEET, fleet, tmp_path / "none", tmp_path / "b.age", [Recipient(identity.recipient)], by=BY)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".age") or path.name[0] == "."] == []


@pytest.mark.parametrize("room", [0, 100, 700])
def test_a_full_disk_restores_nothing(made, identity, var, monkeypatch, room):
    shutil.rmtree(var / "fleets" / FLEET)
    monkeypatch.setattr(os, "fdopen", Full(room))
    with pytest.raises(MachineError, match="cannot be restored: No space left on device"):
        bring_back(made, identity, var)
    assert list((var / "fleets").iterdir()) == []


def forged(path: Path, identity: Identity, members: list[tuple[tarfile.TarInfo, bytes]], items: list[Item]) -> None:
    """A backup that somebody with the recipient's public key made."""
    manifest = Manifest(fleet=FLEET, at="t", by=BY, version="0", audit_head="0:" + "0" * 64, items=items)
    with path.open("wb") as file:
        writer = Writer(file, [Recipient(identity.recipient)])
        with tarfile.open(fileobj=writer, mode="w|gz") as archive:
            data = encode(manifest)
            info = tarfile.TarInfo(NAME)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            for member, content in members:
                archive.addfile(member, io.BytesIO(content))
        writer.finish()


@pytest.mark.parametrize(
    "item",
    [
        Item("fleet/../../evil"),
        Item("/etc/passwd"),
        Item("other/file"),
        Item("fleet/ca/x", link="../../../etc"),
        Item("fleet/x", link="/etc"),
    ],
)
def test_a_forged_one_writes_nothing_outside(identity, var, tmp_path, item):
    forged(tmp_path / "evil.age", identity, [(tarfile.TarInfo(item.path), b"")], [item])
    with pytest.raises(ManifestError, match="leads out of its folder"):
        bring_back(tmp_path / "evil.age", identity, var)
    assert not var.exists()


def test_a_file_that_the_manifest_does_not_name_or_hash_is_refused(identity, var, tmp_path):
    file = tarfile.TarInfo("fleet/ca/ca.crt")
    file.size = 1
    forged(tmp_path / "a.age", identity, [(file, b"x")], [])
    with pytest.raises(ManifestError, match="does not name"):
        bring_back(tmp_path / "a.age", identity, var)
    forged(tmp_path / "b.age", identity, [(file, b"x")], [Item("fleet/ca/ca.crt", 1, "5a" * 32)])
    with pytest.raises(ManifestError, match="has not the hash"):
        bring_back(tmp_path / "b.age", identity, var)
    forged(tmp_path / "c.age", identity, [], [Item("fleet/ca/ca.crt", 1, "5a" * 32)])
    with pytest.raises(ManifestError, match="is not in the backup"):
        bring_back(tmp_path / "c.age", identity, var)


def test_a_log_that_grows_meanwhile_is_taken_as_it_was_and_its_anchor_fits(fleet, identity, var, tmp_path, monkeypatch):
    import msgspec

    class Did(msgspec.Struct):
        what: str

    log = ChainLog[Did](fleet / "rollouts" / "log.jsonl", Did)
    log.append(Did("before"))
    real = snapshot._look

    def look(*arguments: object, **options: object) -> snapshot.Snapshot:
        found = real(*arguments, **options)
        log.append(Did("after"))
        return found

    monkeypatch.setattr(snapshot, "_look", look)
    create(FLEET, fleet, tmp_path / "none", tmp_path / "b.age", [Recipient(identity.recipient)], by=BY)
    shutil.rmtree(fleet)
    bring_back(tmp_path / "b.age", identity, var)
    assert [each.value.what for each in log.entries()] == ["before"]
    assert log.check().holds
