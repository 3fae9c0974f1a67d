from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hedgerow import remote_script
from hedgerow.errors import DeviceError, UsageError
from hedgerow.registry.store import FolderStore
from hedgerow.rollout import mirror, mirror_host


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# What no device reads: whole files, candidates, the log, a lock.
KEPT = {
    f"targets/blobs/{'b' * 64}": b"weights",
    "staged/build-model.json": b"candidate",
    "log/00000001.json": b"log",
    ".lock": b"1",
}
SENT = 9


def scan(root: Path) -> list[mirror.StoreFile]:
    return mirror.scan(FolderStore(root))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "registry"
    pack = b"weights" * 1000
    sent = {
        f"targets/packs/{digest(pack)[:2]}/{digest(pack)}": pack,
        "targets/models/assistant/1.0.0/manifest.json": b"{}",
        "targets/models/assistant/1.0.0/transfer.json.zst": b"recipe",
        "metadata/1.root.json": b"root",
        "metadata/2.root.json": b"root2",
        "metadata/7.targets.json": b"targets",
        "metadata/4.build-model.json": b"build",
        "metadata/3.snapshot.json": b"snapshot",
        "metadata/timestamp.json": b"timestamp",
    }
    for name, data in (sent | KEPT).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def there(root: Path) -> dict[str, tuple[int, str | None]]:
    """The gateway's listing after its trip through JSON."""
    return {path: (size, sha) for path, (size, sha) in json.loads(json.dumps(mirror_host.listing(str(root)))).items()}


def test_data_goes_first_and_the_timestamp_last(store: Path) -> None:
    order = [file.path.rpartition("/")[2] for file in mirror.missing(scan(store), {})]
    assert order[1:] == [
        "manifest.json",
        "transfer.json.zst",
        "3.snapshot.json",
        "4.build-model.json",
        "7.targets.json",
        "1.root.json",
        "2.root.json",
        "timestamp.json",
    ]
    assert len(order[0]) == 64


def test_what_only_the_publisher_needs_stays_with_it(store: Path) -> None:
    assert not {file.path for file in scan(store)} & KEPT.keys()


def publish(store: Path, gateway: Path, staging: Path) -> list[str]:
    lacking = mirror.missing(scan(store), there(gateway))
    for file in lacking:
        staged = staging / "file"
        staged.write_bytes((store / file.path).read_bytes())
        mirror_host.place(str(gateway), file.path, str(staged), file.sha256)
    return [file.path for file in lacking]


def test_a_second_time_nothing_goes(store: Path, tmp_path: Path) -> None:
    gateway = tmp_path / "gateway"
    assert len(publish(store, gateway, tmp_path)) == SENT
    assert publish(store, gateway, tmp_path) == []
    sent = {path.relative_to(gateway): path.read_bytes() for path in gateway.rglob("*") if path.is_file()}
    whole = {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert sent == {path: data for path, data in whole.items() if str(path) not in KEPT}


def test_only_what_changed_goes(store: Path, tmp_path: Path) -> None:
    gateway = tmp_path / "gateway"
    publish(store, gateway, tmp_path)
    (store / "metadata/timestamp.json").write_bytes(b"TIMESTAMP")
    assert publish(store, gateway, tmp_path) == ["metadata/timestamp.json"]
    assert (gateway / "metadata/timestamp.json").read_bytes() == b"TIMESTAMP"


def test_a_half_written_pack_of_an_older_tool_is_sent_again(store: Path, tmp_path: Path) -> None:
    gateway = tmp_path / "gateway"
    publish(store, gateway, tmp_path)
    (pack,) = (gateway / "targets/packs").glob("*/*")
    pack.write_bytes(b"short")
    assert publish(store, gateway, tmp_path) == [pack.relative_to(gateway).as_posix()]


def test_what_was_altered_on_its_way_does_not_land(tmp_path: Path) -> None:
    gateway, staged = tmp_path / "gateway", tmp_path / "staged"
    staged.write_bytes(b"altered")
    with pytest.raises(mirror_host.MirrorError, match="another content"):
        mirror_host.place(str(gateway), "metadata/timestamp.json", str(staged), digest(b"sent"))
    assert not any(path.is_file() for path in gateway.rglob("*"))


def test_what_lands_can_be_read_by_the_web_server(store: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        publish(store, tmp_path / "gateway", tmp_path)
    finally:
        os.umask(before)
    for path in (tmp_path / "gateway").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_the_hosts_part_runs_from_its_source_alone(store: Path) -> None:
    def execute(cmd: str, *, in_data: bytes) -> dict[str, object]:
        done = subprocess.run([sys.executable, "-I", "-S", "-"], input=in_data, capture_output=True, check=False)
        return {"rc": done.returncode, "stdout": done.stdout.decode(), "stderr": done.stderr.decode()}

    run = remote_script.run
    assert (
        len(run(execute, "hedgerow.rollout.mirror_host", "listing", host="gw", root=str(store))) == SENT + len(KEPT) - 1
    )
    arguments = {"root": str(store), "path": "a", "staged": "/nonexistent", "sha256": "0"}
    with pytest.raises(DeviceError, match="cannot be written") as caught:
        run(execute, "hedgerow.rollout.mirror_host", "place", host="gw", **arguments)
    assert "free" in str(caught.value.where)


def test_a_store_without_metadata_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no metadata yet"):
        scan(tmp_path)
