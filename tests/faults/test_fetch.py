"""What reaches a device over a bad line, from a registry that lies, and from one that is only old.

Signatures, one by one, are test_attacks; packs and patches over this line are test_stage_registry.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from datetime import UTC, datetime, timedelta

import pytest
import stages
from tests.faults.conftest import points

from hedgerow.device import cli_store
from hedgerow.device.change import Change
from hedgerow.device.store import stage as staging
from hedgerow.errors import DeviceError, NetworkError, PublisherError, UsageError
from hedgerow.registry import bundle as bundles
from hedgerow.registry.client.errors import Rule, TrustRefusedError
from hedgerow.registry.transfer import codec
from hedgerow.registry.transfer.recipe import pack_path

OLD, NEW = "assistant@1.0.0", "assistant@1.1.0"


def now():
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def get(device):
    """As ``stage`` and ``activate`` fetch."""
    return lambda reference=OLD, **options: cli_store.fetch(device.config, Change.parse(reference), None, **options)


def pack(registry, version="1.0.0"):
    """The pack that has the version's model."""
    path = registry.root / f"targets/models/assistant/{version}/transfer.json.zst"
    recipe = codec.decode(path.read_bytes(), where=str(path))
    file = next(each for each in recipe.files if each.path == "model.onnx")
    return f"targets/{pack_path(recipe.packs[file.segments[0].pack].sha256)}"


def untouched(device):
    """Nothing of the bundle is there, but what may be gone on with."""
    assert device.versions() == []
    assert device.current is None


# -- well ------------------------------------------------------------------------


def test_a_bundle_arrives_whole_and_is_not_fetched_twice(get, device, gateway):
    staged = get()
    assert (staged.changed, staged.new_bytes) == (True, bundles.load(device.home / "1.0.0").manifest.size)
    bundles.verify_files(device.home / "1.0.0")
    gateway.asked.clear()
    assert get().changed is False
    assert gateway.asked
    assert not [path for path in gateway.asked if "packs" in path]


def test_whole_files_are_never_asked_for(get, registry, make_bundle, gateway):
    """A gateway's mirror has none."""
    registry.publish(make_bundle("1.1.0"))
    get(OLD)
    get(NEW)
    assert [path for path in gateway.asked if "packs" in path]
    assert not [path for path in gateway.asked if "blobs" in path]


def test_the_servers_user_can_read_it_whatever_the_umask(get, device):
    before = os.umask(0o077)
    try:
        get()
    finally:
        os.umask(before)
    for path in device.home.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path
    for path in (device.config.models_dir / ".store", device.config.models_dir / ".store" / "written.json"):
        assert path.stat().st_mode & 0o004, "the exporter reads it, as a user of its own"


# -- a line that breaks -------------------------------------------------------------


def test_a_gateway_that_is_off(get, device, gateway):
    gateway.shutdown()
    gateway.server_close()
    with pytest.raises(NetworkError, match="cannot be reached") as caught:
        get()
    assert caught.value.next_step
    untouched(device)


def test_a_gateway_of_another_name_is_nobody(device):
    config = device.config.__replace__(registry_name="gw.elsewhere.meadow")
    with pytest.raises(NetworkError, match=r"gw\.elsewhere\.meadow"):
        cli_store.fetch(config, Change.parse(OLD), None)


# -- a registry that lies -------------------------------------------------------------


@pytest.mark.parametrize(
    "alter, says",
    [
        (lambda data: data[:-1], "truncated"),
        (lambda _: b"", "truncated|ends before"),
    ],
)
def test_a_pack_that_is_too_short(alter, says, get, device, gateway, registry):  # noqa: PLR0917
    gateway.alter[pack(registry)] = alter
    with pytest.raises(PublisherError, match=says):
        get()
    untouched(device)
    gateway.alter.clear()
    assert get().changed


def test_f23_a_file_that_changed_at_its_address_is_refused(get, device, gateway, registry):
    """A vendor's model behind one URL changed at equal size, and units answered differently: our hash is signed."""
    gateway.alter[pack(registry)] = lambda data: bytes(byte ^ 1 for byte in data)
    with pytest.raises(PublisherError, match="was altered"):
        get()
    untouched(device)
    gateway.alter.clear()
    assert get().changed


def test_a_pack_that_is_missing(get, device, registry):
    (registry.root / pack(registry)).unlink()
    with pytest.raises(PublisherError, match="a pack that the recipe names is not in the registry"):
        get()
    untouched(device)


def test_a_registry_that_other_keys_signed(get, device, gateway, make_bundle, tmp_path):
    get()
    stranger = stages.found(tmp_path / "stranger", fresh=True)
    stranger.publish(make_bundle("1.1.0"))
    gateway.root = stranger.root
    with pytest.raises(TrustRefusedError) as caught:
        get(NEW)
    assert caught.value.rule is Rule.SIGNATURE
    assert device.versions() == ["1.0.0"]


def test_a_frozen_registry(device, gateway, make_bundle, get, tmp_path):
    """Nothing is wrong but its age: the timestamp was signed two days ago."""
    frozen = stages.found(tmp_path / "frozen", now=lambda: now() - timedelta(days=2))
    frozen.publish(make_bundle("1.1.0"))
    frozen.anchor(device.config.trust_dir)
    gateway.root = frozen.root
    with pytest.raises(TrustRefusedError) as caught:
        get(NEW)
    assert caught.value.rule in {Rule.EXPIRED, Rule.CLOCK}
    untouched(device)
    frozen.session.now = now
    frozen.refresh()
    assert get(NEW).changed


def test_a_release_that_was_withdrawn_stays_where_it_is_and_goes_nowhere_else(get, command, device, registry):
    get()
    registry.withdraw(OLD)
    assert command("stage", OLD, "--here").code == 0, "nobody takes it from a device"
    shutil.rmtree(device.home)
    with pytest.raises(TrustRefusedError) as caught:
        get()
    assert caught.value.rule is Rule.NOT_APPROVED
    untouched(device)


def test_a_bundle_that_nobody_published(get, device):
    with pytest.raises(TrustRefusedError) as caught:
        get(NEW)
    assert caught.value.rule is Rule.UNKNOWN
    untouched(device)


def test_a_device_without_a_root_of_trust_trusts_nobody(get, device, gateway):
    (device.config.trust_dir / "root.json").unlink()
    with pytest.raises(UsageError, match="no root of trust"):
        get()
    assert gateway.asked == []


# -- other processes -----------------------------------------------------------------------


def test_a_second_fetch_waits_and_then_says_who_is_at_it(get, device, gateway, registry, monkeypatch):
    monkeypatch.setattr(staging, "LOCK_WAIT_S", 0.2)
    answered, go_on = threading.Event(), threading.Event()

    def slowly(data):
        answered.set()
        assert go_on.wait(30)
        return data

    gateway.alter[pack(registry)] = slowly
    first = threading.Thread(target=get)
    first.start()
    assert answered.wait(30)
    with pytest.raises(DeviceError, match=r"fetching .* not finished within 0\.2 s") as caught:
        get()
    assert str(os.getpid()) in caught.value.where
    go_on.set()
    first.join()
    bundles.verify_files(device.home / "1.0.0")


def test_what_is_here_is_verified_without_a_registry_and_nothing_is_fetched(command, device):
    """``stage --here``: what a rollout asks of a host that it has staged ahead."""
    missing = command("stage", OLD, "--here")
    assert missing.code == 1
    assert f"not every byte of {OLD} is on this device" in missing.stderr
    assert device.versions() == []
    assert command("stage", OLD).code == 0
    nowhere = ("--registry-url", "https://127.0.0.1:1")
    here = command("stage", OLD, "--here", *nowhere)
    assert (here.code, here.json["changed"], here.json["new_bytes"]) == (0, False, 0), here.stderr
    file = next(path for path in sorted((device.home / "1.0.0").iterdir()) if path.name != "manifest.json")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert command("stage", OLD, "--here", *nowhere).code == 1


TRUSTED = [
    "approve-model.json", "build-model.json", "lock", "root.json", "root_history", "snapshot.json", "targets.json",
    "timestamp.json",
]  # fmt: skip


@pytest.mark.slow
def test_killed_at_every_step_of_a_fetch(command, device):
    """The next fetch clears up and goes on; a version that is visible is whole. Between them, writes are torn by
    test_stage_killed."""
    trust = shutil.copytree(device.config.trust_dir, device.root / "trust-before")
    whole = command("stage", OLD)
    assert whole.code == 0, whole.stderr
    assert whole.steps > 30, "nothing was counted, so nothing would be killed"
    for step in points(whole.steps, 20):
        shutil.rmtree(device.config.models_dir)
        device.config.models_dir.mkdir()
        shutil.rmtree(device.config.trust_dir)
        shutil.copytree(trust, device.config.trust_dir)
        assert command("stage", OLD, kill_at=step).code == -9
        for version in device.versions():
            bundles.verify_files(device.home / version)
        again = command("stage", OLD)
        assert again.code == 0, (step, again.stderr)
        assert (device.versions(), device.debris()) == (["1.0.0"], []), step
        bundles.verify_files(device.home / "1.0.0")
        assert sorted(path.name for path in device.config.trust_dir.iterdir()) == TRUSTED


# -- the command ---------------------------------------------------------------------------


def test_a_wrong_signature_is_refused_and_the_old_model_keeps_serving(  # noqa: PLR0917
    command, server, device, gateway, make_bundle, registry
):
    assert command("activate", OLD).code == 0
    command("confirm", OLD)
    registry.publish(make_bundle("1.1.0"))

    def badly_signed(data):
        document = json.loads(data)
        document["signatures"][0]["sig"] = "00" * 64
        return json.dumps(document).encode()

    gateway.alter["metadata/timestamp.json"] = badly_signed
    done = command("activate", NEW)
    assert done.code == 3
    assert "(rule: signature)" in done.error["where"]
    assert (server.serving, device.current, device.versions()) == ("1.0.0", "1.0.0", ["1.0.0"])
