"""What reaches a device over a bad line, onto a bad disk, from a registry that lies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from datetime import UTC, datetime, timedelta

import pytest

from hedgerow.errors import DeviceError, NetworkError, PublisherError, RefusedError, UsageError
from hedgerow.registry import bundle as bundles
from hedgerow.registry import fetch as fetching
from hedgerow.registry.fetch import fetch
from hedgerow.registry.reference import Reference


def now():
    return datetime.now(UTC).replace(microsecond=0)


OLD, NEW = Reference("assistant", "1.0.0"), Reference("assistant", "1.1.0")


@pytest.fixture
def get(device):
    def call(reference=OLD, **options):
        config = device.config
        options = {"models_dir": config.models_dir, "trust_dir": config.trust_dir, "reserve_mb": 1, **options}
        return fetch(device.source, reference, **options)

    return call


def blob(registry, file="model.onnx", version="1.0.0"):
    manifest = json.loads((registry.store.root / f"targets/models/assistant/{version}/manifest.json").read_text())
    return next(f"targets/blobs/{each['sha256']}" for each in manifest["files"] if each["path"] == file)


def untouched(device):
    """Nothing of the bundle is there, and nothing is left of the attempt."""
    assert device.versions() == []
    assert [path for path in device.config.models_dir.rglob("*") if path.is_file()] == []


# -- well ------------------------------------------------------------------------


def test_a_bundle_arrives_whole_and_is_not_fetched_twice(get, device, gateway):
    seen = []
    fetched = get(on_bytes=seen.append)
    assert fetched.new_bytes == fetched.bundle.manifest.size == sum(seen)
    bundles.verify_files(device.home / "1.0.0")
    gateway.asked.clear()
    assert get().new_bytes == 0
    assert not [path for path in gateway.asked if "blobs" in path]


def test_the_servers_user_can_read_it_whatever_the_umask(get, device):
    before = os.umask(0o077)
    try:
        get()
    finally:
        os.umask(before)
    for path in device.home.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


# -- a line that breaks -------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 69_999])
def test_a_line_that_is_cut(at, get, device, gateway, registry):
    gateway.cut[blob(registry)] = at
    with pytest.raises(NetworkError) as caught:
        get()
    assert "blobs" in caught.value.where
    untouched(device)
    gateway.cut.clear()
    assert get().new_bytes > 0


def test_a_gateway_that_is_off(get, device, gateway):
    gateway.shutdown()
    gateway.server_close()
    with pytest.raises(NetworkError, match="cannot be reached") as caught:
        get()
    assert caught.value.next_step
    untouched(device)


def test_a_gateway_of_another_name_is_nobody(get, device):
    object.__setattr__(device, "config", device.config.__replace__(registry_name="gw.elsewhere.meadow"))
    with pytest.raises(NetworkError, match=r"gw\.elsewhere\.meadow"):
        get()


# -- a registry that lies -------------------------------------------------------------


@pytest.mark.parametrize(
    "alter, says",
    [
        (lambda data: data[:-1], "truncated: 69999 of 70000 bytes"),
        (lambda data: data + b"x", "too long"),
        (lambda data: b"\0" + data[1:], "was altered"),
        (lambda _: b"", "truncated: 0 of 70000 bytes"),
    ],
)
def test_a_file_that_is_not_the_one_that_was_signed(alter, says, get, device, gateway, registry):  # noqa: PLR0917
    gateway.alter[blob(registry)] = alter
    with pytest.raises(PublisherError, match=says) as caught:
        get()
    assert "model.onnx" in caught.value.what
    untouched(device)


def test_f23_a_file_that_changed_at_its_address_is_refused(get, device, gateway, registry):
    """A vendor's model behind one URL changed at equal size, and units answered differently: our hash is signed."""
    gateway.alter[blob(registry)] = lambda data: data[:500] + bytes(byte ^ 1 for byte in data[500:])
    with pytest.raises(PublisherError, match="was altered"):
        get()
    untouched(device)


def test_a_file_that_is_missing(get, device, registry):
    (registry.store.root / blob(registry)).unlink()
    with pytest.raises(PublisherError, match=r"model\.onnx is named by the manifest but not in the registry"):
        get()
    untouched(device)


def test_a_manifest_that_was_altered(get, device, gateway):
    gateway.alter["targets/models/assistant/1.0.0/manifest.json"] = lambda data: data.replace(b"Paris", b"Rome!")
    with pytest.raises(RefusedError, match="do not vouch") as caught:
        get()
    assert "LengthOrHashMismatchError" in caught.value.where
    untouched(device)


def test_an_endless_manifest(get, device, gateway):
    gateway.alter["targets/models/assistant/1.0.0/manifest.json"] = lambda data: data + b" " * 10_000_000
    with pytest.raises(RefusedError, match="more than it signed"):
        get()
    untouched(device)


@pytest.mark.parametrize("role", ["timestamp", "2.snapshot", "2.targets"])
def test_metadata_that_was_altered(role, get, device, gateway):
    def later(data):
        document = json.loads(data)
        document["signed"]["expires"] = "2099-01-01T00:00:00Z"
        return json.dumps(document).encode()

    gateway.alter[f"metadata/{role}.json"] = later
    with pytest.raises(RefusedError, match="do not vouch") as caught:
        get()
    assert "rule: " in caught.value.where
    untouched(device)


def test_a_registry_that_another_key_signed(get, device, gateway, make_registry, make_bundle):
    get()
    stranger = make_registry("stranger")
    stranger.publish(make_bundle("1.1.0"))
    gateway.root = stranger.store.root
    with pytest.raises(RefusedError, match="do not vouch") as caught:
        get(NEW)
    assert "UnsignedMetadataError" in caught.value.where
    assert device.versions() == ["1.0.0"]


def test_a_signed_bundle_under_another_name(get, device, registry, gateway, make_bundle):
    """Mix and match: the manifest of one version where another's belongs."""
    registry.publish(make_bundle("1.1.0"))
    old = (registry.store.root / "targets/models/assistant/1.0.0/manifest.json").read_bytes()
    gateway.alter["targets/models/assistant/1.1.0/manifest.json"] = lambda _: old
    with pytest.raises(RefusedError):
        get(NEW)
    untouched(device)


def test_a_rollback_of_the_metadata(get, device, registry, gateway, make_bundle):
    """Yesterday's registry, whole and well signed: a device that saw today's refuses it."""
    yesterday = shutil.copytree(registry.store.root, device.root / "yesterday")
    registry.publish(make_bundle("1.1.0"))
    get(NEW)
    gateway.root = yesterday
    with pytest.raises(RefusedError, match="do not vouch") as caught:
        get(OLD)
    assert "BadVersionNumberError" in caught.value.where
    assert device.versions() == ["1.1.0"]


def test_a_snapshot_that_went_back(get, device, registry, gateway, make_bundle):
    registry.publish(make_bundle("1.1.0"))
    old = (registry.store.root / "metadata/2.snapshot.json").read_bytes()
    gateway.alter["metadata/3.snapshot.json"] = lambda _: old
    with pytest.raises(RefusedError):
        get(NEW)
    untouched(device)


def test_a_frozen_registry(device, gateway, make_registry, make_bundle, get):
    """Nothing is wrong but its age: the timestamp was signed two days ago."""
    frozen = make_registry("frozen", at=lambda: now() - timedelta(days=2))
    frozen.publish(make_bundle("1.1.0"))
    shutil.copy(frozen.store.root / "metadata/1.root.json", device.config.trust_dir / "root.json")
    gateway.root = frozen.store.root
    with pytest.raises(RefusedError, match=r"timestamp\.json is expired"):
        get(NEW)
    untouched(device)
    frozen._now = now
    frozen.refresh()
    assert get(NEW).new_bytes > 0


def test_a_bundle_that_nobody_published(get, device):
    with pytest.raises(RefusedError, match=r"the registry has no assistant@1\.1\.0"):
        get(NEW)
    untouched(device)


def test_a_device_without_a_root_of_trust_trusts_nobody(get, device, gateway):
    (device.config.trust_dir / "root.json").unlink()
    with pytest.raises(UsageError, match="no root of trust"):
        get()
    assert gateway.asked == []


@pytest.mark.parametrize("left", [None, b""], ids=["missing", "empty"])
def test_a_root_that_a_power_cut_took_is_found_again(left, get, device):
    get()
    root = device.config.trust_dir / "root.json"
    root.unlink()
    if left is not None:
        root.write_bytes(left)
    assert get().new_bytes == 0


# -- the disk ---------------------------------------------------------------------------


@pytest.fixture
def small_disk(device):
    """A file system of one MiB where the models go."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", str(device.config.models_dir)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("no right to mount a small file system here")
    yield device.config.models_dir
    subprocess.run(["umount", str(device.config.models_dir)], check=True)


def test_too_little_space_is_known_before_the_download(get, device, gateway, registry, make_bundle):
    free = shutil.disk_usage(device.config.models_dir).free
    with pytest.raises(DeviceError, match=r"needs \d+ MB .* \d+ MB are free") as caught:
        get(reserve_mb=free // (1 << 20) + 1)
    assert str(device.home) in caught.value.where
    assert "remove versions" in caught.value.next_step
    assert not [path for path in gateway.asked if "blobs" in path]
    untouched(device)


def test_a_disk_that_fills_up_meanwhile(get, device, registry, make_bundle, small_disk, monkeypatch):  # noqa: PLR0917
    registry.publish(make_bundle("1.1.0", size=3_000_000))
    get(OLD, reserve_mb=0)
    monkeypatch.setattr(fetching, "_check_space", lambda *_: None)  # as if it had been free a moment ago
    with pytest.raises(DeviceError, match="disk became full; nothing was left half-written") as caught:
        get(NEW)
    assert "remove versions" in caught.value.next_step
    assert device.versions() == ["1.0.0"]
    assert [path.name for path in small_disk.rglob("*") if path.name.startswith(".")] == []
    bundles.verify_files(device.home / "1.0.0")


def test_a_version_that_was_damaged_is_replaced(get, device):
    get()
    (device.home / "1.0.0" / "model.onnx").write_bytes(b"rotten")
    assert get().new_bytes > 0
    bundles.verify_files(device.home / "1.0.0")
    assert device.versions() == ["1.0.0"]


# -- other processes -----------------------------------------------------------------------


def test_a_second_fetch_waits_and_then_says_who_is_at_it(get, device, gateway, registry, monkeypatch):
    monkeypatch.setattr(fetching, "LOCK_WAIT_S", 0.2)
    answered, go_on = threading.Event(), threading.Event()

    def slowly(data):
        answered.set()
        assert go_on.wait(10)
        return data

    gateway.alter[blob(registry)] = slowly
    first = threading.Thread(target=get)
    first.start()
    assert answered.wait(10)
    with pytest.raises(DeviceError, match=r"fetching .* not finished within 0\.2 s") as caught:
        get()
    assert str(os.getpid()) in caught.value.where
    go_on.set()
    first.join()
    bundles.verify_files(device.home / "1.0.0")


def test_what_is_here_is_verified_without_a_registry_and_nothing_is_fetched(command, device):
    """``stage --here``: what a rollout asks of a host that it has staged ahead."""
    missing = command("stage", "assistant@1.0.0", "--here")
    assert missing.code == 1
    assert "not every byte of assistant@1.0.0 is on this device" in missing.stderr
    assert device.versions() == []
    assert command("stage", "assistant@1.0.0").code == 0
    nowhere = ("--registry-url", "https://127.0.0.1:1")
    here = command("stage", "assistant@1.0.0", "--here", *nowhere)
    assert (here.code, here.json["changed"], here.json["new_bytes"]) == (0, False, 0), here.stderr
    file = next(path for path in sorted((device.home / "1.0.0").iterdir()) if path.name != "manifest.json")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert command("stage", "assistant@1.0.0", "--here", *nowhere).code == 1


@pytest.mark.slow
def test_killed_at_every_step_of_a_fetch(command, device):
    """The next fetch clears up and goes on; a version that is visible is whole."""
    trust = shutil.copytree(device.config.trust_dir, device.root / "trust-before")
    whole = command("stage", "assistant@1.0.0")
    assert whole.code == 0, whole.stderr
    for step in range(1, whole.steps + 1):
        shutil.rmtree(device.home, ignore_errors=True)
        shutil.rmtree(device.config.trust_dir)
        shutil.copytree(trust, device.config.trust_dir)
        assert command("stage", "assistant@1.0.0", kill_at=step).code == -9
        for version in device.versions():
            if not version.startswith("."):
                bundles.verify_files(device.home / version)
        again = command("stage", "assistant@1.0.0")
        assert again.code == 0, (step, again.stderr)
        assert device.versions() == ["1.0.0"], step
        bundles.verify_files(device.home / "1.0.0")
        left = [path.name for path in device.config.trust_dir.iterdir()]
        assert sorted(left) == ["lock", "root.json", "root_history", "snapshot.json", "targets.json", "timestamp.json"]


# -- the command ---------------------------------------------------------------------------


def test_a_wrong_signature_is_refused_and_the_old_model_keeps_serving(  # noqa: PLR0917
    command, server, device, gateway, make_bundle, registry
):
    assert command("activate", "assistant@1.0.0").code == 0
    command("confirm", "assistant@1.0.0")
    registry.publish(make_bundle("1.1.0"))

    def badly_signed(data):
        document = json.loads(data)
        document["signatures"][0]["sig"] = "00" * 64
        return json.dumps(document).encode()

    gateway.alter["metadata/3.targets.json"] = badly_signed
    done = command("activate", "assistant@1.1.0")
    assert done.code == 3
    assert "do not vouch for assistant@1.1.0" in done.error["what"]
    assert (server.serving, device.current, device.versions()) == ("1.0.0", "1.0.0", ["1.0.0"])
